/** Every op with operands of odd shapes: what a GPU must compute as the CPU does. */
import { addon, type Device, type DType, type TensorRef } from '../../lib/native.js';
import { Eager, Tensor } from '../../lib/ops/tensor.js';
import { floats, integers, Numbers, random } from '../ops/support.js';

type Activation = 'f32' | 'bf16' | 'f16';
const ACTIVATIONS: readonly Activation[] = ['f32', 'bf16', 'f16'];

/** An NF4 matrix by its parts, which are moved to a device one by one. */
interface Nf4Parts {
  readonly shape: readonly number[];
  readonly codes: Tensor;
  readonly scales: Tensor | { readonly absmaxU8: Tensor; readonly nestedAbsmax: Tensor; readonly offset: number };
}

export type Operand = Tensor | Nf4Parts | null;

/**
 * How near an output must be: a bound on the norm of the difference relative to the norm; `same` bytes; or codes of which one in a
 * hundred may be its neighbour.
 */
export type Bound = number | 'same' | 'codes';

export interface OpCase {
  readonly name: string;
  readonly op: string;
  readonly inputs: readonly Operand[];
  /** With what is in them before. */
  readonly outputs: readonly (Tensor | null)[];
  readonly attrs?: Readonly<Record<string, number>>;
  /** Activations are f16, which the CPU does not compute in: its twin there takes and gives f32, and rounds nothing in between. */
  readonly half?: boolean;
  /** Of each output; one stands for all. Default: by the activations' dtype. */
  readonly bounds?: Bound | readonly Bound[];
}

const BOUNDS: Readonly<Record<Activation, number>> = { f32: 2e-6, bf16: 4e-3, f16: 1e-3 };

/** Where values meet in products of products: rounded differently in between. */
const DEEP_BOUNDS: Readonly<Record<Activation, number>> = { f32: 1e-5, bf16: 1e-2, f16: 2e-3 };

function place(operand: Operand, device: Device): Tensor | null {
  if (operand === null) return null;
  if (operand instanceof Tensor) return operand.to(device);
  const codes = operand.codes.to(device);
  if (operand.scales instanceof Tensor) return Tensor.nf4(operand.shape, codes, operand.scales.to(device));
  const { absmaxU8, nestedAbsmax, offset } = operand.scales;
  return Tensor.nf4(operand.shape, codes, { absmaxU8: absmaxU8.to(device), nestedAbsmax: nestedAbsmax.to(device), offset });
}

/** Dtype and shape of an operand, as a plan knows it. */
export function shapeOf(operand: Tensor | Nf4Parts): { readonly dtype: DType; readonly shape: readonly number[] } {
  return operand instanceof Tensor ? { dtype: operand.dtype, shape: operand.shape } : { dtype: 'nf4', shape: operand.shape };
}

/** A tensor of f16 as f32; any other operand as it is. */
function widened<T extends Operand>(operand: T): T | Tensor {
  return operand instanceof Tensor && operand.dtype === 'f16' ? Tensor.from(operand.toFloat32(), operand.shape) : operand;
}

/** What the CPU makes of f16, by way of f32. */
function narrowed(made: readonly (Tensor | null)[], as: readonly (Tensor | null)[]): (Tensor | null)[] {
  return made.map((tensor, i) =>
    tensor && as[i]!.dtype === 'f16' ? Tensor.from(tensor.toFloat32(), tensor.shape, 'f16') : tensor,
  );
}

/** Runs a case on a device, on operands of its own. */
export function runCase(c: OpCase, device: Device): (Tensor | null)[] {
  if (c.half && device === 'cpu') {
    const twin = { ...c, inputs: c.inputs.map(widened), outputs: c.outputs.map(widened), half: false };
    return narrowed(runCase(twin, device), c.outputs);
  }
  const { op, inputs, outputs, attrs } = c;
  const into = outputs.map((output) => output && { into: output.to(device) });
  // Operands stay referenced until the op is done: NF4 matrices do not own their parts.
  const placed = inputs.map((operand) => place(operand, device));
  return new Eager().emit(op, placed, into, attrs ?? {});
}

function zeros(dtype: Activation | 'i32' | 'u8', ...shape: number[]): Tensor {
  return Tensor.zeros(shape, dtype);
}

function like(tensor: Tensor): Tensor {
  return Tensor.zeros(tensor.shape, tensor.dtype as 'f32');
}

/** Norms have weights of f32 or bf16. */
function normDType(dtype: Activation): 'f32' | 'bf16' {
  return dtype === 'f16' ? 'f32' : dtype;
}

/** A case whose outputs are computed on the CPU first, to be another's operands. */
function computed(
  op: string,
  inputs: readonly (Tensor | null)[],
  outputs: readonly (Tensor | null)[],
  attrs = {},
): (Tensor | null)[] {
  const refs = (tensors: readonly (Tensor | null)[]): (TensorRef | null)[] => tensors.map((tensor) => tensor?.ref ?? null);
  const half = outputs.some((output) => output?.dtype === 'f16');
  const made = half ? outputs.map(widened) : outputs;
  addon().call(op, refs(half ? inputs.map(widened) : inputs), refs(made), attrs);
  return narrowed(made, outputs);
}

