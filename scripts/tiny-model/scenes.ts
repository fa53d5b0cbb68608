/**
 * What is drawn for the tiny model to see: one to five shapes of eight colours, side by side on a plain ground. A scene knows the name of
 * everything in it, so that questions about it have answers (picture_questions.ts).
 */
import { hash32, type Random } from './random.js';
import { Canvas, hslToRgb, type Point, type Rgb } from './raster.js';

export const SHAPE_NAMES = ['circle', 'square', 'triangle', 'star', 'heart', 'cross'] as const;
export type ShapeName = (typeof SHAPE_NAMES)[number];

/** Ranges of hue (degrees), saturation and lightness: what a colour's name means here. They do not touch, so that no name is in doubt. */
const COLOUR_RANGES = {
  red: [-6, 6, 0.78, 0.95, 0.4, 0.5],
  orange: [24, 32, 0.9, 1, 0.48, 0.55],
  yellow: [50, 57, 0.88, 1, 0.48, 0.58],
  green: [112, 145, 0.5, 0.85, 0.28, 0.42],
  blue: [212, 232, 0.75, 0.95, 0.4, 0.55],
  purple: [272, 286, 0.5, 0.75, 0.32, 0.44],
  pink: [326, 342, 0.8, 1, 0.7, 0.78],
  black: [0, 360, 0, 0.15, 0.02, 0.1],
} as const;
export type ColourName = keyof typeof COLOUR_RANGES;
export const COLOUR_NAMES = Object.keys(COLOUR_RANGES) as readonly ColourName[];

/** One shape of a scene; lengths are in pixels. */
export interface Thing {
  readonly shape: ShapeName;
  readonly colour: ColourName;
  readonly rgb: Rgb;
  readonly x: number;
  readonly y: number;
  /** Of the circle that it fits in. */
  readonly radius: number;
  /** Radians, by which it is turned. */
  readonly angle: number;
}

export interface Scene {
  readonly width: number;
  readonly height: number;
  readonly ground: { readonly from: Rgb; readonly to: Rgb; readonly angle: number };
  readonly things: readonly Thing[];
}

/** [share of pictures, width, height]: multiples of 32, the side of a token, so that nothing is resized before the model sees it. */
const SIZES = [
  [0.6, 96, 96],
  [0.15, 128, 96],
  [0.15, 96, 128],
  [0.1, 128, 128],
] as const;

/** [share of scenes, how many kinds of shape, and of colour, there may be]: with few kinds there is something to count. */
const MIXTURES = [
  [0.4, SHAPE_NAMES.length, COLOUR_NAMES.length],
  [0.15, 1, COLOUR_NAMES.length],
  [0.1, 2, COLOUR_NAMES.length],
  [0.1, SHAPE_NAMES.length, 1],
  [0.1, SHAPE_NAMES.length, 2],
  [0.1, 2, 1],
  [0.05, 2, 2],
] as const;

export const MOST_THINGS = 5;

/** Least and greatest radius by the number of things, as shares of the shorter side. */
const RADII: readonly (readonly [number, number])[] = [
  [0.14, 0.34],
  [0.12, 0.23],
  [0.11, 0.19],
  [0.1, 0.16],
  [0.1, 0.15],
];
/** Pixels kept free between two things, and between a thing and the edge. */
const GAP = 3;
/** Of a thing to the ground, as a distance in RGB. */
const LEAST_CONTRAST = 110;
/** A slight turn, in radians: a square is not yet on its corner. */
const MOST_TURN = 0.26;

function between(random: Random, least: number, most: number): number {
  return least + (most - least) * random.uniform();
}

/** A scene at random. */
export function randomScene(random: Random): Scene {
  const [, width, height] = pickByShare(random, SIZES);
  const count = 1 + random.below(MOST_THINGS);
  for (;;) {
    const things = placed(random, width, height, named(random, count));
    const ground = things && randomGround(random, things);
    if (things && ground) return { width, height, ground, things };
  }
}

/** One of a list by the shares that its entries begin with; they add up to 1. */
function pickByShare<T extends readonly [share: number, ...unknown[]]>(random: Random, list: readonly T[]): T {
  let left = random.uniform();
  return (
    list.find(([share]) => {
      left -= share;
      return left < 0;
    }) ?? list[0]!
  );
}

function named(random: Random, count: number): { shape: ShapeName; colour: ColourName }[] {
  const [, shapeKinds, colourKinds] = pickByShare(random, MIXTURES);
  const shapes = random.shuffle([...SHAPE_NAMES]).slice(0, shapeKinds);
  const colours = random.shuffle([...COLOUR_NAMES]).slice(0, colourKinds);
  return Array.from({ length: count }, () => ({ shape: random.pick(shapes), colour: random.pick(colours) }));
}

/** Finds places where nothing touches; undefined if chance was against it. */
function placed(
  random: Random,
  width: number,
  height: number,
  names: readonly { shape: ShapeName; colour: ColourName }[],
): Thing[] | undefined {
  const side = Math.min(width, height);
  const [least, most] = RADII[names.length - 1]!;
  const things: Thing[] = [];
  for (const { shape, colour } of names) {
    const radius = side * between(random, least, most);
    let place: Point | undefined;
    for (let attempt = 0; attempt < 60 && place === undefined; attempt++) {
      const x = between(random, radius + GAP, width - radius - GAP);
      const y = between(random, radius + GAP, height - radius - GAP);
      if (things.every((other) => Math.hypot(other.x - x, other.y - y) > other.radius + radius + GAP)) place = [x, y];
    }
    if (place === undefined) return undefined;
    const [x, y] = place;
    things.push({ shape, colour, rgb: shadeOf(random, colour), x, y, radius, angle: between(random, -MOST_TURN, MOST_TURN) });
  }
  return things;
}

