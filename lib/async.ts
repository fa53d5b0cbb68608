/** Asynchronous work in bounded numbers. */

/** `work` for each item, at most `limit` at once, results in order. Rejects with the error of the first item that has one. */
export async function mapBounded<T, R>(
  items: readonly T[],
  limit: number,
  work: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const errors: { index: number; cause: unknown }[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    // After an error nothing new is begun; what was begun before it is waited for, so the first in order is known.
    while (next < items.length && errors.length === 0) {
      const index = next++;
      try {
        results[index] = await work(items[index]!, index);
      } catch (cause) {
        errors.push({ index, cause });
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, lane));
  if (errors.length > 0) throw errors.reduce((first, error) => (error.index < first.index ? error : first)).cause;
  return results;
}

/** Lets at most `limit` works run at once; those that come later wait their turn, in order. */
export class Limiter {
  readonly #limit: number;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running < this.#limit) this.#running++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      // Whoever waits takes the place over, so that nobody slips in between.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }
}

/** Work that is done at the first call; its promise is given to every one. */
export function once<A extends readonly unknown[], T>(work: (...args: A) => Promise<T>): (...args: A) => Promise<T> {
  let done: Promise<T> | undefined;
  return (...args) => {
    done ??= work(...args);
    return done;
  };
}
