/** The instruction set is chosen once a process, so the op tests run again in processes of their own, held to the lesser ones. */
import test from 'ava';
import { addon } from '../../lib/native.js';
import { checkPasses, valueWith } from '../environment.js';

const OPS = [
  'adamw',
  'elementwise',
  'embedding',
  'embedding_bag',
  'gelu',
  'layer_norm',
  'nf4',
  'qk_norm_rope',
  'qkv_rope',
  'rms_norm',
  'scatter_rows',
  'swiglu',
];
const FILES = [
  ...OPS.map((op) => `dist/test/ops/${op}.test.js`),
  'dist/test/native/image_patches.test.js',
  'dist/test/data/media/image_processor.test.js',
];
const best = addon().cpuInfo().isa;

for (const isa of ['portable', 'avx2'] as const) {
  const lesser = isa === 'portable' ? best !== 'portable' : best === 'avx512';
  (lesser ? test.serial : test.skip)(`the op tests hold with VLTUNE_ISA=${isa}`, async (t) => {
    t.timeout(240_000);
    t.is(await valueWith({ VLTUNE_ISA: isa }, 'addon().cpuInfo().isa'), isa, 'the instruction set that the child takes');
    await checkPasses(t, { VLTUNE_ISA: isa }, FILES);
  });
}
