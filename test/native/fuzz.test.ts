/**
 * Every op of the table, called with operands that nobody checked: calls that are well formed but for one or two mistakes, and
 * calls made of nothing but chance. Seeded. Whatever comes, an op either refuses with a code and leaves its outputs alone, or
 * runs; it never writes outside of its outputs, and the same call gives the same bytes.
 */
import test from 'ava';
import { addon, type DType, dtypeBytes, type Nf4Ref, type Storage, type TensorRef } from '../../lib/native.js';
import { Numbers } from '../ops/matrices.js';

const SEED = 20_250_701;
/** Bytes beside a tensor that no op may touch. */
const MARGIN = 64;
const MARK = 0xa5;
const REFUSALS = new Set(['ERR_SHAPE', 'ERR_DTYPE', 'ERR_ARGUMENT', 'ERR_OUT_OF_MEMORY']);

// ---- Descriptions of calls ------------------------------------------------------------------------------------------

interface Operand {
  dtype: DType;
  shape: number[];
  /** Instead of numbers by chance. */
  data?: number[];
}

interface Call {
  op: string;
  inputs: (Operand | null)[];
  outputs: (Operand | null)[];
  attrs: Record<string, number>;
}

class Chance extends Numbers {
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
  maybe<T>(item: T): T | null {
    return this.uniform() < 0.5 ? item : null;
  }
}

const DTYPES: readonly DType[] = ['f32', 'bf16', 'f16', 'i32', 'u8', 'i64', 'nf4'];
const LENGTHS: readonly number[] = [0, 1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 65, 130];
const ABSURD: readonly number[] = [
  0,
  -1,
  1,
  2,
  7,
  0.5,
  63,
  257,
  65_536,
  2 ** 31,
  2 ** 53,
  -(2 ** 63),
  1e300,
  1e-300,
  Infinity,
  -Infinity,
  NaN,
];
const ABSURD_INTEGERS: readonly number[] = [0, 1, -1, -100, 5, 64, 65, 2 ** 31 - 1, -(2 ** 31)];
/** No memory holds these, unless another length is 0. */
const HUGE: readonly number[] = [2 ** 31, 2 ** 32, 2 ** 52, 2 ** 53 - 1];

const numelOf = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