function nf4(numbers: Numbers, out: number, width: number, doubleQuant: boolean): Nf4Parts {
  const numel = out * width;
  const blocks = Math.ceil(numel / 64);
  const [codes, absmax] = [zeros('u8', Math.ceil(numel / 2)), zeros('f32', blocks)];
  computed('nf4_quantize', [random(numbers, 'f32', [numel], 0.1)], [codes, absmax]);
  const shape = [out, width];
  if (!doubleQuant) return { shape, codes, scales: absmax };
  const [absmaxU8, nestedAbsmax, offset] = [zeros('u8', blocks), zeros('f32', Math.ceil(blocks / 256)), zeros('f32', 1)];
  computed('nf4_quantize_absmax', [absmax], [absmaxU8, nestedAbsmax, offset]);
  return { shape, codes, scales: { absmaxU8, nestedAbsmax, offset: offset.toFloat32()[0]! } };
}

function ids(numbers: Numbers, count: number, limit: number): Tensor {
  return integers(Array.from({ length: count }, () => Math.floor(numbers.uniform() * limit)));
}

function bounds(lengths: readonly number[]): Tensor {
  let end = 0;
  return integers([0, ...lengths.map((length) => (end += length))]);
}

// ---- Families of ops

function embeddings(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const d of [1, 64, 130]) {
    const [n, vocab] = [77, 50];
    const which = ids(numbers, n, vocab);
    for (const dtype of ACTIVATIONS) {
      for (const weight of ['f32', 'bf16', 'f16'] as const) {
        cases.push({
          name: `embedding ${weight} -> ${dtype}, d ${d}`,
          op: 'embedding',
          inputs: [which, random(numbers, weight, [vocab, d])],
          outputs: [zeros(dtype, n, d)],
          bounds: 'same',
        });
      }
      cases.push({
        name: `embedding_backward ${dtype}, d ${d}`,
        op: 'embedding_backward',
        inputs: [which, random(numbers, dtype, [n, d])],
        outputs: [random(numbers, 'f32', [vocab, d])],
        bounds: 2e-6,
      });
    }
  }
  return cases;
}

function embeddingBags(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  const [n, taps, words] = [77, 4, 50];
  const which = ids(numbers, n * taps, words);
  const bags = [Tensor.from(which.toInt32(), [n, taps]), random(numbers, 'f32', [n, taps])];
  for (const dtype of ACTIVATIONS) {
    for (const d of [1, 64, 130, 1152]) {
      for (const table of ['f32', 'bf16', 'f16'] as const) {
        for (const onTop of [false, true]) {
          cases.push({
            name: `embedding_bag ${table} -> ${dtype}, d ${d}${onTop ? ', on top' : ''}`,
            op: 'embedding_bag',
            inputs: [...bags, random(numbers, table, [words, d]), onTop ? random(numbers, dtype, [n, d]) : null],
            outputs: [zeros(dtype, n, d)],
          });
        }
      }
      cases.push({
        name: `embedding_bag_backward ${dtype}, d ${d}`,
        op: 'embedding_bag_backward',
        inputs: [...bags, random(numbers, dtype, [n, d])],
        outputs: [random(numbers, 'f32', [words, d])],
        bounds: 2e-6,
      });
    }
  }
  return cases;
}

function scatters(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const dtype of ACTIVATIONS) {
    for (const [n, rows, d] of [
      [9, [0, 3, 4, 8], 64],
      [300, Array.from({ length: 280 }, (_, i) => i + 7), 130],
      [5, [], 33],
      [40, Array.from({ length: 40 }, (_, i) => i), 2048],
      [0, [], 64],
    ] as const) {
      const x = random(numbers, dtype, [n, d]);
      const values = random(numbers, dtype, [rows.length, d]);
      const name = `${dtype}, ${rows.length} of ${n}x${d}`;
      const put = { op: 'scatter_rows', outputs: [like(x)], bounds: 'same' } as const;
      cases.push(
        { ...put, name: `scatter_rows ${name}`, inputs: [x, integers(rows), values] },
        { ...put, name: `scatter_rows ${name}, cleared`, inputs: [x, integers(rows), null] },
        { ...put, name: `scatter_rows ${name}, added`, inputs: [x, integers(rows), values], attrs: { accumulate: 1 } },
      );
    }
  }
  return cases;
}

