import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { plan, type TrainEvent, train, type VltuneError } from '../../lib/index.js';
import { addon } from '../../lib/native.js';
import { digests, ROWS, shortRun, temporaryFolder, weightDigest } from './support.js';

test.serial('two runs with one seed end in the same bytes; another seed does not', async (t) => {
  const folder = temporaryFolder(t);
  const digest = async (name: string, seed: number) => {
    await train(shortRun(join(folder, name), { seed, saveStrategy: 'no' }));
    return weightDigest(join(folder, name));
  };
  const first = await digest('a', 1);
  t.is(await digest('b', 1), first);
  t.not(await digest('c', 2), first);
});

test.serial('the bytes do not depend on the number of threads', async (t) => {
  const folder = temporaryFolder(t);
  const { threads } = addon().cpuInfo();
  t.teardown(() => addon().setThreads(threads));
  for (const [name, count] of [['one', 1] as const, ['two', 2] as const, ['five', 5] as const]) {
    await train(shortRun(join(folder, name), { threads: count, saveStrategy: 'no' }));
    t.is(weightDigest(join(folder, name)), weightDigest(join(folder, 'one')), name);
  }
});

for (const [name, more, file] of [
  ['LoRA in 4 bits with 8-bit AdamW, packed', {}, 'adapter_model.safetensors'],
  ['LoRA row by row with torch AdamW', { packing: false, optim: 'adamw_torch', loadIn4bit: false }, 'adapter_model.safetensors'],
  [
    'full fine-tuning in bf16',
    { fullFinetuning: true, dtype: 'bfloat16', loraR: undefined, loraDropout: undefined },
    'model.safetensors',
  ],
] as const) {
  test.serial(`a run that goes on from a checkpoint ends in the bytes of one that was not stopped: ${name}`, async (t) => {
    const folder = temporaryFolder(t);
    const whole = join(folder, 'whole');
    await train(shortRun(whole, { ...more, saveStrategy: 'steps', saveSteps: 3 }));
    // Stopped after five of ten updates: a signal comes in the middle of the sixth.
    const stopped = join(folder, 'stopped');
    const controller = new AbortController();
    const error = await t.throwsAsync(
      train(shortRun(stopped, { ...more, saveStrategy: 'steps', saveSteps: 3 }), {
        signal: controller.signal,
        onEvent: (event) => event.event === 'step' && event.step === 5 && setImmediate(() => controller.abort()),
      }),
    );
    t.is((error as VltuneError).code, 'ERR_CANCELLED');
    t.true(
      readdirSync(stopped).some((entry) => /^checkpoint-[56]$/.test(entry)),
      readdirSync(stopped).join(),
    );
    await train(shortRun(stopped, { ...more, saveStrategy: 'steps', saveSteps: 3, resumeFromCheckpoint: true }));
    t.is(weightDigest(stopped, file), weightDigest(whole, file));
    const { 'training_args.json': _, ...last } = digests(join(stopped, 'checkpoint-10'));
    const { 'training_args.json': __, ...expected } = digests(join(whole, 'checkpoint-10'));
    t.deepEqual(last, expected);
  });
}

test.serial('a run that is stopped while it evaluates saves the update before it', async (t) => {
  const folder = join(temporaryFolder(t), 'out');
  const controller = new AbortController();
  const options = shortRun(folder, { evalDataset: [ROWS], evalSteps: 2, saveSteps: 100 });
  const onEvent = (event: TrainEvent) => event.event === 'step' && event.step === 2 && controller.abort();
  const error = await t.throwsAsync(train(options, { signal: controller.signal, onEvent }));
  t.is((error as VltuneError).code, 'ERR_CANCELLED');
  t.regex(error!.message, /stopped after 2 of 10 updates; go on with --resume-from-checkpoint/);
  t.true(existsSync(join(folder, 'checkpoint-2', 'optimizer.safetensors')));
});

