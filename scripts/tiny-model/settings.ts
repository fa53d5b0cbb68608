/** What the shipped model was made with. */
import type { PictureRowOptions } from './pictures.js';

export const SEED = 3407;

/** Rows of the corpus of texts. */
export const TEXT_ROWS = 120_000;

/** Tokens of a packed batch = batch × length. */
export const BATCH = { batch: 8, length: 320 } as const;

const SINGLE: PictureRowOptions = { side: 'train', seed: SEED, count: 20_000, mostQuestions: 2, mostThings: 1 };
/** One to five things to a picture. Their questions train the tokenizer too. */
export const SEVERAL: PictureRowOptions = { side: 'train', seed: SEED + 1, count: 60_000, mostQuestions: 3 };

export type PictureSetName = 'single-asked' | 'single-described' | 'several-described' | 'several-mixed' | 'several-asked';

/** Drawn pictures to learn from. */
export const PICTURES: Readonly<Record<PictureSetName, PictureRowOptions>> = {
  'single-asked': SINGLE,
  'single-described': { ...SINGLE, described: 1 },
  'several-described': { ...SEVERAL, described: 1 },
  'several-mixed': { ...SEVERAL, count: 50_000, described: 0.25 },
  'several-asked': SEVERAL,
};

export interface Stage {
  /** The first so many rows of the corpus. */
  readonly textRows: number;
  readonly pictures: readonly PictureSetName[];
  /** Updates; absent: one epoch. */
  readonly updates?: number;
  readonly learningRate: number;
  readonly scheduler: 'constant_with_warmup' | 'cosine';
  readonly warmup: number;
  /** Of the order of rows. */
  readonly seed: number;
}

/**
 * Words first, with what can be learned of pictures beside them: colours. Then pictures alone, each described in full, since a description
 * holds a dozen answers where a question holds one: places come after some 50,000 pictures, shapes after 100,000, and both sooner if a single
 * thing is to be seen first. Last words and questions again, which now find something to speak of: after the fifth stage 69 of 100 held-out
 * questions are answered right.
 */
export const STAGES: readonly Stage[] = [
  {
    textRows: TEXT_ROWS,
    pictures: ['single-asked'],
    learningRate: 1e-3,
    scheduler: 'constant_with_warmup',
    warmup: 100,
    seed: SEED,
  },
  {
    textRows: 0,
    pictures: ['single-described'],
    updates: 300,
    learningRate: 1e-3,
    scheduler: 'constant_with_warmup',
    warmup: 20,
    seed: SEED,
  },
  {
    textRows: 0,
    pictures: ['single-described'],
    updates: 300,
    learningRate: 3e-4,
    scheduler: 'constant_with_warmup',
    warmup: 20,
    seed: 11,
  },
  {
    textRows: 0,
    pictures: ['single-described', 'several-described'],
    updates: 5700,
    learningRate: 5e-4,
    scheduler: 'constant_with_warmup',
    warmup: 20,
    seed: 12,
  },
  {
    textRows: TEXT_ROWS / 2,
    pictures: ['several-mixed'],
    learningRate: 7e-4,
    scheduler: 'cosine',
    warmup: 50,
    seed: SEED,
  },
  {
    textRows: TEXT_ROWS,
    pictures: ['several-asked'],
    updates: 6050, // two epochs
    learningRate: 7e-4,
    scheduler: 'cosine',
    warmup: 50,
    seed: SEED,
  },
];