/** A call of each op that its contract allows, with lengths of chance. */
function wellFormed(op: string, chance: Chance): Call {
  const n = chance.pick(LENGTHS);
  const d = chance.pick(LENGTHS);
  const m = chance.pick(LENGTHS);
  const activation = chance.pick(['f32', 'bf16'] as const);
  const weightDType = chance.pick(['f32', 'bf16', 'f16', 'nf4'] as const);
  const floats = (...shape: number[]): Operand => ({ dtype: 'f32', shape });
  const act = (...shape: number[]): Operand => ({ dtype: activation, shape });
  const bytes = (...shape: number[]): Operand => ({ dtype: 'u8', shape });
  const ids = (count: number, limit: number): Operand => ({
    dtype: 'i32',
    shape: [count],
    data: Array.from({ length: count }, () => chance.below(limit)),
  });
  const ceil = (a: number, b: number): number => Math.ceil(a / b);
  const call = (inputs: (Operand | null)[], outputs: (Operand | null)[], attrs: Record<string, number> = {}): Call => ({
    op,
    inputs,
    outputs,
    attrs,
  });

  const taps = 1 + chance.below(4);
  const bags = (flat: Operand): Operand => ({ ...flat, shape: [n, taps] });
  const kvHeads = 1 + chance.below(2);
  const heads = kvHeads * (1 + chance.below(3));
  const half = 1 + chance.below(24);
  const queries = act(n, heads * 2 * half);
  const keys = act(n, kvHeads * 2 * half);
  const attention = { heads, kv_heads: kvHeads, head_dim: 2 * half, scale: 0.2, causal: chance.below(2) };
  const cut = chance.below(n + 1);
  const bounds: Operand = { dtype: 'i32', shape: [4], data: [0, cut, cut, n] };
  const lse = floats(heads, n);
  const angles = floats(n, half);
  const rank = chance.pick([1, 4, 17]);
  const weight: Operand = { dtype: weightDType, shape: [m, d] };
  const adapter = chance.below(2) === 1;
  const rng: Operand = { dtype: 'i32', shape: [2] };
  const linear = { scale: 2, dropout: chance.pick([0, 0.1]), site: chance.below(9), accumulate: chance.below(2) };

  switch (op) {
    case 'embedding':
      return call([ids(n, 9), { dtype: chance.pick(['f32', 'bf16', 'f16'] as const), shape: [9, d] }], [act(n, d)]);
    case 'embedding_backward':
      return call([ids(n, 9), act(n, d)], [floats(9, d)]);
    case 'embedding_bag':
      return call(
        [
          bags(ids(n * taps, 9)),
          floats(n, taps),
          { dtype: chance.pick(['f32', 'bf16', 'f16'] as const), shape: [9, d] },
          chance.maybe(act(n, d)),
        ],
        [act(n, d)],
      );
    case 'embedding_bag_backward':
      return call([bags(ids(n * taps, 9)), floats(n, taps), act(n, d)], [floats(9, d)]);
    case 'rms_norm': {
      const residual = chance.maybe(act(n, d));
      return call([act(n, d), floats(d), residual], [act(n, d), floats(n), residual && act(n, d)], { eps: 1e-6 });
    }
    case 'rms_norm_backward':
      return call([act(n, d), act(n, d), act(d), floats(n), chance.maybe(act(n, d))], [act(n, d), chance.maybe(floats(d))], {
        eps: 1e-6,
      });
    case 'layer_norm': {
      const residual = chance.maybe(act(n, d));
      return call([act(n, d), act(d), act(d), residual], [act(n, d), floats(n, 2), residual && act(n, d)], { eps: 1e-6 });
    }
    case 'layer_norm_backward':
      return call(
        [act(n, d), act(n, d), act(d), floats(n, 2), chance.maybe(act(n, d))],
        [act(n, d), chance.maybe(floats(d)), chance.maybe(floats(d))],
        { eps: 1e-6 },
      );
    case 'rope_table': {
      const sections = {
        section_t: half - Math.floor(half / 3) * 2,
        section_h: Math.floor(half / 3),
        section_w: Math.floor(half / 3),
      };
      const interleaved = chance.below(2);
      const axial = interleaved === 1 ? 0 : chance.below(2);
      return call([{ dtype: 'i32', shape: [3, n] }], [angles, angles], { theta: 1e4, ...sections, interleaved, axial });
    }
    case 'qkv_rope':
      return call([act(n, 3 * heads * 2 * half), angles, angles], [queries, queries, queries], { head_dim: 2 * half });
    case 'qkv_rope_backward':
      return call([queries, queries, queries, angles, angles], [act(n, 3 * heads * 2 * half)], { head_dim: 2 * half });
    case 'qk_norm_rope': {
      const norm = chance.maybe(floats(2 * half));
      return call([queries, norm, angles, angles], [queries, norm && floats(n, heads)], { head_dim: 2 * half, eps: 1e-6 });
    }
    case 'qk_norm_rope_backward': {
      const norm = chance.maybe(floats(2 * half));
      return call(
        [queries, queries, norm, norm && floats(n, heads), angles, angles],
        [queries, norm && chance.maybe(floats(2 * half))],
        { head_dim: 2 * half, eps: 1e-6 },
      );
    }
    case 'swiglu':
      return call([act(n, d), act(n, d)], [act(n, d)]);
    case 'swiglu_backward':
      return call([act(n, d), act(n, d), act(n, d)], [act(n, d), act(n, d)]);
    case 'gelu':
      return call([act(n, d)], [act(n, d)], { tanh: chance.below(2) });
    case 'gelu_backward':
      return call([act(n, d), act(n, d)], [act(n, d)], { tanh: chance.below(2) });
    case 'attention':
      return call([queries, keys, keys, bounds], [queries, lse], attention);
    case 'attention_backward':
      return call([queries, queries, keys, keys, queries, lse, bounds], [queries, keys, keys], attention);
    case 'attention_cached': {
      const cache = act(n + 9, kvHeads * 2 * half);
      const past: Operand = { dtype: 'i32', shape: [1], data: [chance.below(10)] };
      return call([queries, keys, keys, past], [queries, cache, cache], attention);
    }
    case 'linear':
      return call(
        [
          act(n, d),
          weight,
          chance.maybe(act(m)),
          adapter ? floats(rank, d) : null,
          adapter ? floats(m, rank) : null,
          chance.maybe(rng),
        ],
        [act(n, m), adapter ? floats(n, rank) : null],
        linear,
      );
    case 'linears_one': {
      const norm = chance.maybe(floats(d));
      const residual = norm && chance.maybe(act(1, d));
      const gated = chance.below(2);
      const layers = gated ? 2 : 1 + chance.below(3);
      const layer = [weight, chance.maybe(act(m)), adapter ? floats(rank, d) : null, adapter ? floats(m, rank) : null];
      return call(
        [act(1, d), residual, norm, ...Array.from({ length: layers }, () => layer).flat()],
        [residual && act(1, d), ...Array.from({ length: gated ? 1 : layers }, () => act(1, m))],
        { eps: 1e-6, scale: 2, swiglu: gated },
      );
    }
    case 'layers_one': {
      const [layers, width] = [1 + chance.below(2), 2 * half];
      const linear = (out: number, from: number): (Operand | null)[] => [
        floats(out, from),
        chance.maybe(act(out)),
        adapter ? floats(rank, from) : null,
        adapter ? floats(out, rank) : null,
      ];
      const [inner, keys] = [heads * width, kvHeads * width];
      const each = Array.from({ length: layers }, () => [
        ...[act(d), ...linear(inner, d), ...linear(keys, d), ...linear(keys, d)],
        ...[chance.maybe(floats(width)), chance.maybe(floats(width)), ...linear(d, inner)],
        ...[act(d), ...linear(m, d), ...linear(m, d), ...linear(d, m)],
      ]).flat();
      const past: Operand = { dtype: 'i32', shape: [1], data: [chance.below(n + 1)] };
      const angle = floats(1, half);
      return call(
        [act(1, d), chance.maybe(act(1, d)), angle, angle, past, ...each],
        [act(1, d), act(1, d), ...Array.from({ length: 2 * layers }, () => act(1 + n, keys))],
        { ...attention, layers, eps: 1e-6, lora_scale: 2 },
      );
    }
    case 'attention_one': {
      const row = (width: number): Operand => act(1, width * 2 * half);
      const cache = act(1 + n, kvHeads * 2 * half);
      const past: Operand = { dtype: 'i32', shape: [1], data: [chance.below(n + 1)] };
      const angle = floats(1, half);
      return call(
        [
          row(heads),
          row(kvHeads),
          row(kvHeads),
          chance.maybe(floats(2 * half)),
          chance.maybe(floats(2 * half)),
          angle,
          angle,
          past,
        ],
        [row(heads), cache, cache],
        { ...attention, eps: 1e-6 },
      );
    }
    case 'linear_backward':
      return call(
        [
          act(n, m),
          act(n, d),
          weight,
          adapter ? floats(rank, d) : null,
          adapter ? floats(m, rank) : null,
          adapter ? floats(n, rank) : null,
          chance.maybe(rng),
        ],
        [
          chance.maybe(act(n, d)),
          chance.maybe(floats(m, d)),
          chance.maybe(floats(m)),
          adapter ? chance.maybe(floats(rank, d)) : null,
          adapter ? chance.maybe(floats(m, rank)) : null,
        ],
        linear,
      );
    case 'linear_cross_entropy': {
      const targets = m > 0 ? ids(n, m) : { dtype: 'i32' as const, shape: [n], data: new Array<number>(n).fill(-100) };
      if (n > 0) targets.data![chance.below(n)] = -100;
      return call([act(n, d), weight, targets, floats(1)], [floats(1), chance.maybe(act(n, d)), chance.maybe(floats(m, d))]);
    }
    case 'sample': {
      const words = 1 + n;
      const at = (data: number[], ...shape: number[]): Operand => ({ dtype: 'i32', shape, data });
      const sampling: Operand = { ...floats(4), data: [chance.pick([0, 0.8]), chance.below(9), 0.9, 1.1] };
      return call(
        [act(1, words), sampling, floats(d)],
        [bytes(words), at([0], 1), at([5, 5, 5], 3, 1), at([5], 1), { dtype: 'i32', shape: [d] }, at([chance.below(d + 1)], 1)],
      );
    }
    case 'add':
      return call([act(n, d), act(n, d)], [act(n, d)]);
    case 'cast':
      return call([{ dtype: weightDType, shape: [n, d] }], [act(n * d)]);
    case 'fill':
      return call([], [floats(n, d)], { value: 3 });
    case 'select_rows':
      return call([act(9, d), ids(n, 9)], [act(n, d)]);
    case 'scatter_rows': {
      const rows = Array.from({ length: n }, (_, i) => i).filter(() => chance.below(2) === 1);
      const accumulate = chance.below(2);
      const values = act(rows.length, d);
      return call(
        [act(n, d), { dtype: 'i32', shape: [rows.length], data: rows }, accumulate ? values : chance.maybe(values)],
        [act(n, d)],
        { accumulate },
      );
    }
    case 'copy':
      return call([bytes(n)], [bytes(n)]);
    case 'move_begin':
      return call([act(n, d)], [act(n * d)], { slot: chance.below(1024) });
    case 'move_end':
      return call([act(n, d), act(n, d)], [], { slot: 0 });
    case 'nf4_quantize':
      return call(
        [{ dtype: chance.pick(['f32', 'bf16', 'f16'] as const), shape: [n, d] }],
        [bytes(ceil(n * d, 2)), floats(ceil(n * d, 64))],
      );
    case 'nf4_quantize_absmax':
      return call([floats(n)], [bytes(n), floats(ceil(n, 256)), floats(1)]);
    case 'nf4_dequantize':
      return call([{ dtype: 'nf4', shape: [n, d] }], [act(n, d)]);
    case 'dynamic_map':
      return call([], [floats(256), floats(256)]);
    case 'grad_norm':
      return call([floats(n), chance.pick([floats(1), null])], [floats(1), floats(1)], { max_grad_norm: 1 });
    case 'adamw': {
      // Two tensors, one with 8-bit state; the second starts at element 256 of everything.
      const hyper: Operand = { ...floats(8), data: [1e-3, 0.9, 0.999, 1e-8, 0.01, 1 + chance.below(4), 0, 0] };
      const segments: Operand = { dtype: 'i32', shape: [2, 6], data: [0, n, 0, 1, 1, 0, 1, m, 0, 0, 0, 0] };
      return call(
        [floats(256 + m), floats(1), hyper, segments],
        [floats(256 + m), bytes(256), bytes(256), floats(1), floats(1), floats(m), floats(m)],
        { variant: 0 },
      );
    }
    default:
      throw new Error(`no well-formed call of ${op} is written here`);
  }
}

