import { createHash } from 'node:crypto';
import test from 'ava';
import { Random } from '../../scripts/tiny-model/random.js';
import { Canvas, hslToRgb, type Rgb } from '../../scripts/tiny-model/raster.js';
import {
  arrangement,
  COLOUR_NAMES,
  type ColourName,
  drawScene,
  randomScene,
  type Scene,
  SHAPE_NAMES,
  type ShapeName,
  sideOf,
} from '../../scripts/tiny-model/scenes.js';

function scenes(seed: number, count: number): Scene[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => randomScene(random));
}

test('the same seed draws the same bytes', (t) => {
  const digest = createHash('sha256');
  for (const scene of scenes(1, 50)) digest.update(drawScene(scene).pixels);
  t.is(digest.digest('hex'), 'fb70e13bf5b1d0c18f25777e47e160c52a832fa3c39480f872c5a30bae1f780b');
});

test('colours of the raster are those that CSS gives hsl()', (t) => {
  for (const [hsl, rgb] of [
    [
      [0, 1, 0.5],
      [255, 0, 0],
    ],
    [
      [-120, 1, 0.25],
      [0, 0, 128],
    ],
    [
      [38.8, 1, 0.5],
      [255, 165, 0],
    ],
    [
      [200, 0, 0.8],
      [204, 204, 204],
    ],
  ] as [Rgb, Rgb][])
    t.deepEqual(hslToRgb(hsl[0], hsl[1], hsl[2]), rgb);
});

test('edges are smooth: a shape covers its true area to a fraction of a percent, wherever it lies between pixels', (t) => {
  const black: Rgb = [0, 0, 0];
  const area = ({ pixels }: Canvas): number => pixels.reduce((sum, value) => sum + 255 - value, 0) / (3 * 255);
  for (const shift of [0, 0.25, 0.5, 0.77]) {
    const draw = (fill: (canvas: Canvas) => void): number => {
      const canvas = new Canvas(64, 64);
      canvas.fillGradient([255, 255, 255], [255, 255, 255], 0);
      fill(canvas);
      return area(canvas);
    };
    const circle = draw((canvas) => canvas.fillCircle(32 + shift, 31 - shift, 20, black));
    t.true(Math.abs(circle / (Math.PI * 400) - 1) < 0.003, `${circle}`);
    const triangle = draw((canvas) =>
      canvas.fillPolygon(
        [
          [10 + shift, 10],
          [50 + shift, 20],
          [20, 55 + shift],
        ],
        black,
      ),
    );
    const true_ = Math.abs(40 * (45 + shift) - (10 - shift) * 10) / 2;
    t.true(Math.abs(triangle / true_ - 1) < 0.005, `${triangle} for ${true_}`);
  }
});

test('what runs over the edge is cut off there', (t) => {
  const canvas = new Canvas(8, 4);
  canvas.fillCircle(8, 0, 3, [9, 9, 9]);
  t.deepEqual(canvas.at(7, 0), [9, 9, 9]);
  t.deepEqual(canvas.at(0, 3), [0, 0, 0]);
});

/** Colours as people would point to them; nothing is taken from the ranges that the scenes draw from. */
const PROTOTYPES: Readonly<Record<ColourName, Rgb>> = {
  red: [220, 20, 30],
  orange: [255, 125, 15],
  yellow: [245, 220, 30],
  green: [30, 145, 60],
  blue: [30, 80, 225],
  purple: [110, 40, 155],
  pink: [250, 130, 180],
  black: [15, 15, 15],
};

function nearestColour(rgb: Rgb): ColourName {
  const distance = (name: ColourName): number => Math.hypot(...rgb.map((value, c) => value - PROTOTYPES[name][c]!));
  return COLOUR_NAMES.reduce((a, b) => (distance(b) < distance(a) ? b : a));
}

/** Share of its own circle that a shape fills, by elementary geometry; of the heart, by the area 180π of its curve. */
const FILL: Readonly<Record<ShapeName, number>> = {
  circle: 1,
  square: 2 / Math.PI,
  triangle: (3 * Math.sqrt(3)) / 4 / Math.PI,
  star: (5 * 0.42 * Math.sin(Math.PI / 5)) / Math.PI,
  heart: 180 / 17.84 ** 2,
  cross: (4 * 0.32 * (2 * 0.94 - 0.32)) / Math.PI,
};

interface Blob {
  area: number;
  x: number;
  y: number;
}

