/** What the shipped model was made with. */
export const SEED = 3407;

/** Chosen so that every category is learned in about a quarter of an hour on two cores. */
export const RUN = {
  /** training rows */
  rows: 120_000,
  epochs: 2,
  learningRate: 2e-3,
  /** tokens of a packed batch = batch × length */
  batch: 8,
  length: 256,
} as const;