/** Makes one mistake somewhere, or what may be one. */
function damage(call: Call, chance: Chance): void {
  const side = chance.pick([call.inputs, call.outputs]);
  const i = chance.below(side.length);
  const operand = side[i];
  switch (chance.below(9)) {
    case 0:
      side[i] = null;
      return;
    case 1:
      side.splice(i, 1);
      return;
    case 2:
      side.push(anyOperand(chance));
      return;
    case 3:
      if (operand) side[i] = { dtype: chance.pick(DTYPES), shape: operand.shape };
      return;
    case 4:
      if (operand) side[i] = { dtype: operand.dtype, shape: anyShape(chance) };
      return;
    case 5:
      if (operand) {
        const shape = [...operand.shape];
        shape[chance.below(shape.length)]! += chance.pick([-1, 1, 64]);
        side[i] = { dtype: operand.dtype, shape: shape.map((length) => Math.max(0, length)) };
      }
      return;
    case 6:
      if (operand?.dtype === 'i32' && numelOf(operand.shape) > 0) {
        const data = operand.data ? [...operand.data] : Array.from({ length: numelOf(operand.shape) }, () => chance.below(9));
        data[chance.below(data.length)] = chance.pick(ABSURD_INTEGERS);
        side[i] = { ...operand, data };
      }
      return;
    default: {
      const names = Object.keys(call.attrs);
      if (names.length === 0) return;
      const name = chance.pick(names);
      if (chance.below(5) === 0) delete call.attrs[name];
      else call.attrs[name] = chance.pick(ABSURD);
    }
  }
}