/** The connected pieces of a picture that stand out from its ground, found without looking at the scene's things. */
function blobs({ ground, width, height }: Scene, canvas: Canvas): Blob[] {
  const clear = new Canvas(width, height);
  clear.fillGradient(ground.from, ground.to, ground.angle);
  const stands = (i: number): boolean => [0, 1, 2].some((c) => canvas.pixels[3 * i + c] !== clear.pixels[3 * i + c]);
  const seen = new Set<number>();
  const found: Blob[] = [];
  for (let start = 0; start < width * height; start++) {
    if (seen.has(start) || !stands(start)) continue;
    const blob = { area: 0, x: 0, y: 0 };
    const todo = [start];
    seen.add(start);
    for (let i = todo.pop(); i !== undefined; i = todo.pop()) {
      blob.area++;
      blob.x += i % width;
      blob.y += Math.floor(i / width);
      for (const step of [-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1]) {
        const next = i + step;
        if (next < 0 || next >= width * height || seen.has(next) || !stands(next)) continue;
        seen.add(next);
        todo.push(next);
      }
    }
    found.push({ area: blob.area, x: blob.x / blob.area + 0.5, y: blob.y / blob.area + 0.5 });
  }
  return found;
}

test('a picture shows what its scene says: so many pieces, each at its place, of its colour and the area of its shape', (t) => {
  for (const scene of scenes(2, 800)) {
    const canvas = drawScene(scene);
    const pieces = blobs(scene, canvas);
    t.is(pieces.length, scene.things.length);
    for (const { shape, colour, x, y, radius } of scene.things) {
      t.is(nearestColour(canvas.at(Math.floor(x), Math.floor(y))), colour, canvas.at(Math.floor(x), Math.floor(y)).join());
      const piece = pieces.reduce((a, b) => (Math.hypot(b.x - x, b.y - y) < Math.hypot(a.x - x, a.y - y) ? b : a));
      t.true(Math.hypot(piece.x - x, piece.y - y) < 0.2 * radius, `${shape} at ${x}, ${y}: ${piece.x}, ${piece.y}`);
      // Pixels that are touched at all are counted: half a pixel of rim is added.
      const rim = piece.area / (FILL[shape] * Math.PI * radius ** 2);
      t.true(rim > 1 && rim < 1 + 4.5 / radius, `${shape} of radius ${radius}: ${rim}`);
    }
  }
});

test('every shape, colour, number and size occurs, and about as often as meant', (t) => {
  const all = scenes(3, 4000);
  const things = all.flatMap((scene) => scene.things);
  for (const shape of SHAPE_NAMES)
    t.true(Math.abs((6 * things.filter((thing) => thing.shape === shape).length) / things.length - 1) < 0.1, shape);
  for (const colour of COLOUR_NAMES)
    t.true(Math.abs((8 * things.filter((thing) => thing.colour === colour).length) / things.length - 1) < 0.2, colour);
  for (let n = 1; n <= 5; n++)
    t.true(Math.abs((5 * all.filter((scene) => scene.things.length === n).length) / all.length - 1) < 0.1, `${n}`);
  for (const { width, height } of all) t.true(width % 32 === 0 && height % 32 === 0 && width * height >= 4096);
  t.is(new Set(all.map(({ width, height }) => `${width} ${height}`)).size, 4);
});

test('an arrangement is on one side only, whatever else of the scene changes', (t) => {
  const [scene] = scenes(4, 1).map((one) => ({ ...one, things: one.things.slice(0, 1) }));
  const thing = { ...scene!.things[0]!, shape: 'star', colour: 'red', x: 20, y: 70 } as const;
  const one = { ...scene!, width: 96, height: 96, things: [thing] };
  t.is(arrangement(one), 'red star at 0 2');
  t.is(arrangement({ ...one, things: [{ ...thing, radius: 9, angle: 0.1, x: 22, rgb: [1, 2, 3] }] }), 'red star at 0 2');
  const other = { ...thing, colour: 'blue' } as const;
  t.is(arrangement({ ...one, things: [thing, other] }), 'blue star, red star');
  t.is(arrangement({ ...one, things: [{ ...other, x: 90 }, thing] }), 'blue star, red star');
  const counts = { train: 0, validation: 0, test: 0 };
  for (const drawn of scenes(5, 6000)) counts[sideOf(drawn)]++;
  t.true(counts.test > 350 && counts.validation > 350 && counts.train > 4500, JSON.stringify(counts));
});