function layerNorms(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const dtype of ACTIVATIONS) {
    for (const [n, d] of [
      [1, 3], // of two the norm is +-1, and the gradient nothing but rounding
      [33, 130],
      [70, 1152],
      [5, 4608],
      [0, 64],
    ] as const) {
      for (const weightType of ['f32', 'bf16'] as const) {
        for (const withSum of [false, true]) {
          const [x, residual, dy] = [0, 1, 2].map((i) => random(numbers, dtype, [n, d], 1, i === 0 ? 3 : 0));
          const [weight, bias] = [random(numbers, weightType, [d], 0.2, 1), random(numbers, weightType, [d])];
          const attrs = { eps: 1e-6 };
          const made = [zeros(dtype, n, d), zeros('f32', n, 2), withSum ? zeros(dtype, n, d) : null];
          const inputs = [x!, weight, bias, withSum ? residual! : null];
          const name = `${dtype}, ${weightType} weight, ${n}x${d}${withSum ? ', with a residual' : ''}`;
          cases.push({
            name: `layer_norm ${name}`,
            op: 'layer_norm',
            inputs,
            outputs: made,
            attrs,
            bounds: [BOUNDS[dtype] * 1.5, dtype === 'f16' && withSum ? 1e-3 : 4e-6, 'same'], // f16: of rounded sums
          });
          const [, stats, sum] = computed(
            'layer_norm',
            inputs,
            made.map((m) => m && like(m)),
            attrs,
          );
          cases.push({
            name: `layer_norm_backward ${name}`,
            op: 'layer_norm_backward',
            inputs: [dy!, sum ?? x!, weight, stats!, withSum ? residual! : null],
            outputs: [
              zeros(dtype, n, d),
              withSum ? random(numbers, 'f32', [d]) : null,
              withSum || weightType === 'bf16' ? random(numbers, 'f32', [d]) : null,
            ],
            attrs,
            bounds: [dtype === 'f32' ? 1e-5 : BOUNDS.bf16 * 1.5, 1e-5, 1e-5],
          });
        }
      }
    }
  }
  return cases;
}

function norms(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const dtype of ACTIVATIONS) {
    for (const [n, d] of [
      [1, 1],
      [33, 130],
      [5, 2048],
      [0, 64],
    ] as const) {
      for (const weightType of ['f32', 'bf16'] as const) {
        for (const withSum of [false, true]) {
          const [x, residual, dy] = [0, 1, 2].map(() => random(numbers, dtype, [n, d]));
          const weight = random(numbers, weightType, [d], 0.2, 1);
          const attrs = { eps: 1e-6 };
          const made = [zeros(dtype, n, d), zeros('f32', n), withSum ? zeros(dtype, n, d) : null];
          const name = `${dtype}, ${weightType} weight, ${n}x${d}${withSum ? ', with a residual' : ''}`;
          cases.push({
            name: `rms_norm ${name}`,
            op: 'rms_norm',
            inputs: [x!, weight, withSum ? residual! : null],
            outputs: made,
            attrs,
          });
          const [, rstd, sum] = computed(
            'rms_norm',
            [x!, weight, withSum ? residual! : null],
            made.map((m) => m && like(m)),
            attrs,
          );
          cases.push({
            name: `rms_norm_backward ${name}`,
            op: 'rms_norm_backward',
            inputs: [dy!, sum ?? x!, weight, rstd!, withSum ? residual! : null],
            outputs: [zeros(dtype, n, d), withSum ? random(numbers, 'f32', [d]) : null],
            attrs,
            bounds: [BOUNDS[dtype], 1e-5],
          });
        }
      }
    }
  }
  return cases;
}

function rotations(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const [h, sections] of [
    [128, [24, 20, 20]],
    [10, [3, 1, 1]],
  ] as const) {
    const n = 45;
    const positions = integers(
      Array.from({ length: 3 * n }, (_, i) => (i % n) * 7 + Math.floor(i / n)),
      [3, n],
    );
    const [section_t, section_h, section_w] = sections;
    for (const interleaved of [0, 1]) {
      const attrs = { theta: 5e6, section_t, section_h, section_w, interleaved };
      const table = [zeros('f32', n, h / 2), zeros('f32', n, h / 2)];
      cases.push({
        name: `rope_table ${h}, interleaved ${interleaved}`,
        op: 'rope_table',
        inputs: [positions],
        outputs: table,
        attrs,
      });
    }
    const table = [zeros('f32', n, h / 2), zeros('f32', n, h / 2)];
    const [cos, sin] = computed('rope_table', [positions], table, {
      theta: 1e4,
      section_t,
      section_h,
      section_w,
      interleaved: 1,
    });
    for (const dtype of ACTIVATIONS) {
      for (const heads of [1, 3]) {
        for (const normed of [false, true]) {
          const [x, dy] = [0, 1].map(() => random(numbers, dtype, [n, heads * h]));
          const weight = normed ? random(numbers, normDType(dtype), [h], 0.2, 1) : null;
          const attrs = { head_dim: h, eps: 1e-6 };
          const rstd = normed ? zeros('f32', n, heads) : null;
          const name = `${dtype}, ${heads}x${h}${normed ? ', normed' : ''}`;
          cases.push({
            name: `qk_norm_rope ${name}`,
            op: 'qk_norm_rope',
            inputs: [x!, weight, cos!, sin!],
            outputs: [like(x!), rstd],
            attrs,
          });
          computed('qk_norm_rope', [x!, weight, cos!, sin!], [like(x!), rstd], attrs);
          cases.push({
            name: `qk_norm_rope_backward ${name}`,
            op: 'qk_norm_rope_backward',
            inputs: [dy!, x!, weight, rstd, cos!, sin!],
            outputs: [like(x!), normed ? random(numbers, 'f32', [h]) : null],
            attrs,
            bounds: [BOUNDS[dtype], 1e-5],
          });
        }
      }
    }
  }
  return cases;
}

