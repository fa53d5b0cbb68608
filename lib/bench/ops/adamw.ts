/** The optimizer over one flat buffer: gradient norm, and AdamW with 8-bit and with 32-bit state. */
import { ADAMW_BLOCK, adamw, gradNorm } from '../../ops/adamw.js';
import type { Bench } from '../bench.js';
import type { Recorder } from '../recorder.js';
import type { Scope } from '../shapes.js';

function update(b: Recorder, parameters: number, is8bit: boolean): void {
  const [n8, n32] = is8bit ? [parameters, 0] : [0, parameters];
  const one = b.zeros([1]);
  b.emit('fill', [], [{ into: one }], { value: 1 });
  const hyper = b.normal([8]);
  b.prepare();
  const operands = {
    grads: b.normal([parameters]),
    clip: one,
    hyper,
    segments: b.integers(Int32Array.of(0, parameters, 0, is8bit ? 1 : 0, 1, 0), [1, 6]),
  };
  const state = {
    m8: b.zeros([n8], 'u8'),
    v8: b.zeros([n8], 'u8'),
    m8Absmax: b.zeros([n8 / ADAMW_BLOCK]),
    v8Absmax: b.zeros([n8 / ADAMW_BLOCK]),
    m32: b.zeros([n32]),
    v32: b.zeros([n32]),
  };
  adamw(b, operands, { into: b.normal([parameters]) }, state, 'bitsandbytes');
}

export function adamwBenches({ parameters }: Scope): Bench[] {
  const shape = `${parameters / 2 ** 20}Mi`;
  const scales = (2 * 2 * 4) / ADAMW_BLOCK;
  return [
    {
      kernel: 'grad_norm',
      shape,
      dtype: 'f32',
      work: { bytes: parameters * 4 },
      baseline: 'copy',
      build: (b) => gradNorm(b, { grads: b.normal([parameters]) }, { into: b.zeros([1]) }, { into: b.zeros([1]) }, 1),
    },
    // Gradient read, parameter read and written, two states read and written.
    {
      kernel: 'adamw 8-bit',
      shape,
      dtype: 'f32',
      work: { bytes: parameters * (4 + 8 + 4 + scales) },
      baseline: 'copy',
      build: (b) => update(b, parameters, true),
    },
    {
      kernel: 'adamw 32-bit',
      shape,
      dtype: 'f32',
      work: { bytes: parameters * (4 + 8 + 16) },
      baseline: 'copy',
      build: (b) => update(b, parameters, false),
    },
  ];
}
