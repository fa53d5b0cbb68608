/**
 * Pictures from nothing: filled shapes with smooth edges on a ground that changes gently from one side to the other. A pixel's share of a shape
 * follows from its distance to the outline, so the same scene is the same bytes everywhere.
 */

/** Red, green, blue from 0 to 255. */
export type Rgb = readonly [number, number, number];

/** [x, y], y downwards. */
export type Point = readonly [number, number];

/** Hue in degrees, saturation and lightness from 0 to 1. */
export function hslToRgb(hue: number, saturation: number, lightness: number): Rgb {
  const chroma = saturation * Math.min(lightness, 1 - lightness);
  const channel = (n: number): number => {
    const k = (n + (((hue % 360) + 360) % 360) / 30) % 12;
    return Math.round(255 * (lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

export class Canvas {
  readonly width: number;
  readonly height: number;
  /** RGB, row by row from the top. */
  readonly pixels: Uint8Array;

  constructor(width: number, height: number) {
    this.width = width;
    this.height = height;
    this.pixels = new Uint8Array(width * height * 3);
  }

  at(x: number, y: number): Rgb {
    const i = (y * this.width + x) * 3;
    return [this.pixels[i]!, this.pixels[i + 1]!, this.pixels[i + 2]!];
  }

  /** Covers all with colours from `from` to `to` along a direction (an angle in radians). */
  fillGradient(from: Rgb, to: Rgb, angle: number): void {
    const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
    const reach = Math.abs(dx) * this.width + Math.abs(dy) * this.height;
    for (let y = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++) {
        const along = (x + 0.5 - this.width / 2) * dx + (y + 0.5 - this.height / 2) * dy;
        const share = 0.5 + along / reach;
        const i = (y * this.width + x) * 3;
        for (let c = 0; c < 3; c++) this.pixels[i + c] = Math.round(from[c]! + (to[c]! - from[c]!) * share);
      }
    }
  }

  fillCircle(x: number, y: number, radius: number, color: Rgb): void {
    this.#fill([x - radius, y - radius, x + radius, y + radius], color, (px, py) => Math.hypot(px - x, py - y) - radius);
  }

  /** Fills a closed outline that does not cross itself. */
  fillPolygon(outline: readonly Point[], color: Rgb): void {
    const xs = outline.map(([x]) => x);
    const ys = outline.map(([, y]) => y);
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)] as const;
    this.#fill(box, color, (x, y) => distanceToPolygon(outline, x, y));
  }

  /** Blends the colour in wherever the distance (negative inside) is below half a pixel: a pixel's width of edge. */
  #fill(
    [left, top, right, bottom]: readonly [number, number, number, number],
    color: Rgb,
    distance: (x: number, y: number) => number,
  ): void {
    const [x0, x1] = [Math.max(0, Math.floor(left - 1)), Math.min(this.width, Math.ceil(right + 1))];
    const [y0, y1] = [Math.max(0, Math.floor(top - 1)), Math.min(this.height, Math.ceil(bottom + 1))];
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) {
        const share = Math.min(1, 0.5 - distance(x + 0.5, y + 0.5));
        if (share <= 0) continue;
        const i = (y * this.width + x) * 3;
        for (let c = 0; c < 3; c++) {
          const ground = this.pixels[i + c]!;
          this.pixels[i + c] = Math.round(ground + (color[c]! - ground) * share);
        }
      }
    }
  }
}

/** Distance of a point to an outline, negative inside (https://iquilezles.org/articles/distfunctions2d, "polygon"). */
function distanceToPolygon(outline: readonly Point[], x: number, y: number): number {
  let least = Number.POSITIVE_INFINITY;
  let sign = 1;
  for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
    const [ax, ay] = outline[i]!;
    const [bx, by] = outline[j]!;
    const [ex, ey] = [bx - ax, by - ay];
    const [wx, wy] = [x - ax, y - ay];
    const along = Math.min(1, Math.max(0, (wx * ex + wy * ey) / (ex * ex + ey * ey)));
    const [dx, dy] = [wx - ex * along, wy - ey * along];
    least = Math.min(least, dx * dx + dy * dy);
    const above = y >= ay;
    const below = y < by;
    const left = ex * wy > ey * wx;
    if ((above && below && left) || (!above && !below && !left)) sign = -sign;
  }
  return sign * Math.sqrt(least);
}