function fusedRotations(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  const axial = { theta: 1e4, section_t: 0, section_h: 18, section_w: 18, axial: 1 };
  const positions = integers(
    Array.from({ length: 3 * 45 }, (_, i) => (i % 45) * 7 + Math.floor(i / 45)),
    [3, 45],
  );
  cases.push({
    name: 'rope_table 72, axial',
    op: 'rope_table',
    inputs: [positions],
    outputs: [zeros('f32', 45, 36), zeros('f32', 45, 36)],
    attrs: axial,
  });
  for (const dtype of ACTIVATIONS) {
    for (const [n, heads, h] of [
      [45, 3, 64],
      [7, 2, 72],
      [300, 16, 80],
      [5, 1, 10],
      [1, 1, 2],
    ] as const) {
      const [cos, sin] = [random(numbers, 'f32', [n, h / 2]), random(numbers, 'f32', [n, h / 2])];
      const qkv = random(numbers, dtype, [n, 3 * heads * h]);
      const parts = [0, 1, 2].map(() => random(numbers, dtype, [n, heads * h]));
      const name = `${dtype}, ${n}x${heads}x${h}`;
      const attrs = { head_dim: h };
      cases.push(
        { name: `qkv_rope ${name}`, op: 'qkv_rope', inputs: [qkv, cos, sin], outputs: parts.map(like), attrs },
        { name: `qkv_rope_backward ${name}`, op: 'qkv_rope_backward', inputs: [...parts, cos, sin], outputs: [like(qkv)], attrs },
      );
    }
  }
  return cases;
}

function gelus(numbers: Numbers): OpCase[] {
  return ACTIVATIONS.flatMap((dtype) =>
    [
      [1, 1],
      [13, 77],
      [3, 4304],
    ].flatMap(([n, f]) =>
      [0, 1].flatMap((tanh): OpCase[] => {
        const [dy, x] = [0, 1].map(() => random(numbers, dtype, [n!, f!], 3));
        const name = `${tanh ? 'by tanh' : 'exact'}, ${dtype}, ${n}x${f}`;
        return [
          { name: `gelu ${name}`, op: 'gelu', inputs: [x!], outputs: [like(x!)], attrs: { tanh } },
          { name: `gelu_backward ${name}`, op: 'gelu_backward', inputs: [dy!, x!], outputs: [like(x!)], attrs: { tanh } },
        ];
      }),
    ),
  );
}

function gates(numbers: Numbers): OpCase[] {
  return ACTIVATIONS.flatMap((dtype) =>
    [
      [1, 1],
      [13, 77],
      [3, 6144],
    ].flatMap(([n, f]): OpCase[] => {
      const [dy, gate, up] = [0, 1, 2].map(() => random(numbers, dtype, [n!, f!], 3));
      const name = `${dtype}, ${n}x${f}`;
      return [
        { name: `swiglu ${name}`, op: 'swiglu', inputs: [gate!, up!], outputs: [like(up!)] },
        { name: `swiglu_backward ${name}`, op: 'swiglu_backward', inputs: [dy!, gate!, up!], outputs: [like(gate!), like(up!)] },
      ];
    }),
  );
}

function attentions(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const dtype of ACTIVATIONS) {
    for (const [heads, kvHeads, h] of [
      [4, 2, 64],
      [4, 2, 128],
      [3, 1, 40],
      [3, 3, 72],
      [2, 2, 80],
      [1, 1, 1],
    ] as const) {
      for (const [causal, lengths] of [
        [1, [1, 17, 64, 130]],
        [1, [257]],
        [0, [33, 5]],
        [0, [64, 1, 0, 300]],
      ] as const) {
        const n = lengths.reduce<number>((sum, length) => sum + length, 0);
        const attrs = { heads, kv_heads: kvHeads, head_dim: h, causal, scale: 1 / Math.sqrt(h) };
        const [q, dout] = [0, 1].map(() => random(numbers, dtype, [n, heads * h]));
        const [k, v] = [0, 1].map(() => random(numbers, dtype, [n, kvHeads * h]));
        const at = bounds(lengths);
        const name = `${dtype}, ${heads}/${kvHeads}x${h}, ${lengths.join('+')}${causal ? '' : ', not causal'}`;
        const outputs = [like(q!), zeros('f32', heads, n)];
        cases.push({
          name: `attention ${name}`,
          op: 'attention',
          inputs: [q!, k!, v!, at],
          outputs,
          attrs,
          bounds: [BOUNDS[dtype] * 1.5, dtype === 'f32' ? 2e-6 : 1e-3],
        });
        const [o, lse] = computed('attention', [q!, k!, v!, at], outputs.map(like), attrs);
        cases.push({
          name: `attention_backward ${name}`,
          op: 'attention_backward',
          inputs: [dout!, q!, k!, v!, o!, lse!, at],
          outputs: [like(q!), like(k!), like(v!)],
          attrs,
          bounds: DEEP_BOUNDS[dtype],
        });
      }
      for (const [past, n] of [
        [0, 9],
        [5, 1],
        [300, 1],
        [300, 7],
      ] as const) {
        const attrs = { heads, kv_heads: kvHeads, head_dim: h, causal: 1, scale: 1 / Math.sqrt(h) };
        const q = random(numbers, dtype, [n, heads * h]);
        const [k, v] = [0, 1].map(() => random(numbers, dtype, [n, kvHeads * h]));
        const caches = [0, 1].map(() => random(numbers, dtype, [320, kvHeads * h]));
        cases.push({
          name: `attention_cached ${dtype}, ${heads}/${kvHeads}x${h}, ${n} after ${past}`,
          op: 'attention_cached',
          inputs: [q, k!, v!, integers([past])],
          outputs: [like(q), ...caches],
          attrs,
          bounds: [BOUNDS[dtype] * 1.5, 'same', 'same'],
        });
      }
    }
  }
  return cases;
}

