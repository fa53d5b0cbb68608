/**
 * JSON where `JSON.parse` is not enough: the place of a mistake, a bound on nesting, and numbers printed back as Python's
 * `json` module prints them. The hot path stays `JSON.parse`; this file is asked after it refused a text, or for values that must
 * survive a round trip digit by digit.
 *
 * Accepts what Python's `json.loads` accepts: JSON, and the three words NaN, Infinity and -Infinity.
 */

/** How deep arrays and objects of a dataset may nest. Python's own parser gives up at about twice this. */
export const MAX_DEPTH = 512;

/** A mistake in a JSON text, at a UTF-16 offset. */
export class JsonSyntaxError extends Error {
  readonly offset: number;

  constructor(message: string, offset: number) {
    super(message);
    this.name = 'JsonSyntaxError';
    this.offset = offset;
  }
}

/** A number as the text spells it. */
export class ExactNumber {
  readonly source: string;

  constructor(source: string) {
    this.source = source;
  }
}

/** A JSON value that loses nothing: numbers keep their spelling, objects the order of their keys. */
export type ExactValue = string | boolean | null | ExactNumber | ExactValue[] | Map<string, ExactValue>;

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON strings end at control characters
const PLAIN_RUN = /[^"\\\u0000-\u001f]*/y;
const WORDS: readonly (readonly [string, ExactValue])[] = [
  ['true', true],
  ['false', false],
  ['null', null],
  ['NaN', new ExactNumber('NaN')],
  ['Infinity', new ExactNumber('Infinity')],
  ['-Infinity', new ExactNumber('-Infinity')],
];
const ESCAPES: Readonly<Record<string, string>> = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

class ExactParser {
  private readonly text: string;
  private at = 0;

  constructor(text: string) {
    this.text = text;
  }

  document(): ExactValue {
    this.space();
    const value = this.value(1);
    this.space();
    if (this.at < this.text.length) this.fail(`unexpected ${this.here()} after the end of the value`);
    return value;
  }

  private here(): string {
    if (this.at >= this.text.length) return 'end of text';
    return JSON.stringify(String.fromCodePoint(this.text.codePointAt(this.at)!));
  }

  private fail(message: string, offset: number = this.at): never {
    throw new JsonSyntaxError(message, offset);
  }

  private space(): void {
    for (; this.at < this.text.length; this.at++) {
      const unit = this.text.charCodeAt(this.at);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
    }
  }

  private value(depth: number): ExactValue {
    const unit = this.text[this.at];
    if (unit === '"') return this.string();
    if (unit === '{' || unit === '[') {
      if (depth > MAX_DEPTH) this.fail(`nested deeper than ${MAX_DEPTH} levels`);
      return unit === '{' ? this.object(depth) : this.array(depth);
    }
    for (const [word, value] of WORDS) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    NUMBER.lastIndex = this.at;
    const number = NUMBER.exec(this.text);
    if (number === null) this.fail(`expected a value, got ${this.here()}`);
    this.at += number[0].length;
    return new ExactNumber(number[0]);
  }

  private array(depth: number): ExactValue[] {
    const items: ExactValue[] = [];
    this.at++;
    this.space();
    if (this.text[this.at] === ']') {
      this.at++;
      return items;
    }
    for (;;) {
      this.space();
      items.push(this.value(depth + 1));
      this.space();
      if (this.text[this.at] === ']') break;
      if (this.text[this.at] !== ',') this.fail(`expected "," or "]" in an array, got ${this.here()}`);
      this.at++;
    }
    this.at++;
    return items;
  }

  private object(depth: number): Map<string, ExactValue> {
    const members = new Map<string, ExactValue>();
    this.at++;
    this.space();
    if (this.text[this.at] === '}') {
      this.at++;
      return members;
    }
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') this.fail(`expected a key in double quotes, got ${this.here()}`);
      const key = this.string();
      this.space();
      if (this.text[this.at] !== ':') this.fail(`expected ":" after a key, got ${this.here()}`);
      this.at++;
      this.space();
      members.set(key, this.value(depth + 1));
      this.space();
      if (this.text[this.at] === '}') break;
      if (this.text[this.at] !== ',') this.fail(`expected "," or "}" in an object, got ${this.here()}`);
      this.at++;
    }
    this.at++;
    return members;
  }

  private string(): string {
    const start = this.at++;
    let text = '';
    for (;;) {
      PLAIN_RUN.lastIndex = this.at;
      const run = PLAIN_RUN.exec(this.text)![0];
      text += run;
      this.at += run.length;
      const unit = this.text[this.at];
      if (unit === '"') {
        this.at++;
        return text;
      }
      if (unit === undefined) this.fail('a string that is never closed', start);
      if (unit !== '\\') this.fail(`control character ${this.here()} in a string: write it as an escape`);
      const letter = this.text[this.at + 1];
      const plain = letter === undefined ? undefined : ESCAPES[letter];
      if (plain !== undefined) {
        text += plain;
        this.at += 2;
      } else if (letter === 'u' && /^[0-9a-fA-F]{4}$/.test(this.text.slice(this.at + 2, this.at + 6))) {
        text += String.fromCharCode(Number.parseInt(this.text.slice(this.at + 2, this.at + 6), 16));
        this.at += 6;
      } else {
        this.fail('a wrong escape in a string');
      }
    }
  }
}

