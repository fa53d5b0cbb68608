/** Pictures and videos as a vision tower counts them. */

/** Patches along time, height and width. A picture has one in time. */
export type Grid = readonly [t: number, h: number, w: number];

/** The patches of all grids. */
export function patchesOf(grids: readonly Grid[]): number {
  return grids.reduce((sum, [t, h, w]) => sum + t * h * w, 0);
}