const WEIGHTS = ['f32', 'bf16', 'f16', 'nf4', 'nf4 nested'] as const;

function weightOf(numbers: Numbers, kind: (typeof WEIGHTS)[number], out: number, width: number): Operand {
  if (kind === 'nf4' || kind === 'nf4 nested') return nf4(numbers, out, width, kind === 'nf4 nested');
  return random(numbers, kind, [out, width], 0.1);
}

function linears(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  const shapes = [
    [1, 64, 64, 4],
    [33, 130, 65, 3],
    [129, 256, 192, 16],
    [0, 64, 32, 4],
  ] as const;
  for (const dtype of ACTIVATIONS) {
    for (const [n, width, out, rank] of shapes) {
      for (const kind of WEIGHTS) {
        for (const adapted of [false, true]) {
          const [x, dy] = [random(numbers, dtype, [n, width]), random(numbers, dtype, [n, out])];
          const weight = weightOf(numbers, kind, out, width);
          const biased = kind === 'f32' || kind === 'bf16' || (kind === 'f16' && dtype === 'f16');
          const bias = biased ? random(numbers, kind, [out]) : null;
          const a = adapted ? random(numbers, 'f32', [rank, width], 0.1) : null;
          const b = adapted ? random(numbers, 'f32', [out, rank], 0.1) : null;
          const rng = adapted && kind !== 'f16' ? integers([7, 11]) : null;
          const attrs: Record<string, number> = adapted ? { scale: 2, dropout: rng ? 0.25 : 0, site: 3 } : {};
          const name = `${dtype}, ${kind} weight, ${n}x${width}x${out}${adapted ? `, rank ${rank}` : ''}${rng ? ', dropout' : ''}`;
          cases.push({
            name: `linear ${name}`,
            op: 'linear',
            inputs: [x, weight, bias, a, b, rng],
            outputs: [zeros(dtype, n, out), adapted ? zeros('f32', n, rank) : null],
            attrs,
            bounds: [BOUNDS[dtype], { f32: 2e-6, bf16: 1e-5, f16: 2e-3 }[dtype]],
          });
          const dense = kind === 'f32';
          const u = adapted ? random(numbers, 'f32', [n, rank]) : null;
          cases.push({
            name: `linear_backward ${name}`,
            op: 'linear_backward',
            inputs: [dy, x, weight, a, b, u, rng],
            outputs: [
              random(numbers, dtype, [n, width]),
              dense ? random(numbers, 'f32', [out, width]) : null,
              dense ? random(numbers, 'f32', [out]) : null,
              adapted ? random(numbers, 'f32', [rank, width]) : null,
              adapted ? random(numbers, 'f32', [out, rank]) : null,
            ],
            attrs: { ...attrs, accumulate: kind === 'nf4' ? 1 : 0 },
            bounds: [BOUNDS[dtype], 1e-5, 1e-5, { f32: 1e-5, bf16: 4e-3, f16: 1e-3 }[dtype], dtype === 'f16' ? 1e-3 : 1e-5],
          });
        }
      }
    }
  }
  return cases;
}

function losses(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  const [n, d, vocab] = [70, 72, 515];
  for (const dtype of ACTIVATIONS) {
    for (const kind of WEIGHTS) {
      for (const every of [1, 3, 0]) {
        for (const listed of [false, true]) {
          const targets = Array.from({ length: n }, (_, row) => (every > 0 && row % every === 0 ? (row * 37) % vocab : -100));
          const rows = targets.flatMap((target, row) => (target < 0 ? [] : [row]));
          const trains = every !== 3 || listed;
          cases.push({
            name: `linear_cross_entropy ${dtype}, ${kind} weight, ${rows.length} of ${n} rows${listed ? ', listed' : ''}${trains ? '' : ', loss alone'}`,
            op: 'linear_cross_entropy',
            inputs: [
              random(numbers, dtype, [n, d]),
              weightOf(numbers, kind, vocab, d),
              integers(targets),
              floats(0.05),
              listed ? integers(rows) : null,
            ],
            outputs: [
              floats(0.5),
              trains ? zeros(dtype, n, d) : null,
              trains && kind === 'f32' ? random(numbers, 'f32', [vocab, d]) : null,
            ],
            bounds: [dtype === 'f32' ? 1e-6 : 1e-4, DEEP_BOUNDS[dtype], { f32: 1e-5, bf16: 4e-3, f16: 2e-3 }[dtype]],
          });
        }
      }
    }
  }
  return cases;
}