/** Parses a text without loss. Throws JsonSyntaxError with the offset of the mistake. */
export function parseExact(text: string): ExactValue {
  return new ExactParser(text).document();
}

/** The plain JavaScript value of an exact one (NaN and the infinities stay what they are). */
export function plainValue(value: ExactValue): unknown {
  if (value instanceof ExactNumber) return Number(value.source);
  if (Array.isArray(value)) return value.map(plainValue);
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, plainValue(item)]));
  return value;
}

/** `repr` of the float or int that Python reads from this spelling. */
function pythonNumber(source: string): string {
  if (!/[.eEN]|Inf/.test(source)) return source === '-0' ? '0' : source;
  if (source.endsWith('NaN') || source.endsWith('Infinity')) return source;
  const value = Number(source);
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
  // Both languages print the shortest digits that read back the same; they differ in when they turn to an exponent, and in its form.
  const [mantissa, exponentText] = value.toExponential().split('e') as [string, string];
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 16) {
    const digits = String(Math.abs(exponent)).padStart(2, '0');
    return `${mantissa}e${exponent < 0 ? '-' : '+'}${digits}`;
  }
  const negative = mantissa.startsWith('-');
  const digits = mantissa.replace(/[-.]/g, '');
  let text: string;
  if (exponent < 0) text = `0.${'0'.repeat(-exponent - 1)}${digits}`;
  else if (digits.length <= exponent + 1) text = `${digits}${'0'.repeat(exponent + 1 - digits.length)}.0`;
  else text = `${digits.slice(0, exponent + 1)}.${digits.slice(exponent + 1)}`;
  return negative ? `-${text}` : text;
}

/**
 * Python's `json.dumps(value, ensure_ascii=False, indent=indent)`. A lone surrogate, which Python cannot write as UTF-8, stays an
 * escape. `level` is the nesting of the value in the text around it.
 */
export function pythonDump(value: ExactValue, indent?: number, level = 0): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (value === null || typeof value === 'boolean') return String(value);
  if (value instanceof ExactNumber) return pythonNumber(value.source);
  const list = Array.isArray(value);
  const parts = list
    ? value.map((item) => pythonDump(item, indent, level + 1))
    : Array.from(value, ([key, item]) => `${JSON.stringify(key)}: ${pythonDump(item, indent, level + 1)}`);
  const [open, close] = list ? ['[', ']'] : ['{', '}'];
  if (parts.length === 0) return open + close;
  if (indent === undefined) return open + parts.join(', ') + close;
  const margin = `\n${' '.repeat(indent * (level + 1))}`;
  return `${open}${margin}${parts.join(`,${margin}`)}\n${' '.repeat(indent * level)}${close}`;
}
