/**
 * What is to be seen in a scene, in one sentence: each thing from left to right, with its place. A question asks for one word of a picture; a
 * description holds all of them, so a tower learns several times as much from it.
 */
import type { Random } from './random.js';
import type { Scene, Thing } from './scenes.js';

const REQUESTS: readonly string[] = [
  'Describe the picture.',
  'What is in the picture? Say where.',
  'Tell me all that you see.',
  'Describe what you see.',
];

/** A thing stands in the middle, across or down, up to so far off it: a share of the picture. */
const MIDDLE = 0.12;

export interface PictureDescription {
  readonly question: string;
  readonly answer: string;
}

/** One of the ways to ask for it, picked by chance, and the one answer. */
export function describe(scene: Scene, random: Random): PictureDescription {
  const things = [...scene.things].sort((a, b) => a.x - b.x);
  const named = things.map((thing) => {
    const article = thing.colour === 'orange' ? 'an' : 'a';
    return `${article} ${thing.colour} ${thing.shape} ${placeOf(thing, scene)}`;
  });
  return { question: random.pick(REQUESTS), answer: `I see ${named.join(', ')}.` };
}

/** In which of nine parts of the picture a thing stands: `at the top left`, `on the right`, `in the middle`. */
function placeOf({ x, y }: Thing, { width, height }: Scene): string {
  const [dx, dy] = [x / width - 0.5, y / height - 0.5];
  const across = Math.abs(dx) < MIDDLE ? '' : dx < 0 ? 'left' : 'right';
  const down = Math.abs(dy) < MIDDLE ? '' : dy < 0 ? 'top' : 'bottom';
  if (down === '') return across === '' ? 'in the middle' : `on the ${across}`;
  return across === '' ? `at the ${down}` : `at the ${down} ${across}`;
}
