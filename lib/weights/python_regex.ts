/**
 * Python's `re` patterns as JavaScript regular expressions: PEFT's target_modules, exclude_modules, rank_pattern and
 * alpha_pattern hold such patterns. The pattern is read token by token and written again with the same meaning; what
 * JavaScript cannot express, and what Python itself refuses, is ERR_USAGE (or the code given) that says which part.
 */
import { type ErrorCode, VltuneError } from '../errors.js';
import { printable } from './json.js';

/**
 * A regular expression that matches a whole name if and only if Python's `re.fullmatch(pattern, name)` does (names of ASCII
 * letters, digits, `_`, `.` and `-`, as module names are). `where` starts the message of an error.
 */
export function fromPythonRegex(pattern: string, where: string, code: ErrorCode = 'ERR_USAGE'): RegExp {
  const translator = new Translator(pattern, where, code);
  const { source, flags } = translator.translate();
  try {
    return new RegExp(`^(?:${source})$`, flags);
  } catch (cause) {
    throw translator.error((cause as Error).message.replace(/^Invalid regular expression: .*: /, ''), cause);
  }
}

const SYNTAX = /[\^$\\.*+?()[\]{}|/]/;
/** Escapes that mean the same in both languages. */
const SAME_ESCAPES = 'dDwWsSbBfnrtv';

class Translator {
  readonly #pattern: string;
  readonly #where: string;
  readonly #code: ErrorCode;
  #at = 0;
  #flags = 'u';

  constructor(pattern: string, where: string, code: ErrorCode) {
    this.#pattern = pattern;
    this.#where = where;
    this.#code = code;
  }

  error(what: string, cause?: unknown): VltuneError {
    return new VltuneError(this.#code, `${this.#where}: the regular expression "${printable(this.#pattern)}": ${what}`, {
      cause,
    });
  }

  translate(): { source: string; flags: string } {
    let source = '';
    this.#leadingFlags();
    while (this.#at < this.#pattern.length) source += this.#token();
    return { source, flags: this.#flags };
  }

  /** `(?i)` and the like, which Python allows at the very start only. */
  #leadingFlags(): void {
    const found = /^\(\?([aiLmsux]+)\)/.exec(this.#pattern);
    if (found === null) return;
    for (const flag of found[1]!) {
      if (flag === 'x' || flag === 'L') throw this.error(`the flag (?${flag}) is not supported`);
      if ('ims'.includes(flag) && !this.#flags.includes(flag)) this.#flags += flag;
    }
    this.#at = found[0].length;
  }

  #token(): string {
    const rest = this.#pattern.slice(this.#at);
    const c = rest[0]!;
    switch (c) {
      case '\\':
        return this.#escape(false);
      case '[':
        return this.#set();
      case '(':
        return this.#group(rest);
      case '.':
        this.#at++;
        return this.#flags.includes('s') ? '.' : '[^\\n]';
      case '$':
        this.#at++;
        return this.#flags.includes('m') ? '(?=\\n|(?![^]))' : '(?=\\n?(?![^]))';
      case '*':
      case '+':
      case '?':
        this.#at++;
        return c + this.#quantifierEnd();
      case '{': {
        const counts = /^\{(\d*)(,?)(\d*)\}/.exec(rest);
        if (counts === null || (counts[1] === '' && counts[3] === '')) {
          this.#at++;
          return '\\{'; // not a quantifier: Python takes the brace as it is
        }
        this.#at += counts[0].length;
        return `{${counts[1] || '0'}${counts[2]}${counts[3]}}${this.#quantifierEnd()}`;
      }
      case '}':
      case ']':
      case '/':
        this.#at++;
        return `\\${c}`;
      default: {
        const character = String.fromCodePoint(rest.codePointAt(0)!);
        this.#at += character.length;
        return character;
      }
    }
  }

  /** After a quantifier: lazy is the same in both; possessive exists in Python only. */
  #quantifierEnd(): string {
    const next = this.#pattern[this.#at];
    if (next === '+') throw this.error(`the possessive quantifier before position ${this.#at + 1} is not supported`);
    if (next !== '?') return '';
    this.#at++;
    return '?';
  }

  #group(rest: string): string {
    const take = (length: number, written: string): string => {
      this.#at += length;
      return written;
    };
    if (!rest.startsWith('(?')) return take(1, '(');
    for (const same of ['(?:', '(?=', '(?!', '(?<=', '(?<!']) if (rest.startsWith(same)) return take(same.length, same);
    const named = /^\(\?P<([A-Za-z_]\w*)>/.exec(rest);
    if (named !== null) return take(named[0].length, `(?<${named[1]}>`);
    const back = /^\(\?P=([A-Za-z_]\w*)\)/.exec(rest);
    if (back !== null) return take(back[0].length, `\\k<${back[1]}>`);
    const comment = /^\(\?#[^)]*\)/.exec(rest);
    if (comment !== null) return take(comment[0].length, '');
    throw this.error(`the group "${printable(rest.slice(0, 4))}" is not supported`);
  }

  #escape(inSet: boolean): string {
    const c = this.#pattern[this.#at + 1];
    if (c === undefined) throw this.error('ends with a lone backslash');
    this.#at += 2;
    if (SAME_ESCAPES.includes(c) && !(inSet && c === 'B')) return `\\${c}`;
    if (c === 'a') return '\\x07';
    if (!inSet && c === 'A') return '(?<![^])';
    if (!inSet && c === 'Z') return '(?![^])';
    if (c === 'x' || c === 'u') {
      const length = c === 'x' ? 2 : 4;
      const digits = this.#pattern.slice(this.#at, this.#at + length);
      if (!/^[0-9A-Fa-f]+$/.test(digits) || digits.length !== length)
        throw this.error(`\\${c} must be followed by ${length} hexadecimal digits`);
      this.#at += length;
      return `\\${c}${digits}`;
    }
    if (!inSet && /[1-9]/.test(c)) {
      const more = /^\d?/.exec(this.#pattern.slice(this.#at))![0];
      this.#at += more.length;
      return `(?:\\${c}${more})`; // the parentheses keep a digit that follows apart
    }
    if (/[A-Za-z0-9]/.test(c)) throw this.error(`the escape \\${c} is not supported`);
    return SYNTAX.test(c) || (inSet && c === '-') ? `\\${c}` : c;
  }

  /** `[...]`: a `]` that comes first stands for itself in Python, and `[` needs no escape. */
  #set(): string {
    let source = '[';
    this.#at++;
    if (this.#pattern[this.#at] === '^') {
      source += '^';
      this.#at++;
    }
    for (let first = true; ; first = false) {
      const c = this.#pattern[this.#at];
      if (c === undefined) throw this.error('the set "[" is not closed');
      if (c === ']' && !first) break;
      if (c === '\\') {
        source += this.#escape(true);
        continue;
      }
      const character = String.fromCodePoint(this.#pattern.codePointAt(this.#at)!);
      this.#at += character.length;
      source += c === ']' || c === '[' ? `\\${c}` : character;
    }
    this.#at++;
    return `${source}]`;
  }
}
