/** What the shipped model was made with. */
import { COUNT_FORMS } from './picture_questions.js';
import type { PictureRowOptions } from './pictures.js';

export const SEED = 3407;

/** Rows of the corpus of texts. */
export const TEXT_ROWS = 120_000;

/** Tokens of a packed batch = batch × length. */
export const BATCH = { batch: 16, length: 320 } as const;

/** One to five things to a picture. Their questions train the tokenizer. */
export const SEVERAL: PictureRowOptions = { side: 'train', seed: SEED + 1, count: 60_000, mostQuestions: 3 };

export type PictureSetName = 'single-described' | 'several-described' | 'several-mixed' | 'several-asked' | 'several-counted';

/** Drawn pictures to learn from, by parts of which each is drawn by a process of its own. */
export const PICTURES: Readonly<Record<PictureSetName, PictureRowOptions>> = {
  'single-described': { side: 'train', seed: 1000, count: 40_000, mostThings: 1, described: 1 },
  'several-described': { side: 'train', seed: 2000, count: 120_000, described: 1 },
  'several-mixed': { side: 'train', seed: 3000, count: 80_000, mostQuestions: 4, described: 0.3 },
  'several-asked': { side: 'train', seed: 7000, count: 40_000, mostQuestions: 6 },
  'several-counted': { side: 'train', seed: 9000, count: 40_000, mostQuestions: 4, forms: COUNT_FORMS },
};

/** Pictures of a part. */
export const PART = 10_000;

export interface Stage {
  /** The first so many rows of the corpus. */
  readonly textRows: number;
  readonly pictures: readonly PictureSetName[];
  readonly updates: number;
  readonly learningRate: number;
  readonly scheduler: 'constant_with_warmup' | 'cosine';
  readonly warmup: number;
  /** Of the order of rows. */
  readonly seed: number;
}

/**
 * Words and descriptions first, since a description holds a dozen answers where a question holds one; then questions too, which now find
 * something to speak of; at last questions alone, for what takes longest: which of two things is left of the other, and how many there are of
 * a kind.
 * The shipped weights are of a GPU in the first two stages and of a CPU in the others: one device alone gives other bytes.
 */
export const STAGES: readonly Stage[] = [
  {
    textRows: TEXT_ROWS / 2,
    pictures: ['single-described', 'several-described'],
    updates: 3000,
    learningRate: 1e-3,
    scheduler: 'constant_with_warmup',
    warmup: 200,
    seed: SEED,
  },
  {
    textRows: TEXT_ROWS,
    pictures: ['several-mixed'],
    updates: 5000,
    learningRate: 1e-3,
    scheduler: 'cosine',
    warmup: 100,
    seed: SEED + 1,
  },
  {
    textRows: TEXT_ROWS / 2,
    pictures: ['several-asked'],
    updates: 4000,
    learningRate: 8e-4,
    scheduler: 'cosine',
    warmup: 100,
    seed: SEED + 2,
  },
  {
    textRows: TEXT_ROWS / 2,
    pictures: ['several-asked', 'several-counted'],
    updates: 6000,
    learningRate: 8e-4,
    scheduler: 'cosine',
    warmup: 100,
    seed: SEED + 3,
  },
];