function anyShape(chance: Chance): number[] {
  const shape = Array.from({ length: 1 + chance.below(4) }, () => chance.pick(LENGTHS));
  // At most a few thousand elements.
  while (numelOf(shape) > 9000) shape.pop();
  if (chance.below(12) === 0) shape[chance.below(shape.length)] = chance.pick(HUGE);
  return shape;
}

function anyOperand(chance: Chance): Operand | null {
  return chance.below(6) === 0 ? null : { dtype: chance.pick(DTYPES), shape: anyShape(chance) };
}

function anyCall(op: string, chance: Chance): Call {
  const operands = (): (Operand | null)[] => Array.from({ length: chance.below(9) }, () => anyOperand(chance));
  const attrs: Record<string, number> = {};
  for (const name of Object.keys(wellFormed(op, chance).attrs))
    if (chance.below(3) > 0) attrs[name] = chance.pick([2, 16, ...ABSURD]);
  return { op, inputs: operands(), outputs: operands(), attrs };
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

/** A block of memory that knows what it should hold. */
class Held {
  readonly storage: Storage;
  readonly bytes: Uint8Array;
  readonly #whole: Uint8Array;

  constructor(bytes: number) {
    this.storage = addon().allocate(bytes + 2 * MARGIN, 'cpu');
    this.#whole = new Uint8Array(bytes + 2 * MARGIN).fill(MARK);
    this.bytes = this.#whole.subarray(MARGIN, MARGIN + bytes);
  }

  write(): void {
    addon().write(this.storage, 0, this.#whole);
  }

  /** What the memory holds now; the margins must be as they were. */
  read(): Buffer {
    const now = Buffer.alloc(this.#whole.length);
    addon().read(this.storage, 0, now);
    const end = now.length - MARGIN;
    if (now.subarray(0, MARGIN).some((byte) => byte !== MARK)) throw new Error('bytes before an operand were written');
    if (now.subarray(end).some((byte) => byte !== MARK)) throw new Error('bytes after an operand were written');
    return now.subarray(MARGIN, end);
  }
}

interface Placed {
  readonly ref: TensorRef;
  readonly held: readonly Held[];
}

/** An operand in memory of its own. One that no memory holds claims to lie in a small block, and is to be refused for that. */
function place(operand: Operand, chance: Chance): Placed {
  const { dtype, shape, data } = operand;
  const bytes = dtypeBytes(dtype, numelOf(shape));
  const codes = new Held(bytes < 2 ** 20 ? bytes : 256);
  fillNumbers(codes.bytes, dtype, data, chance);
  const held = [codes];
  let nf4: Nf4Ref | undefined;
  if (dtype === 'nf4') {
    const part = (size: number): { storage: Storage; offset: number } => {
      const block = new Held(size);
      fillNumbers(block.bytes, size % 4 === 0 ? 'f32' : 'u8', undefined, chance);
      held.push(block);
      return { storage: block.storage, offset: MARGIN };
    };
    const blocks = Math.min(Math.ceil(numelOf(shape) / 64), 2 ** 16);
    nf4 =
      chance.below(2) === 0
        ? { absmax: part(blocks * 4) }
        : { absmaxU8: part(blocks), nestedAbsmax: part(Math.ceil(blocks / 256) * 4), nestedOffset: 0.1 };
  }
  for (const block of held) block.write();
  return { ref: { storage: codes.storage, offset: MARGIN, dtype, shape, ...(nf4 ? { nf4 } : {}) }, held };
}

function fillNumbers(bytes: Uint8Array, dtype: DType, data: number[] | undefined, chance: Chance): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const special = chance.below(8) === 0;
  const number = (): number =>
    special && chance.below(16) === 0 ? chance.pick([NaN, Infinity, -Infinity, 3e38, -0, 1e-42]) : chance.normal();
  if (dtype === 'f32') {
    for (let at = 0, i = 0; at + 4 <= bytes.length; at += 4) view.setFloat32(at, data ? data[i++]! : number(), true);
  } else if (dtype === 'i32') {
    for (let at = 0, i = 0; at + 4 <= bytes.length; at += 4) view.setInt32(at, data ? data[i++]! : chance.below(9), true);
  } else if (dtype === 'bf16' || dtype === 'f16') {
    // Exponents around that of 1; now and then any bits.
    for (let at = 0; at + 2 <= bytes.length; at += 2)
      view.setUint16(at, special ? chance.below(65536) : (dtype === 'bf16' ? 0x3f00 : 0x3800) | chance.below(256), true);
  } else {
    for (let at = 0; at < bytes.length; at++) bytes[at] = chance.below(256);
  }
}

// ---- The check ------------------------------------------------------------------------------------------------------

type Outcome = { readonly refused: string } | { readonly outputs: readonly Buffer[] };

function attempt(call: Call, inputs: readonly (Placed | null)[], outputs: readonly (Placed | null)[]): Outcome {
  const blocks = (placed: readonly (Placed | null)[]): Held[] => placed.flatMap((operand) => operand?.held ?? []);
  for (const block of blocks(outputs)) block.write();
  const refs = (placed: readonly (Placed | null)[]): (TensorRef | null)[] => placed.map((operand) => operand?.ref ?? null);
  let refused: string | undefined;
  try {
    addon().call(call.op, refs(inputs), refs(outputs), call.attrs);
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    if (!REFUSALS.has(code ?? '') || message === '') throw error;
    refused = code!;
  }
  for (const block of blocks(inputs)) if (!block.read().equals(block.bytes)) throw new Error('an input was written');
  const written = blocks(outputs).map((block) => block.read());
  if (refused === undefined) return { outputs: written };
  for (const [i, block] of blocks(outputs).entries()) {
    if (!written[i]!.equals(block.bytes)) throw new Error(`refused with ${refused}, but an output was written`);
  }
  return { refused };
}

/** Runs the call twice. Returns whether it was refused. */
function check(call: Call, chance: Chance): boolean {
  const place1 = (operand: Operand | null): Placed | null => (operand ? place(operand, chance) : null);
  const inputs = call.inputs.map(place1);
  const outputs = call.outputs.map(place1);
  const [first, second] = [attempt(call, inputs, outputs), attempt(call, inputs, outputs)];
  for (const operand of [...inputs, ...outputs]) for (const { storage } of operand?.held ?? []) addon().release(storage);
  if ('refused' in first || 'refused' in second) {
    if (JSON.stringify(first) !== JSON.stringify(second)) throw new Error('refused once and not the other time');
    return true;
  }
  // Segments of adamw that overlap are updated by whichever thread comes first.
  const differs = first.outputs.some((bytes, i) => !bytes.equals(second.outputs[i]!));
  if (differs && call.op !== 'adamw') throw new Error('the same call gave other bytes');
  return false;
}

function describeCall({ inputs, outputs, attrs }: Call): string {
  const list = (operands: readonly (Operand | null)[]): string =>
    operands
      .map((o) => (o ? `${o.dtype}[${o.shape.join(',')}]${o.data ? ` {${o.data.slice(0, 12).join(',')}}` : ''}` : 'null'))
      .join('  ');
  const values = Object.entries(attrs).map(([name, value]) => `${name}=${value}`);
  return `in: ${list(inputs)}\nout: ${list(outputs)}\nattrs: ${values.join(' ')}`;
}

const PLANS: readonly { name: string; rounds: number; make: (op: string, chance: Chance) => Call }[] = [
  { name: 'well formed', rounds: 15, make: wellFormed },
  {
    name: 'with one mistake or two',
    rounds: 60,
    make: (op, chance) => {
      const call = wellFormed(op, chance);
      for (let i = 1 + chance.below(2); i > 0; i--) damage(call, chance);
      return call;
    },
  },
  { name: 'by chance', rounds: 25, make: anyCall },
];

for (const [i, op] of addon().opNames().entries()) {
  test.serial(`${op}: any call is refused with a code or gives the same bytes twice, and touches nothing else`, (t) => {
    const chance = new Chance(SEED + i);
    for (const { name, rounds, make } of PLANS) {
      let refused = 0;
      for (let round = 0; round < rounds; round++) {
        const call = make(op, chance);
        try {
          if (check(call, chance)) refused++;
        } catch (error) {
          t.fail(`${name}, round ${round}: ${(error as Error).message}\n${describeCall(call)}`);
          return;
        }
      }
      // The plans do what they say.
      if (name === 'well formed') t.is(refused, 0, name);
      else t.true(refused > 0, name);
    }
  });
}