/** What fewer roundings in between may change. */
const ONE_ROW: Readonly<Record<Activation, number>> = { f32: 5e-6, bf16: 1e-2, f16: 2e-3 };

function rowsAlone(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const dtype of ACTIVATIONS) {
    for (const kind of WEIGHTS) {
      for (const [d, outs, gated, normed, rank] of [
        [256, [128, 64, 40], false, 2, 0],
        [256, [96, 96], true, 2, 4],
        [192, [33], false, 0, 4],
        [130, [17, 17], true, 1, 0],
      ] as const) {
        const weights = outs.map((out) => [
          weightOf(numbers, kind, out, d),
          rank ? random(numbers, 'f32', [out]) : null,
          rank ? random(numbers, 'f32', [rank, d], 0.1) : null,
          rank ? random(numbers, 'f32', [out, rank], 0.1) : null,
        ]);
        const [x, residual] = [0, 1].map(() => random(numbers, dtype, [1, d]));
        cases.push({
          name: `linears_one ${dtype}, ${kind}, ${d} -> ${outs.join(', ')}${gated ? ', gated' : ''}, rank ${rank}`,
          op: 'linears_one',
          inputs: [
            x!,
            normed > 1 ? residual! : null,
            normed > 0 ? random(numbers, normDType(dtype), [d], 0.2, 1) : null,
            ...weights.flat(),
          ],
          outputs: [normed > 1 ? like(x!) : null, ...(gated ? outs.slice(0, 1) : outs).map((out) => zeros(dtype, 1, out))],
          attrs: { eps: 1e-6, scale: 2, swiglu: gated ? 1 : 0 },
          bounds: ONE_ROW[dtype],
        });
      }
    }
    for (const [heads, kvHeads, h] of [
      [4, 2, 128],
      [8, 2, 128],
      [3, 1, 40],
    ] as const) {
      for (const past of [0, 70, 318]) {
        const caches = [0, 1].map(() => random(numbers, dtype, [320, kvHeads * h]));
        const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => random(numbers, dtype, [1, count * h]));
        const norms = [0, 1].map(() => random(numbers, normDType(dtype), [h], 0.2, 1));
        const [cos, sin] = [Math.cos, Math.sin].map((f) =>
          Tensor.from(
            Float32Array.from({ length: h / 2 }, (_, j) => f(past * 1e4 ** ((-2 * j) / h))),
            [1, h / 2],
          ),
        );
        cases.push({
          name: `attention_one ${dtype}, ${heads}/${kvHeads}x${h}, after ${past}`,
          op: 'attention_one',
          inputs: [q!, k!, v!, ...norms, cos!, sin!, integers([past])],
          outputs: [like(q!), ...caches],
          attrs: { heads, kv_heads: kvHeads, head_dim: h, causal: 1, scale: 1 / Math.sqrt(h), eps: 1e-6 },
          bounds: [ONE_ROW[dtype], BOUNDS[dtype], 'same'],
        });
      }
    }
  }
  return cases;
}

function layersAlone(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const [dtype, kind, [heads, kvHeads, h], [d, wide], rank, biased, past] of [
    ['f32', 'f32', [2, 1, 8], [24, 40], 3, true, 5],
    ['bf16', 'nf4', [2, 1, 40], [96, 160], 0, false, 0],
    ['bf16', 'nf4 nested', [2, 2, 128], [256, 512], 0, false, 0],
    ['bf16', 'nf4 nested', [4, 2, 128], [512, 768], 0, false, 70],
    ['bf16', 'nf4 nested', [16, 8, 128], [768, 2304], 16, false, 318],
    ['bf16', 'nf4 nested', [8, 2, 128], [256, 2560], 5, true, 317],
    ['f16', 'nf4', [2, 1, 40], [96, 160], 3, true, 0],
    ['f16', 'nf4 nested', [4, 2, 128], [512, 768], 0, false, 70],
  ] as const) {
    const layers = 2;
    const linear = (out: number, width: number) => [
      weightOf(numbers, kind, out, width),
      biased ? random(numbers, dtype, [out]) : null,
      rank ? random(numbers, 'f32', [rank, width], 0.1) : null,
      rank ? random(numbers, 'f32', [out, rank], 0.1) : null,
    ];
    const norm = (length: number) => random(numbers, normDType(dtype), [length], 0.2, 1);
    const x = random(numbers, dtype, [1, d]);
    const [cos, sin] = [Math.cos, Math.sin].map((f) =>
      Tensor.from(
        Float32Array.from({ length: h / 2 }, (_, j) => f(past * 1e4 ** ((-2 * j) / h))),
        [1, h / 2],
      ),
    );
    const operands = Array.from({ length: layers }, () => [
      ...[norm(d), ...linear(heads * h, d), ...linear(kvHeads * h, d), ...linear(kvHeads * h, d), norm(h), norm(h)],
      ...[...linear(d, heads * h), norm(d), ...linear(wide, d), ...linear(wide, d), ...linear(d, wide)],
    ]).flat();
    const caches = Array.from({ length: 2 * layers }, () => random(numbers, dtype, [320, kvHeads * h]));
    cases.push({
      name: `layers_one ${dtype}, ${kind}, ${d} and ${wide} wide, ${heads}/${kvHeads}x${h}, rank ${rank}, after ${past}`,
      op: 'layers_one',
      inputs: [x, past > 0 ? random(numbers, dtype, [1, d]) : null, cos!, sin!, integers([past]), ...operands],
      outputs: [like(x), like(x), ...caches],
      attrs: { layers, eps: 1e-6, heads, kv_heads: kvHeads, head_dim: h, causal: 1, scale: 1 / Math.sqrt(h), lora_scale: 2 },
      bounds: { f32: 1e-5, bf16: 2e-2, f16: 5e-3 }[dtype],
    });
  }
  return cases;
}

