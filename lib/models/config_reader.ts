/** Reads numbers and flags out of a config.json, each checked, each error naming file and key. */
import { VltuneError } from '../errors.js';

type Json = Readonly<Record<string, unknown>>;

export class ConfigReader {
  readonly #object: Json;
  readonly #file: string;
  readonly #path: string;

  constructor(object: Json, file: string, path = '') {
    this.#object = object;
    this.#file = file;
    this.#path = path;
  }

  /** A nested object; `null` fallback: absent is allowed. */
  section(key: string): ConfigReader {
    const value = this.#object[key];
    if (!isObject(value)) this.fail(key, 'an object', value);
    return new ConfigReader(value, this.#file, `${this.#path}${key}.`);
  }

  optionalSection(...keys: string[]): ConfigReader | undefined {
    for (const key of keys) if (this.#object[key] !== undefined && this.#object[key] !== null) return this.section(key);
    return undefined;
  }

  /** A whole number from `min` to `max`. */
  integer(key: string, min: number, max: number, fallback?: number): number {
    const value = this.#object[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      this.fail(key, `a whole number from ${min} to ${max}`, value);
    }
    return value;
  }

  /** A finite number above 0, at most `max`. */
  positive(key: string, max: number, fallback?: number): number {
    const value = this.#object[key] ?? fallback;
    if (typeof value !== 'number' || !(value > 0) || value > max) this.fail(key, `a number above 0, at most ${max}`, value);
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.#object[key] ?? fallback;
    if (typeof value !== 'boolean') this.fail(key, 'true or false', value);
    return value;
  }

  text(key: string, fallback: string): string {
    const value = this.#object[key] ?? fallback;
    if (typeof value !== 'string') this.fail(key, 'a string', value);
    return value;
  }

  /** A list of whole numbers from `min` to `max`. */
  integers(key: string, min: number, max: number, length?: number): number[] {
    const value = this.#object[key];
    const good =
      Array.isArray(value) &&
      (length === undefined || value.length === length) &&
      value.every((item) => typeof item === 'number' && Number.isInteger(item) && item >= min && item <= max);
    if (!good) this.fail(key, `a list of ${length ?? ''} whole numbers from ${min} to ${max}`.replace('  ', ' '), value);
    return value as number[];
  }

  has(key: string): boolean {
    return this.#object[key] !== undefined && this.#object[key] !== null;
  }

  fail(key: string, expected: string, value: unknown): never {
    const got = value === undefined ? 'nothing' : JSON.stringify(value)?.slice(0, 100);
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${this.#file}: ${this.#path}${key} must be ${expected}, got ${got}`);
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
