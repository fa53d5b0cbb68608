/** The optimizer over one flat buffer: gradient norm, and AdamW with 8-bit and with 32-bit state. */
import { ADAMW_BLOCK, adamw, gradNorm } from '../../ops/adamw.js';
import type { Bench } from '../bench.js';
import type { Recorder } from '../recorder.js';

/** Parameters of a LoRA of rank 16 over Qwen3-VL-2B, about. */
const PARAMETERS = 16 * 1024 * 1024;

function update(b: Recorder, is8bit: boolean): void {
  const [n8, n32] = is8bit ? [PARAMETERS, 0] : [0, PARAMETERS];
  const one = b.zeros([1]);
  b.emit('fill', [], [{ into: one }], { value: 1 });
  const hyper = b.normal([8]);
  b.prepare();
  const operands = {
    grads: b.normal([PARAMETERS]),
    clip: one,
    hyper,
    segments: b.integers(Int32Array.of(0, PARAMETERS, 0, is8bit ? 1 : 0, 1, 0), [1, 6]),
  };
  const state = {
    m8: b.zeros([n8], 'u8'),
    v8: b.zeros([n8], 'u8'),
    m8Absmax: b.zeros([n8 / ADAMW_BLOCK]),
    v8Absmax: b.zeros([n8 / ADAMW_BLOCK]),
    m32: b.zeros([n32]),
    v32: b.zeros([n32]),
  };
  adamw(b, operands, { into: b.normal([PARAMETERS]) }, state, 'bitsandbytes');
}

export function adamwBenches(): Bench[] {
  const shape = `${PARAMETERS / 2 ** 20}Mi`;
  const scales = (2 * 2 * 4) / ADAMW_BLOCK;
  return [
    {
      kernel: 'grad_norm',
      shape,
      dtype: 'f32',
      work: { bytes: PARAMETERS * 4 },
      baseline: 'copy',
      build: (b) => gradNorm(b, b.normal([PARAMETERS]), { into: b.zeros([1]) }, { into: b.zeros([1]) }, 1),
    },
    // Gradient read, parameter read and written, two states read and written.
    {
      kernel: 'adamw 8-bit',
      shape,
      dtype: 'f32',
      work: { bytes: PARAMETERS * (4 + 8 + 4 + scales) },
      baseline: 'copy',
      build: (b) => update(b, true),
    },
    {
      kernel: 'adamw 32-bit',
      shape,
      dtype: 'f32',
      work: { bytes: PARAMETERS * (4 + 8 + 16) },
      baseline: 'copy',
      build: (b) => update(b, false),
    },
  ];
}
