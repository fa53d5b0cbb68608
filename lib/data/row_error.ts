/** A mistake in a row, before it is known where the row stands, and the words for what was found. */
import { isWellFormed } from './text.js';

export class RowError extends Error {
  /** Understood, but not built. */
  readonly unsupported: boolean;

  constructor(message: string, unsupported = false) {
    super(message);
    this.unsupported = unsupported;
  }
}

export type Fields = Readonly<Record<string, unknown>>;

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

/** How a value is named in an error message: its kind and, if short, itself. */
export function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (typeof value === 'string') return value.length > 40 ? `${JSON.stringify(value.slice(0, 40))}…` : JSON.stringify(value);
  if (typeof value === 'object') return 'an object';
  return `the ${typeof value} ${String(value)}`;
}

export function checkText(text: string, field: string): string {
  if (!isWellFormed(text)) throw new RowError(`${field}: the text holds half of a surrogate pair, which no UTF-8 text can hold`);
  return text;
}
