import { copyFile, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { VltuneError } from '../../lib/errors.js';
import { findNf4Tensors } from '../../lib/weights/bnb4bit.js';
import { readAdapter } from '../../lib/weights/lora.js';
import { Checkpoint } from '../../lib/weights/safetensors.js';
import { fixture, scratch } from './fixtures.js';

/** Deterministic: a failure names its number, and the same number fails again. */
class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** A whole number from 0 to `below` - 1 (mulberry32). */
  roll(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let x = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * below) | 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.roll(list.length)]!;
  }
}

const NUMBERS = [
  '0',
  '-1',
  '1',
  '7',
  '255',
  '4294967296',
  '9007199254740993',
  '1e400',
  '-0',
  '0.5',
  '1e5',
  'NaN',
  'null',
  '"3"',
  '[]',
  '[[1]]',
  '{}',
  'true',
];
const SNIPPETS = [
  '"',
  '\\',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '\0',
  '\ud800',
  '"__proto__":',
  '"\\u0000"',
  '[[[[[[',
  '{"a":',
  '"F32"',
  'BF16',
  'U8',
  '../',
  '.weight',
];

/** A text with one to three mistakes: a number, a word or a piece of it changed, repeated or lost. */
function mutateText(dice: Dice, text: string): string {
  let result = text;
  for (let i = dice.roll(3); i >= 0; i--) {
    const at = dice.roll(result.length);
    const length = dice.roll(20);
    switch (dice.roll(6)) {
      case 0: {
        const numbers = [...result.matchAll(/-?\d+(\.\d+)?/g)];
        if (numbers.length === 0) break;
        const number = dice.pick(numbers);
        result = result.slice(0, number.index) + dice.pick(NUMBERS) + result.slice(number.index + number[0].length);
        break;
      }
      case 1:
        result = result.slice(0, at) + dice.pick(SNIPPETS) + result.slice(at);
        break;
      case 2:
        result = result.slice(0, at) + result.slice(at + length);
        break;
      case 3:
        result = result.slice(0, at) + result.slice(at, at + length).repeat(2) + result.slice(at + length);
        break;
      case 4:
        result = result.slice(0, at);
        break;
      case 5: {
        const words = [...result.matchAll(/"[^"]*"/g)];
        if (words.length === 0) break;
        const word = dice.pick(words);
        result =
          result.slice(0, word.index) + dice.pick([...NUMBERS, dice.pick(words)[0]]) + result.slice(word.index + word[0].length);
      }
    }
  }
  return result;
}

/** Bytes of a safetensors file with a mistake in its length, its header, or its end. */
function mutateFile(dice: Dice, bytes: Buffer): Buffer {
  const length = Number(bytes.readBigUInt64LE());
  switch (dice.roll(5)) {
    case 0:
      return bytes.subarray(0, dice.roll(bytes.length));
    case 1: {
      const copy = Buffer.from(bytes);
      copy[dice.roll(8 + Math.min(length, 400))] = dice.roll(256);
      return copy;
    }
    case 2:
      return Buffer.concat([bytes, Buffer.alloc(1 + dice.roll(9))]);
    default: {
      const header = Buffer.from(mutateText(dice, bytes.toString('utf8', 8, 8 + length)));
      const prefix = Buffer.alloc(8);
      prefix.writeBigUInt64LE(BigInt(header.length));
      return Buffer.concat([prefix, header, bytes.subarray(8 + length)]);
    }
  }
}

/** Runs `attempt`, which may only succeed or reject with a VltuneError, and in time. Returns whether it succeeded. */
async function survives(t: ExecutionContext, number: number, attempt: () => Promise<void>): Promise<boolean> {
  const start = performance.now();
  try {
    await attempt();
    return true;
  } catch (error) {
    if (!(error instanceof VltuneError)) t.fail(`mutation ${number}: ${error instanceof Error ? error.stack : String(error)}`);
    else if (!['ERR_BAD_CHECKPOINT', 'ERR_BAD_ADAPTER', 'ERR_UNSUPPORTED'].includes(error.code))
      t.fail(`mutation ${number}: ${error.code} ${error.message}`);
    else if (error.message.length > 2000) t.fail(`mutation ${number}: a message of ${error.message.length} characters`);
    return false;
  } finally {
    if (performance.now() - start > 5000) t.fail(`mutation ${number} took ${performance.now() - start} ms`);
  }
}

/** What was accepted must be true: every tensor lies in its file and can be read. */
async function readAll(folder: string): Promise<void> {
  const checkpoint = await Checkpoint.open(folder);
  try {
    for (const { name, file, offset, bytes } of checkpoint.tensors.values()) {
      if (offset < 8 || offset + bytes > (await stat(file)).size) throw new Error(`tensor ${name} lies outside of ${file}`);
      if (checkpoint.bytes(name).byteLength !== bytes) throw new Error(`tensor ${name} was read in part`);
    }
  } finally {
    checkpoint.close();
  }
}

test('500 broken model files: refused, or what they say is true', async (t) => {
  const folder = await scratch(t);
  const dice = new Dice(1);
  const original = await readFile(fixture('base-bf16/model.safetensors'));
  let accepted = 0;
  for (let number = 0; number < 500; number++) {
    await writeFile(join(folder, 'model.safetensors'), mutateFile(dice, original));
    if (await survives(t, number, () => readAll(folder))) accepted++;
  }
  t.true(accepted < 100, `${accepted} were accepted: the mutations do too little`);
});

test('300 broken indices: refused, or what they say is true', async (t) => {
  const folder = await scratch(t);
  for (const name of await readdir(fixture('sharded-bf16')))
    await copyFile(join(fixture('sharded-bf16'), name), join(folder, name));
  const dice = new Dice(2);
  const original = await readFile(fixture('sharded-bf16/model.safetensors.index.json'), 'utf8');
  let accepted = 0;
  for (let number = 0; number < 300; number++) {
    await writeFile(join(folder, 'model.safetensors.index.json'), mutateText(dice, original));
    if (await survives(t, number, () => readAll(folder))) accepted++;
  }
  t.true(accepted < 100, `${accepted} were accepted: the mutations do too little`);
});

test('600 broken adapters: refused, or they have finite ranks and scales', async (t) => {
  const folder = await scratch(t);
  const dice = new Dice(3);
  const config = await readFile(fixture('adapter-rslora/adapter_config.json'), 'utf8');
  const weights = await readFile(fixture('adapter-rslora/adapter_model.safetensors'));
  let accepted = 0;
  for (let number = 0; number < 600; number++) {
    const breaksConfig = dice.roll(2) === 0;
    await writeFile(join(folder, 'adapter_config.json'), breaksConfig ? mutateText(dice, config) : config);
    await writeFile(join(folder, 'adapter_model.safetensors'), breaksConfig ? weights : mutateFile(dice, weights));
    const survived = await survives(t, number, async () => {
      const { tensors } = await readAdapter(folder);
      for (const [name, { a, b, rank, scale, inFeatures, outFeatures }] of tensors) {
        if (!(scale > 0 && Number.isFinite(scale))) throw new Error(`${name} has scale ${scale}`);
        if (a.length !== rank * inFeatures || b.length !== outFeatures * rank)
          throw new Error(`${name} has ${a.length} and ${b.length} values`);
      }
    });
    if (survived) accepted++;
  }
  t.true(accepted < 300, `${accepted} were accepted: the mutations do too little`);
});

test('300 broken NF4 states: refused, or they describe the codes that are there', async (t) => {
  const folder = await scratch(t);
  const dice = new Dice(4);
  const bytes = await readFile(fixture('bnb-nf4-double/model.safetensors'));
  const config = JSON.parse(await readFile(fixture('bnb-nf4-double/config.json'), 'utf8'));
  const state = bytes.indexOf('{"quant_type"');
  const stateEnd = bytes.indexOf('}', state) + 1;
  const maps = bytes.readBigUInt64LE();
  let accepted = 0;
  for (let number = 0; number < 300; number++) {
    const copy = Buffer.from(bytes);
    if (dice.roll(2) === 0) {
      // The JSON keeps its length, so that the mistake is in what it says.
      const text = mutateText(dice, bytes.toString('utf8', state, stateEnd));
      copy.write(text.slice(0, stateEnd - state).padEnd(stateEnd - state), state, 'latin1');
    } else {
      copy[8 + Number(maps) + dice.roll(6000)] = dice.roll(256); // scales and maps of the first layers
    }
    await writeFile(join(folder, 'model.safetensors'), copy);
    const survived = await survives(t, number, async () => {
      const checkpoint = await Checkpoint.open(folder);
      try {
        for (const { shape, codes, absmax } of findNf4Tensors(checkpoint, config).values()) {
          const numel = shape[0]! * shape[1]!;
          if (codes.bytes !== Math.ceil(numel / 2) || absmax.bytes !== Math.ceil(numel / 64))
            throw new Error(`${codes.name}: shape [${shape}]`);
        }
      } finally {
        checkpoint.close();
      }
    });
    if (survived) accepted++;
  }
  t.true(accepted < 200, `${accepted} were accepted: the mutations do too little`);
});