function movers(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  const shape = [7, 131];
  for (const dtype of ACTIVATIONS) {
    const [a, b] = [random(numbers, dtype, shape), random(numbers, dtype, shape)];
    cases.push({ name: `add ${dtype}`, op: 'add', inputs: [a, b], outputs: [like(a)], bounds: 'same' });
    for (const from of ['f32', 'bf16', 'f16'] as const) {
      const spread = dtype === 'f16' ? 4e4 : 30; // with some numbers too large for f16
      const [input, output] = [random(numbers, from, shape, spread), zeros(dtype, ...shape)];
      cases.push({ name: `cast ${from} -> ${dtype}`, op: 'cast', inputs: [input], outputs: [output], bounds: 'same' });
    }
    for (const [out, width] of [
      [7, 131],
      [64, 192],
    ] as const) {
      for (const nested of [false, true]) {
        const matrix = nf4(numbers, out, width, nested);
        for (const op of ['cast', 'nf4_dequantize']) {
          const name = `${op} nf4${nested ? ' nested' : ''} ${out}x${width} -> ${dtype}`;
          cases.push({ name, op, inputs: [matrix], outputs: [zeros(dtype, out, width)], bounds: 'same' });
        }
      }
    }
    cases.push({
      name: `select_rows ${dtype}`,
      op: 'select_rows',
      inputs: [a, integers([6, 0, 3, 3])],
      outputs: [zeros(dtype, 4, 131)],
      bounds: 'same',
    });
    for (const numel of [1, 63, 64, 1000, 65_537]) {
      const blocks = Math.ceil(numel / 64);
      cases.push({
        name: `nf4_quantize ${dtype}, ${numel}`,
        op: 'nf4_quantize',
        inputs: [random(numbers, dtype, [numel])],
        outputs: [zeros('u8', Math.ceil(numel / 2)), zeros('f32', blocks)],
        bounds: 'same',
      });
    }
  }
  for (const blocks of [1, 255, 257, 5000]) {
    const absmax = Tensor.from(random(numbers, 'f32', [blocks], 0.01, 0.1).toFloat32().map(Math.abs), [blocks]);
    cases.push({
      name: `nf4_quantize_absmax ${blocks}`,
      op: 'nf4_quantize_absmax',
      inputs: [absmax],
      outputs: [zeros('u8', blocks), zeros('f32', Math.ceil(blocks / 256)), zeros('f32', 1)],
      bounds: ['codes', 1e-6, 1e-6],
    });
  }
  const bytes = random(numbers, 'f32', [333]).toBytes();
  cases.push(
    { name: 'dynamic_map', op: 'dynamic_map', inputs: [], outputs: [zeros('f32', 256), zeros('f32', 256)], bounds: 'same' },
    { name: 'fill', op: 'fill', inputs: [], outputs: [random(numbers, 'f32', [1001])], attrs: { value: -2.5 }, bounds: 'same' },
    {
      name: 'copy',
      op: 'copy',
      inputs: [Tensor.from(bytes, [bytes.length])],
      outputs: [zeros('u8', bytes.length)],
      bounds: 'same',
    },
  );
  const moved = random(numbers, 'bf16', [33, 130]);
  cases.push(
    {
      name: 'move_begin',
      op: 'move_begin',
      inputs: [moved],
      outputs: [zeros('bf16', 33, 130)],
      attrs: { slot: 3 },
      bounds: 'same',
    },
    { name: 'move_end', op: 'move_end', inputs: [moved, moved], outputs: [], attrs: { slot: 3 } },
  );
  return cases;
}

