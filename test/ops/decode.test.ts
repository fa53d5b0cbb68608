import test from 'ava';
import { attentionCached } from '../../lib/ops/attention.js';
import { attentionOne, type LayerOne, layersOne, linearsOne } from '../../lib/ops/decode.js';
import { type LinearOperands, linear } from '../../lib/ops/linear.js';
import { qkNormRope } from '../../lib/ops/qk_norm_rope.js';
import { rmsNorm } from '../../lib/ops/rms_norm.js';
import { swiglu } from '../../lib/ops/swiglu.js';
import { Eager } from '../../lib/ops/tensor.js';
import { ACTIVATIONS, integers, Numbers, random, run, sameBytes, sameForAnyThreads, Tensor, throwsCode } from './support.js';

function layer(numbers: Numbers, out: number, width: number, rank: number): LinearOperands<Tensor> {
  return {
    weight: random(numbers, 'bf16', [out, width], 0.1),
    bias: rank > 1 ? random(numbers, 'f32', [out]) : null,
    lora:
      rank > 0
        ? { a: random(numbers, 'f32', [rank, width], 0.1), b: random(numbers, 'f32', [out, rank]), scale: 2, dropout: 0, site: 0 }
        : null,
  };
}

for (const dtype of ACTIVATIONS) {
  test(`linears_one in ${dtype} gives the bytes of a norm, its linear layers and their gate`, (t) => {
    const numbers = new Numbers(3);
    const b = new Eager();
    for (const [d, outs, rank] of [
      [1, [1], 0],
      [33, [7, 16, 65], 3],
      [130, [40, 40], 1],
      [64, [0, 5], 0],
    ] as const) {
      const layers = outs.map((out) => layer(numbers, out, d, rank));
      const [x, residual] = [random(numbers, dtype, [1, d]), random(numbers, dtype, [1, d])];
      const weight = random(numbers, dtype, [d], 0.2, 1);
      for (const added of [null, residual]) {
        const { y: z, sum } = rmsNorm(b, x, weight, 1e-6, added);
        const y = layers.map((operands) => linear(b, z, operands).y);
        const one = { x, norm: { weight, eps: 1e-6, residual: added } };
        sameForAnyThreads(t, () => {
          const made = linearsOne(b, { ...one, layers });
          t.is(made.y.length, y.length);
          made.y.forEach((value, i) => void sameBytes(t, value, y[i]!, `y ${i}`));
          t.is(made.sum === null, sum === null);
          if (sum) sameBytes(t, made.sum!, sum, 'sum');
          return made.y;
        });
        if (outs.length === 2 && outs[0] === outs[1])
          sameBytes(t, linearsOne(b, { ...one, layers, swiglu: true }).y[0]!, swiglu(b, y[0]!, y[1]!), 'swiglu');
      }
      sameBytes(t, linearsOne(b, { x, layers: layers.slice(0, 1) }).y[0]!, linear(b, x, layers[0]!).y, 'without a norm');
    }
  });

  test(`attention_one in ${dtype} gives the bytes of the norms, the rotations and the attention`, (t) => {
    const numbers = new Numbers(4);
    const b = new Eager();
    for (const [heads, kvHeads, headDim, past] of [
      [4, 2, 16, 0],
      [3, 1, 6, 70],
      [2, 2, 128, 79],
    ] as const) {
      const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => random(numbers, dtype, [1, count * headDim]));
      const rope = { cos: random(numbers, 'f32', [1, headDim / 2]), sin: random(numbers, 'f32', [1, headDim / 2]) };
      const at = integers([past]);
      const caches = [0, 1].map(() => random(numbers, dtype, [80, kvHeads * headDim]));
      for (const normed of [false, true]) {
        const [qNorm, kNorm] = [0, 1].map(() => (normed ? random(numbers, 'bf16', [headDim], 0.2, 1) : null));
        const options = { heads, kvHeads, headDim, causal: true, eps: 1e-6 };
        const cache = () => ({ k: { into: caches[0]!.to('cpu') }, v: { into: caches[1]!.to('cpu') } });
        const [apart, together] = [cache(), cache()];
        const rotated = [
          [q!, qNorm],
          [k!, kNorm],
        ].map(([x, norm]) => qkNormRope(b, x!, norm!, rope, { headDim, eps: 1e-6 }).y);
        const o = attentionCached(b, rotated[0]!, rotated[1]!, v!, at, apart, options);
        const one = attentionOne(b, { q: q!, k: k!, v: v!, qNorm: qNorm!, kNorm: kNorm!, rope, past: at }, together, options);
        sameBytes(t, one, o, 'o');
        sameBytes(t, together.k.into, apart.k.into, 'keys');
        sameBytes(t, together.v.into, apart.v.into, 'values');
      }
    }
  });
}