test.serial('a loss that is not finite stops the run, names the step and keeps the checkpoint before it', async (t) => {
  const folder = temporaryFolder(t);
  const error = await t.throwsAsync(
    // B starts at zero, so the first update is harmless; the scale then takes the second beyond what f32 holds.
    train(
      shortRun(folder, { loraAlpha: 1e30, learningRate: 1, lrSchedulerType: 'constant', saveStrategy: 'steps', saveSteps: 1 }),
    ),
  );
  t.is((error as VltuneError).code, 'ERR_NAN');
  const step = Number(/^step (\d+): loss is/.exec(error!.message)?.[1]);
  t.true(step >= 2, error!.message);
  t.regex(error!.message, new RegExp(`checkpoint-${step - 1} is kept`));
  t.deepEqual(readdirSync(folder).filter((entry) => entry.startsWith('checkpoint-')).length, step - 1);
});

test.serial('evaluation is the loss of the rows under the weights of that moment, and changes nothing', async (t) => {
  const folder = temporaryFolder(t);
  const events: TrainEvent[] = [];
  const onEvent = (event: TrainEvent) => void events.push(event);
  await train(shortRun(join(folder, 'with'), { evalDataset: [ROWS], evalSteps: 5, saveStrategy: 'no' }), { onEvent });
  const evaluations = events.filter((event) => event.event === 'eval');
  t.deepEqual(
    evaluations.map((event) => event.step),
    [5, 10],
  );
  t.true(evaluations[1]!.eval_loss < evaluations[0]!.eval_loss, 'the rows that are learnt are learnt');
  await train(shortRun(join(folder, 'without'), { saveStrategy: 'no' }));
  t.is(weightDigest(join(folder, 'with')), weightDigest(join(folder, 'without')));
});

test.serial('evaluating before training gives the loss that the first update reports', async (t) => {
  const folder = temporaryFolder(t);
  const events: TrainEvent[] = [];
  // One update over all rows at learning rate 0: the weights stay, so both are the loss of the same rows under the same weights.
  await train(
    shortRun(folder, {
      evalDataset: [ROWS],
      maxSteps: 1,
      learningRate: 0,
      loraDropout: 0,
      gradientAccumulationSteps: 1000,
      saveStrategy: 'no',
    }),
    { onEvent: (event) => void events.push(event) },
  );
  const step = events.find((event) => event.event === 'step')!;
  const evaluation = events.find((event) => event.event === 'eval')!;
  t.true(Math.abs(step.loss - evaluation.eval_loss) < 1e-5 * step.loss, `${step.loss} and ${evaluation.eval_loss}`);
  t.is(step.num_target_tokens, evaluation.num_target_tokens);
});

test.serial('save_total_limit keeps the newest checkpoints', async (t) => {
  const folder = temporaryFolder(t);
  await train(shortRun(folder, { saveStrategy: 'steps', saveSteps: 2, saveTotalLimit: 2 }));
  t.deepEqual(
    readdirSync(folder)
      .filter((entry) => entry.startsWith('checkpoint-'))
      .sort(),
    ['checkpoint-10', 'checkpoint-8'],
  );
});

test.serial('training goes on from an adapter, with its rank and targets', async (t) => {
  const folder = temporaryFolder(t);
  const firstLosses: number[] = [];
  await train(shortRun(join(folder, 'first'), { loraR: 8, targetModules: ['q_proj', 'down_proj'], saveStrategy: 'no' }), {
    onEvent: (event) => event.event === 'step' && firstLosses.push(event.loss),
  });
  const losses: number[] = [];
  const {
    loraR: _,
    loraDropout: __,
    ...options
  } = shortRun(join(folder, 'second'), { adapter: join(folder, 'first'), saveStrategy: 'no' });
  await train(options, { onEvent: (event) => event.event === 'step' && losses.push(event.loss) });
  const config = JSON.parse(readFileSync(join(folder, 'second/adapter_config.json'), 'utf8')) as {
    r: number;
    target_modules: string[];
  };
  // The same rows come first again: what was learnt of them is in the adapter.
  t.true(losses[0]! < firstLosses[0]!, `${losses[0]} after training, ${firstLosses[0]} before`);
  t.is(config.r, 8);
  t.deepEqual(config.target_modules.toSorted(), ['down_proj', 'q_proj']);
});

test.serial('gradient checkpointing takes less memory and gives the same bytes', async (t) => {
  const folder = temporaryFolder(t);
  const kept = await plan(shortRun(join(folder, 'plan')));
  const recomputed = await plan(shortRun(join(folder, 'plan'), { gradientCheckpointing: true }));
  t.true(recomputed.kinds.arena < kept.kinds.arena);
  await train(shortRun(join(folder, 'kept'), { saveStrategy: 'no' }));
  await train(shortRun(join(folder, 'recomputed'), { saveStrategy: 'no', gradientCheckpointing: true }));
  t.is(weightDigest(join(folder, 'recomputed')), weightDigest(join(folder, 'kept')));
});

