import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { resolveTrainArgs, type TrainOptions } from '../../lib/train/args.js';
import {
  checkpointToResume,
  checkSameRun,
  latestCheckpoint,
  loadCheckpoint,
  removeCheckpoints,
  saveCheckpoint,
  sweepOutput,
} from '../../lib/train/checkpoint.js';
import { readTensor } from '../../lib/weights/safetensors.js';

const IDENTITY = { model: 'model-bytes', dataset: 'dataset-bytes', microBatches: 4 };

async function scratch(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'vltune-checkpoint-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

function argsFor(outputDir: string, more: Partial<TrainOptions> = {}): ReturnType<typeof resolveTrainArgs> {
  return resolveTrainArgs({ model: 'm', dataset: 'd.jsonl', outputDir, ...more });
}

async function save(outputDir: string, step: number, more: Partial<TrainOptions> = {}): Promise<string> {
  return await saveCheckpoint(outputDir, {
    args: argsFor(outputDir, more),
    identity: IDENTITY,
    state: {
      globalStep: step,
      epoch: step / 10,
      maxSteps: 20,
      numInputTokensSeen: step * 100,
      logHistory: [{ step, epoch: step / 10, loss: 2.5, grad_norm: 0.5, learning_rate: 1e-5 }],
    },
    optimizer: [{ name: 'exp_avg', dtype: 'F32', shape: [3], data: new Float32Array([1, 2, step]) }],
    fill: (folder) => writeFile(join(folder, 'adapter_model.safetensors'), 'adapter'),
  });
}

test('what is saved is read back: state, options, identity and optimizer', async (t) => {
  const out = await scratch(t);
  const folder = await save(out, 10, { loraR: 8 });
  t.is(folder, join(out, 'checkpoint-10'));
  const loaded = await loadCheckpoint(folder);
  t.deepEqual(loaded.state.logHistory, [{ step: 10, epoch: 1, loss: 2.5, grad_norm: 0.5, learning_rate: 1e-5 }]);
  t.like(loaded.state, { globalStep: 10, epoch: 1, maxSteps: 20, numInputTokensSeen: 1000 });
  t.deepEqual(loaded.identity, IDENTITY);
  t.is(loaded.args.lora_r, 8);
  const state = await readTensor(loaded.optimizer.get('exp_avg')!);
  t.deepEqual([...new Float32Array(state.buffer, state.byteOffset, 3)], [1, 2, 10]);
});

test('trainer_state.json has exactly the fields of transformers', async (t) => {
  const out = await scratch(t);
  const state = JSON.parse(await readFile(join(await save(out, 3), 'trainer_state.json'), 'utf8')) as Record<string, unknown>;
  t.deepEqual(Object.keys(state), [
    'best_global_step',
    'best_metric',
    'best_model_checkpoint',
    'epoch',
    'eval_steps',
    'global_step',
    'is_hyper_param_search',
    'is_local_process_zero',
    'is_world_process_zero',
    'log_history',
    'logging_steps',
    'max_steps',
    'num_input_tokens_seen',
    'num_train_epochs',
    'save_steps',
    'stateful_callbacks',
    'total_flos',
    'train_batch_size',
    'trial_name',
    'trial_params',
  ]);
});

test('rotation keeps the newest, by number and not by name', async (t) => {
  const out = await scratch(t);
  for (const step of [2, 9, 10]) await save(out, step, { saveTotalLimit: 2 });
  t.deepEqual((await readdir(out)).sort(), ['checkpoint-10', 'checkpoint-9']);
});

test('rotation never removes the one just saved, even if a later one is there', async (t) => {
  const out = await scratch(t);
  await save(out, 50);
  await save(out, 5, { saveTotalLimit: 1 });
  t.deepEqual(await readdir(out), ['checkpoint-5']);
});

test('saving again replaces the checkpoint of that step', async (t) => {
  const out = await scratch(t);
  await save(out, 4);
  const folder = await save(out, 4, { loraR: 4 });
  t.is((await loadCheckpoint(folder)).args.lora_r, 4);
  t.deepEqual(await readdir(out), ['checkpoint-4']);
});

test('a failure while saving leaves the older checkpoint and nothing else', async (t) => {
  const out = await scratch(t);
  await save(out, 1, { saveTotalLimit: 1 });
  const failing = saveCheckpoint(out, {
    args: argsFor(out, { saveTotalLimit: 1 }),
    identity: IDENTITY,
    state: { globalStep: 2, epoch: 0.2, maxSteps: 20, numInputTokensSeen: 0, logHistory: [] },
    optimizer: [],
    fill: async (folder) => {
      await writeFile(join(folder, 'half'), 'x');
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
    },
  });
  await t.throwsAsync(failing, { code: 'ERR_IO', message: /no space left/ });
  t.deepEqual(await readdir(out), ['checkpoint-1']);
});

test('the newest whole checkpoint is found; half ones, files and other names are passed over', async (t) => {
  const out = await scratch(t);
  t.is(await latestCheckpoint(out), undefined);
  t.is(await latestCheckpoint(join(out, 'absent')), undefined);
  await save(out, 9);
  await save(out, 10);
  await mkdir(join(out, 'checkpoint-11'));
  await writeFile(join(out, 'checkpoint-12'), '');
  await mkdir(join(out, '.checkpoint-13.partial-1-1'));
  await mkdir(join(out, 'checkpoint-last'));
  await rename(await save(out, 14), join(out, 'checkpoint-15'));
  t.is(await latestCheckpoint(out), join(out, 'checkpoint-10'));
  await writeFile(join(out, 'checkpoint-10', 'trainer_state.json'), '{"global_step": 10');
  t.is(await latestCheckpoint(out), join(out, 'checkpoint-9'));
});

test('tidying removes what a killed run left and brings back what was moved aside', async (t) => {
  const out = await scratch(t);
  await save(out, 1);
  await mkdir(join(out, '.checkpoint-2.partial-999999-3'));
  await mkdir(join(out, '.checkpoint-0.removed-999999-0'));
  await rename(await save(out, 3), join(out, '.checkpoint-3.old-999999-4'));
  await sweepOutput(out);
  t.deepEqual((await readdir(out)).sort(), ['checkpoint-1', 'checkpoint-3']);
});

test('a damaged checkpoint is refused by file and field', async (t) => {
  const out = await scratch(t);
  const folder = await save(out, 1);
  const state = join(folder, 'trainer_state.json');
  await writeFile(state, '{"global_step": "one", "log_history": []}');
  await t.throwsAsync(loadCheckpoint(folder), {
    code: 'ERR_BAD_CHECKPOINT',
    message: /trainer_state\.json: global_step: expected a number, got "one"/,
  });
  await rm(state);
  await t.throwsAsync(loadCheckpoint(folder), { code: 'ERR_BAD_CHECKPOINT', message: /trainer_state\.json/ });
  await t.throwsAsync(loadCheckpoint(join(out, 'none')), { code: 'ERR_NOT_FOUND' });
  await t.throwsAsync(loadCheckpoint(join(folder, 'optimizer.safetensors')), {
    code: 'ERR_BAD_CHECKPOINT',
    message: /found a file/,
  });
});

test('resuming takes the newest, a named one, or says that there is none', async (t) => {
  const out = await scratch(t);
  t.is(await checkpointToResume(argsFor(out)), undefined);
  await t.throwsAsync(checkpointToResume(argsFor(out, { resumeFromCheckpoint: true })), {
    code: 'ERR_NOT_FOUND',
    message: /holds no whole checkpoint/,
  });
  await save(out, 1);
  await save(out, 2);
  t.is((await checkpointToResume(argsFor(out, { resumeFromCheckpoint: true })))?.state.globalStep, 2);
  t.is((await checkpointToResume(argsFor(out, { resumeFromCheckpoint: join(out, 'checkpoint-1') })))?.state.globalStep, 1);
});

test('a run with other numbers, model or rows is refused, naming each option that differs', async (t) => {
  const out = await scratch(t);
  const checkpoint = await loadCheckpoint(await save(out, 1));
  t.notThrows(() => checkSameRun(checkpoint, argsFor(out, { maxSteps: 40, loggingSteps: 5, threads: 1 }), IDENTITY));
  t.throws(() => checkSameRun(checkpoint, argsFor(out, { learningRate: 1e-3, seed: 1 }), { ...IDENTITY, dataset: 'other' }), {
    code: 'ERR_USAGE',
    message:
      /--dataset: its rows are not those[\s\S]*--learning-rate: expected 0\.00002 as in the checkpoint, got 0\.001[\s\S]*--seed: expected 3407/,
  });
});

test('accumulation steps and processes may trade with each other, their product may not change', async (t) => {
  const out = await scratch(t);
  const checkpoint = await loadCheckpoint(await save(out, 1));
  const two = argsFor(out, { gradientAccumulationSteps: 2 });
  t.notThrows(() => checkSameRun(checkpoint, two, { ...IDENTITY, microBatches: 4 })); // two processes
  t.throws(() => checkSameRun(checkpoint, two, { ...IDENTITY, microBatches: 2 }), {
    code: 'ERR_USAGE',
    message: /--gradient-accumulation-steps: expected 4 micro-batches an update as in the checkpoint, got 2$/,
  });
  t.throws(() => checkSameRun(checkpoint, argsFor(out), { ...IDENTITY, microBatches: 8 }), {
    code: 'ERR_USAGE',
    message: /expected 4 micro-batches an update as in the checkpoint, got 4 times 2 processes$/,
  });
});

test('overwriting removes all checkpoints and nothing else', async (t) => {
  const out = await scratch(t);
  await save(out, 1);
  await save(out, 2);
  await writeFile(join(out, 'notes.txt'), 'mine');
  await removeCheckpoints(out);
  t.deepEqual(await readdir(out), ['notes.txt']);
  t.true(existsSync(out));
});