for (const dtype of ACTIVATIONS) {
  test(`layers_one in ${dtype} gives the bytes of its layers one after the other`, (t) => {
    const numbers = new Numbers(5);
    const b = new Eager();
    const [d, wide, past, capacity] = [24, 40, 5, 7];
    const options = { heads: 4, kvHeads: 2, headDim: 6, causal: true, eps: 1e-6 };
    const [inner, keys] = [24, 12];
    const norm = (length: number) => random(numbers, dtype, [length], 0.2, 1);
    const caches = [0, 1, 2].map(() => [0, 1].map(() => random(numbers, dtype, [capacity, keys])));
    const layers = [0, 1, 2].map((i): Omit<LayerOne<Tensor>, 'cache'> => {
      const ranked = (out: number, width: number) => layer(numbers, out, width, i);
      return {
        inputNorm: norm(d),
        q: ranked(inner, d),
        k: ranked(keys, d),
        v: ranked(keys, d),
        qNorm: i > 0 ? norm(options.headDim) : null,
        kNorm: i > 0 ? norm(options.headDim) : null,
        o: ranked(d, inner),
        postNorm: norm(d),
        gate: ranked(wide, d),
        up: ranked(wide, d),
        down: ranked(d, wide),
      };
    });
    const rope = { cos: random(numbers, 'f32', [1, 3]), sin: random(numbers, 'f32', [1, 3]) };
    const count = integers([past]);
    const [x, added] = [random(numbers, dtype, [1, d]), random(numbers, dtype, [1, d])];
    const copies = () => caches.map((pair) => pair.map((cache) => cache.to('cpu')));
    for (const residual of [null, added]) {
      const expected = copies();
      let [y, sum] = [x, residual];
      layers.forEach(({ inputNorm, q, k, v, qNorm, kNorm, o, postNorm, gate, up, down }, i) => {
        const first = linearsOne(b, { x: y, norm: { weight: inputNorm, eps: 1e-6, residual: sum }, layers: [q, k, v] });
        const heads = { q: first.y[0]!, k: first.y[1]!, v: first.y[2]!, qNorm, kNorm, rope, past: count };
        const cache = { k: { into: expected[i]![0]! }, v: { into: expected[i]![1]! } };
        const attended = linearsOne(b, { x: attentionOne(b, heads, cache, options), layers: [o] }).y[0]!;
        const second = { weight: postNorm, eps: 1e-6, residual: first.sum ?? y };
        const gated = linearsOne(b, { x: attended, norm: second, layers: [gate, up], swiglu: true });
        sum = gated.sum!;
        y = linearsOne(b, { x: gated.y[0]!, layers: [down] }).y[0]!;
      });
      sameForAnyThreads(t, () => {
        const made = copies();
        const own = layers.map((operands, i) => ({
          ...operands,
          cache: { k: { into: made[i]![0]! }, v: { into: made[i]![1]! } },
        }));
        const result = layersOne(b, { x, residual, rope, past: count, layers: own }, options);
        sameBytes(t, result.y, y, 'y');
        sameBytes(t, result.sum, sum!, 'sum');
        made.flat().forEach((cache, i) => void sameBytes(t, cache, expected.flat()[i]!, `cache ${i}`));
        return [result.y, result.sum, ...made.flat()];
      });
    }
  });
}

test('linears_one and attention_one name what is wrong', (t) => {
  const zeros = (...shape: number[]) => Tensor.zeros(shape);
  const [x, w] = [zeros(1, 8), zeros(4, 8)];
  const fails = (code: string, message: RegExp, inputs: (Tensor | null)[], outputs: (Tensor | null)[], attrs = {}) =>
    throwsCode(t, code, message, () => run('linears_one', inputs, outputs, attrs));
  fails('ERR_SHAPE', /linears_one: x has shape \[2,8\], expected \[1,\*\]/, [zeros(2, 8), null, null, w], [null, zeros(2, 4)]);
  fails('ERR_ARGUMENT', /linears_one: residual was given, expected none without norm_weight/, [x, x, null, w], [x, zeros(1, 4)]);
  fails(
    'ERR_SHAPE',
    /linears_one: weight_0 has shape \[4,9\], expected \[\*,8\]/,
    [x, null, null, zeros(4, 9)],
    [null, zeros(1, 4)],
  );
  fails('ERR_ARGUMENT', /linears_one: swiglu of 1 layers, expected 2/, [x, null, null, w], [null, zeros(1, 4)], { swiglu: 1 });
  fails('ERR_ARGUMENT', /linears_one: y_1 was given/, [x, null, null, w], [null, zeros(1, 4), zeros(1, 4)]);
  const row = zeros(1, 16);
  throwsCode(t, 'ERR_ARGUMENT', /attention_one: past is 3, expected 0 to 2/, () =>
    run(
      'attention_one',
      [row, row, row, null, null, zeros(1, 4), zeros(1, 4), integers([3])],
      [zeros(1, 16), zeros(3, 16), zeros(3, 16)],
      { heads: 2, kv_heads: 2, head_dim: 8, scale: 1, causal: 1 },
    ),
  );
});