test.serial('a memory budget chooses recomputation, and one that cannot be met says what can be done', async (t) => {
  const folder = temporaryFolder(t);
  const free = await plan(shortRun(folder, { gradientAccumulationSteps: 1, perDeviceTrainBatchSize: 8 }));
  const tight = await plan(
    shortRun(folder, { gradientAccumulationSteps: 1, perDeviceTrainBatchSize: 8, memory: free.kinds.total - 1 }),
  );
  t.is(free.kinds.recompute, 'none');
  t.not(tight.kinds.recompute, 'none');
  const error = await t.throwsAsync(plan(shortRun(folder, { memory: 100_000 })));
  t.is((error as VltuneError).code, 'ERR_OUT_OF_MEMORY');
  t.regex(error!.message, /--memory .* the least that trains this is .*Not even 64 tokens/s);
  const enough = /or raise --memory to (\d+MiB)\.$/.exec(error!.message)?.[1];
  t.is((await plan(shortRun(folder, { memory: enough }))).kinds.recompute, 'layers');

  // What is said to fit does.
  const eight = { gradientAccumulationSteps: 1, perDeviceTrainBatchSize: 8 };
  const { kinds } = await plan(shortRun(folder, { ...eight, gradientCheckpointing: true }));
  const memory = Math.floor(kinds.total - 0.3 * kinds.arena);
  const short = await t.throwsAsync(plan(shortRun(folder, { ...eight, memory })));
  const fit = Number(/tokens a micro-step; (\d+) fit\)/.exec(short!.message)?.[1]);
  t.true(fit >= 64 && fit < 8 * 96, short!.message);
  await t.notThrowsAsync(plan(shortRun(folder, { ...eight, perDeviceTrainBatchSize: Math.floor(fit / 96), memory })));
});

test.serial('two models train in one process at the same time, each to its own bytes', async (t) => {
  const folder = temporaryFolder(t);
  await train(shortRun(join(folder, 'alone'), { saveStrategy: 'no' }));
  await Promise.all(['left', 'right'].map((name) => train(shortRun(join(folder, name), { saveStrategy: 'no' }))));
  for (const name of ['left', 'right']) t.is(weightDigest(join(folder, name)), weightDigest(join(folder, 'alone')), name);
});

test.serial('an output folder that holds something is refused before anything is done', async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'mine.txt'), 'keep me');
  const error = await t.throwsAsync(train(shortRun(folder)));
  t.is((error as VltuneError).code, 'ERR_USAGE');
  t.regex(error!.message, /--output-dir/);
  t.deepEqual(readdirSync(folder), ['mine.txt']);
});

test.serial('a run on other rows than the checkpoint saw is refused', async (t) => {
  const folder = temporaryFolder(t);
  const output = join(folder, 'run');
  await train(shortRun(output, { maxSteps: 2 }));
  const fewer = join(folder, 'fewer.jsonl');
  writeFileSync(fewer, readFileSync(ROWS, 'utf8').split('\n').slice(3).join('\n'));
  const error = await t.throwsAsync(train(shortRun(output, { dataset: [fewer], resumeFromCheckpoint: true, learningRate: 5 })));
  t.is((error as VltuneError).code, 'ERR_USAGE');
  t.regex(error!.message, /--dataset: its rows are not those/);
  t.regex(error!.message, /--learning-rate: expected 0.001 as in the checkpoint, got 5/);
});

test.serial('adapters on every linear layer: those of the vision tower are saved as they started', async (t) => {
  const folder = temporaryFolder(t);
  await train(shortRun(folder, { targetModules: 'all-linear', loraR: 4, maxSteps: 2, saveStrategy: 'no' }));
  const header = readFileSync(join(folder, 'adapter_model.safetensors'));
  const length = Number(header.readBigUInt64LE(0));
  const names = Object.keys(JSON.parse(header.subarray(8, 8 + length).toString()) as object);
  t.true(names.some((name) => name.startsWith('base_model.model.model.visual.blocks.0.attn.qkv.lora_A')));
  t.false(names.some((name) => name.includes('lm_head')));
});