function optimizers(numbers: Numbers): OpCase[] {
  const cases: OpCase[] = [];
  for (const elements of [256, 70_000 * 4]) {
    const grads = random(numbers, 'f32', [elements]);
    for (const [of, scale] of [
      ['', null],
      [', scaled', floats(2 ** 16)],
    ] as const) {
      cases.push({
        name: `grad_norm ${elements}${of}`,
        op: 'grad_norm',
        inputs: [grads, scale],
        outputs: [zeros('f32', 1), zeros('f32', 1)],
        attrs: { max_grad_norm: 1 },
        bounds: 1e-6,
      });
    }
  }
  // Three tensors: 5000 elements in 8 bits, 300 and 700 in 32, the last without decay.
  const segments = integers([0, 5000, 0, 1, 1, 0, 20, 300, 0, 0, 1, 0, 22, 700, 2, 0, 0, 0], [3, 6]);
  const total = 25 * 256;
  for (const variant of [0, 1]) {
    const eight = variant === 0;
    const flat = eight ? segments : integers([0, 5000, 0, 0, 1, 0, 20, 300, 20, 0, 1, 0, 22, 700, 22, 0, 0, 0], [3, 6]);
    const [s8, s32] = eight ? [20 * 256, 5 * 256] : [0, total];
    const inputs = (step: number) => [
      random(numbers, 'f32', [total], 1e-2),
      floats(0.7),
      floats(1e-3, 0.9, 0.999, 1e-8, 0.01, step, 0, 0),
      flat,
    ];
    const fresh = [
      random(numbers, 'f32', [total]),
      ...(eight ? [zeros('u8', s8), zeros('u8', s8), zeros('f32', s8 / 256), zeros('f32', s8 / 256)] : [null, null, null, null]),
      zeros('f32', s32),
      zeros('f32', s32),
    ];
    // The first step starts from empty state, the second from what the first left.
    const first = inputs(1);
    const after = computed(
      'adamw',
      first,
      fresh.map((tensor) => tensor?.to('cpu') ?? null),
      { variant },
    );
    const bound: Bound[] = [1e-6, 'codes', 'codes', 1e-6, 1e-6, 1e-6, 1e-6];
    cases.push(
      { name: `adamw variant ${variant}, step 1`, op: 'adamw', inputs: first, outputs: fresh, attrs: { variant }, bounds: bound },
      {
        name: `adamw variant ${variant}, step 2`,
        op: 'adamw',
        inputs: inputs(2),
        outputs: after,
        attrs: { variant },
        bounds: bound,
      },
      {
        name: `adamw variant ${variant}, skipped`,
        op: 'adamw',
        inputs: [random(numbers, 'f32', [total]), floats(0), ...inputs(2).slice(2)],
        outputs: after,
        attrs: { variant },
        bounds: 'same',
      },
    );
  }
  return cases;
}

function samples(numbers: Numbers): OpCase[] {
  return ACTIVATIONS.flatMap((dtype) =>
    [
      [37, 0, 0, 1, 1.3],
      [1025, 1.5, 600, 1, 1.1],
      [20_011, 0.7, 20, 0.8, 1],
    ].map(([vocab, temperature, topK, topP, penalty]): OpCase => {
      const steps = 5;
      const seen = new Uint8Array(vocab!);
      for (let i = 0; i < vocab!; i += 9) seen[i] = 1;
      return {
        name: `sample ${dtype} of ${vocab}, temperature ${temperature}, top-k ${topK}`,
        op: 'sample',
        inputs: [
          random(numbers, dtype, [1, vocab!], 3),
          floats(temperature!, topK!, topP!, penalty!),
          Tensor.from(
            Float32Array.from({ length: steps }, () => numbers.uniform()),
            [steps],
          ),
        ],
        outputs: [
          Tensor.from(seen, [vocab!]),
          integers([1]),
          integers([4, 4, 4], [3, 1]),
          integers([4]),
          integers([1, 2, 0, 0, 0]),
          integers([2]),
        ],
        bounds: 'same',
      };
    }),
  );
}

/** The operand that tells the dtype of activations where no output may. */
const ACTIVATION_INPUT: Readonly<Record<string, number>> = {
  embedding_backward: 1,
  embedding_bag_backward: 2,
  linear_cross_entropy: 0,
  sample: 0,
};

function isHalf({ op, inputs, outputs }: OpCase): boolean {
  const input = inputs[ACTIVATION_INPUT[op] ?? -1];
  return outputs.some((output) => output?.dtype === 'f16') || (input instanceof Tensor && input.dtype === 'f16');
}

/** Every case, the same at each call. */
export function opCases(): OpCase[] {
  const numbers = new Numbers(1);
  const families = [
    embeddings,
    embeddingBags,
    norms,
    layerNorms,
    rotations,
    fusedRotations,
    gates,
    gelus,
    scatters,
    attentions,
    linears,
    rowsAlone,
    layersAlone,
    losses,
    movers,
    optimizers,
    samples,
  ];
  return families.flatMap((family) => family(numbers)).map((c) => ({ ...c, half: isHalf(c) }));
}

/** The bound of output `i` of a case. */
export function boundOf(op: OpCase, i: number): Bound {
  const { bounds: given } = op;
  if (typeof given === 'number' || typeof given === 'string') return given;
  if (given) return given[i]!;
  const narrow = op.outputs.find((output) => output?.dtype === 'bf16' || output?.dtype === 'f16');
  return BOUNDS[(narrow?.dtype ?? 'f32') as Activation];
}
