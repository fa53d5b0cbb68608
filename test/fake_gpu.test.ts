/** What `lib` does with a GPU, on one in name only: the numbers must be the CPU's to the bit, since its kernels make them. */
import { join } from 'node:path';
import test from 'ava';
import { Generator } from '../lib/generate/generate.js';
import { plan, type TrainOptions, train } from '../lib/index.js';
import { Staging } from '../lib/models/staging.js';
import { addon } from '../lib/native.js';
import { Eager, Tensor } from '../lib/ops/tensor.js';
import { mergeAdapter } from '../lib/weights/merge.js';
import { quantizeCheckpoint } from '../lib/weights/quantize.js';
import { type Asked, fakeGpu } from './fake_gpu.js';
import { FIXTURES, PARITY } from './parity/fixtures.js';
import { checkLimits } from './train/limits.js';
import { digests, MODEL, shortRun, temporaryFolder, weightDigest } from './train/support.js';

let asked: Asked;
test.before(() => {
  asked = fakeGpu();
  Staging.pieceBytes = 4096; // so that the tensors of a miniature model are several pieces
});

const RUNS: Readonly<Record<string, Partial<TrainOptions>>> = {
  '4 bits, F32': { dtype: 'float32' },
  '4 bits, bf16': { dtype: 'bfloat16' },
  'not quantised, bf16': { dtype: 'bfloat16', loadIn4bit: false },
  'all recomputed': { dtype: 'float32', gradientCheckpointing: true },
  'an embedding table on the host': {
    dtype: 'bfloat16',
    model: join(FIXTURES, 'qwen3vl-tiny-variants', 'untied'),
    embeddingOnHost: true,
  },
  'full fine-tuning': { dtype: 'float32', fullFinetuning: true, loraR: undefined, loraDropout: undefined },
};

for (const [name, options] of Object.entries(RUNS)) {
  test.serial(`a run gives the bytes of the CPU: ${name}`, async (t) => {
    const folder = temporaryFolder(t);
    const file = options.fullFinetuning ? 'model.safetensors' : 'adapter_model.safetensors';
    for (const device of ['cpu', 'cuda'] as const)
      await train(shortRun(join(folder, device), { maxSteps: 3, saveStrategy: 'no', ...options, device }));
    t.is(weightDigest(join(folder, 'cuda'), file), weightDigest(join(folder, 'cpu'), file));
  });
}

test.serial('a model that is stored in 4 bits is brought over as it is', async (t) => {
  const folder = temporaryFolder(t);
  for (const doubleQuant of [true, false]) {
    const model = join(folder, `nf4-${doubleQuant}`);
    await quantizeCheckpoint({ model: MODEL, outputDir: model, doubleQuant, device: 'cpu' });
    const output = (device: string) => join(folder, `${device}-${doubleQuant}`);
    for (const device of ['cpu', 'cuda'] as const)
      await train(shortRun(output(device), { model, device, dtype: 'float32', maxSteps: 2, saveStrategy: 'no' }));
    t.is(weightDigest(output('cuda')), weightDigest(output('cpu')));
  }
});

test.serial('a micro-step costs one write from the host, and a GPU means bf16 if nothing else is said', async (t) => {
  const folder = temporaryFolder(t);
  const before = { ...asked };
  let steps = { ...asked };
  await train(shortRun(join(folder, 'run'), { device: 'auto', maxSteps: 4, saveStrategy: 'no' }), {
    onEvent: (event) => {
      if (event.event === 'step' && event.step === 1) steps = { ...asked };
    },
  });
  t.true(asked.runs > before.runs);
  // Three updates more. A run and a write for each micro-step and each update; and the loss set back to zero by each update.
  const [runs, writes] = [asked.runs - steps.runs, asked.writes - steps.writes];
  t.true(runs > 2 * 3);
  t.is(writes, runs + 3);
  const { device, kinds } = await plan(shortRun(join(folder, 'plan')));
  t.is(device, 'cuda');
  const inF32 = await plan(shortRun(join(folder, 'plan'), { dtype: 'float32' }));
  t.true(kinds.arena < inF32.kinds.arena);
});

test.serial('a limit recomputes block after block, then moves the residual stream, and changes no bit of a gradient', (t) =>
  checkLimits(t, 'cuda'),
);

test.serial('generate, quantize and merge give what they give on the CPU', async (t) => {
  const folder = temporaryFolder(t);
  const answers = [];
  for (const device of ['cpu', 'cuda'] as const) {
    await quantizeCheckpoint({ model: MODEL, outputDir: join(folder, 'nf4', device), device });
    await mergeAdapter({
      model: MODEL,
      adapter: join(PARITY, 'adapter-final'),
      outputDir: join(folder, 'merged', device),
      device,
    });
    const generator = await Generator.load(MODEL, { adapter: join(PARITY, 'adapter-final'), loadIn4bit: true, device });
    answers.push(await generator.nextLogits({ raw: 'user: Who are you?' }));
    const { tokenIds } = await generator.complete({ raw: 'user: Who are you?', temperature: 0, maxNewTokens: 12 });
    answers.push(tokenIds);
    generator.release();
  }
  t.deepEqual(answers.slice(2), answers.slice(0, 2));
  for (const kind of ['nf4', 'merged']) t.deepEqual(digests(join(folder, kind, 'cuda')), digests(join(folder, kind, 'cpu')));
});

test.serial('eager ops run where their operands are, and not on two devices', (t) => {
  const eager = new Eager();
  const on = (device: 'cpu' | 'cuda') => Tensor.from(Float32Array.of(1, 2), [2], 'f32', device);
  const [sum] = eager.emit('add', [on('cuda'), on('cuda')], [{ dtype: 'f32', shape: [2] }]);
  t.is(sum!.device, 'cuda');
  t.deepEqual([...sum!.toFloat32()], [2, 4]);
  t.deepEqual([...sum!.to('cpu').toFloat32()], [2, 4]);
  t.throws(() => eager.emit('add', [on('cuda'), on('cpu')], [{ dtype: 'f32', shape: [2] }]), { code: 'ERR_ARGUMENT' });
  t.true(addon().cudaInfo().available);
});