/** One of the shades that a colour's name means. */
function shadeOf(random: Random, colour: ColourName): Rgb {
  const [h0, h1, s0, s1, l0, l1] = COLOUR_RANGES[colour];
  return hslToRgb(between(random, h0, h1), between(random, s0, s1), between(random, l0, l1));
}

/** A ground of little colour, light more often than dark, that everything stands out from; undefined if none was found. */
function randomGround(random: Random, things: readonly Thing[]): Scene['ground'] | undefined {
  for (let attempt = 0; attempt < 20; attempt++) {
    const hue = between(random, 0, 360);
    const lightness = random.uniform() < 0.75 ? between(random, 0.84, 0.98) : between(random, 0.1, 0.24);
    const shade = (): Rgb => hslToRgb(hue, between(random, 0, 0.25), lightness + between(random, -0.02, 0.02));
    const ground = { from: shade(), to: shade(), angle: between(random, 0, 2 * Math.PI) };
    const stands = ({ rgb }: Thing): boolean =>
      [ground.from, ground.to].every((other) => Math.hypot(...rgb.map((v, c) => v - other[c]!)) >= LEAST_CONTRAST);
    if (things.every(stands)) return ground;
  }
  return undefined;
}

// ---- Drawing.

/** A regular polygon, its first corner at the top. */
function regular(corners: number, radius = 1): Point[] {
  return Array.from({ length: corners }, (_, i) => {
    const angle = (2 * Math.PI * i) / corners - Math.PI / 2;
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

function square(): Point[] {
  const half = Math.SQRT1_2;
  return [
    [-half, -half],
    [half, -half],
    [half, half],
    [-half, half],
  ];
}

function star(): Point[] {
  const inner = regular(5, -0.42); // points down: between the tips
  return regular(5).flatMap((tip, i) => [tip, inner[(i + 3) % 5]!]);
}

/** The curve x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, its centre of gravity (0, 5/6) in the middle, into the unit circle. */
function heart(): Point[] {
  return Array.from({ length: 36 }, (_, i) => {
    const t = (2 * Math.PI * (i + 0.5)) / 36;
    const y = 13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t);
    return [(16 * Math.sin(t) ** 3) / 17.84, (5 / 6 - y) / 17.84];
  });
}

function cross(): Point[] {
  const [a, b] = [0.32, 0.94];
  return [
    [-a, -b],
    [a, -b],
    [a, -a],
    [b, -a],
    [b, a],
    [a, a],
    [a, b],
    [-a, b],
    [-a, a],
    [-b, a],
    [-b, -a],
    [-a, -a],
  ];
}

/** Outlines in the unit circle, but for the circle itself. */
const OUTLINES: Readonly<Record<Exclude<ShapeName, 'circle'>, readonly Point[]>> = {
  square: square(),
  triangle: regular(3),
  star: star(),
  heart: heart(),
  cross: cross(),
};

export function drawScene({ width, height, ground, things }: Scene): Canvas {
  const canvas = new Canvas(width, height);
  canvas.fillGradient(ground.from, ground.to, ground.angle);
  for (const { shape, rgb, x, y, radius, angle } of things) {
    if (shape === 'circle') {
      canvas.fillCircle(x, y, radius, rgb);
      continue;
    }
    const [cos, sin] = [radius * Math.cos(angle), radius * Math.sin(angle)];
    const outline = OUTLINES[shape].map(([px, py]): Point => [x + px * cos - py * sin, y + px * sin + py * cos]);
    canvas.fillPolygon(outline, rgb);
  }
  return canvas;
}

// ---- Which pictures are for training.

export const SIDES = ['train', 'validation', 'test'] as const;
/** What a picture is for: to learn from, to choose settings by, to measure the end with. */
export type Side = (typeof SIDES)[number];

/** In which of four columns and rows a thing stands. */
function cellOf({ x, y }: Thing, { width, height }: Scene): readonly [column: number, row: number] {
  return [Math.floor((4 * x) / width), Math.floor((4 * y) / height)];
}

/**
 * What is to be seen, whatever its size, shade and ground: the things by name; of a single one, since there are only 48 of them, also where it
 * stands.
 */
export function arrangement(scene: Scene): string {
  const names = scene.things.map(({ colour, shape }) => `${colour} ${shape}`).sort();
  return names.length === 1 ? `${names[0]} at ${cellOf(scene.things[0]!, scene).join(' ')}` : names.join(', ');
}

/** Of all arrangements, one in so many is held out for each of the other sides. */
const HELD_OUT_ONE_IN = 12;

/** The side of a scene follows from its arrangement alone: whatever is asked of the test's pictures, no training picture shows the like. */
export function sideOf(scene: Scene): Side {
  const [only, second] = scene.things;
  const number = only !== undefined && second === undefined ? numberOfSingle(only, scene) : hash32(arrangement(scene));
  const place = number % HELD_OUT_ONE_IN;
  return place === 0 ? 'test' : place === 1 ? 'validation' : 'train';
}

/** Single things are so few that chance would leave shapes out: they are dealt out in turn, over shapes, colours and places alike. */
function numberOfSingle(thing: Thing, scene: Scene): number {
  const [column, row] = cellOf(thing, scene);
  return 5 * COLOUR_NAMES.indexOf(thing.colour) + 7 * SHAPE_NAMES.indexOf(thing.shape) + column + 4 * row;
}
