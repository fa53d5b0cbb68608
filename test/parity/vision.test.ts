/** Rows with pictures and video against transformers + PEFT in F32: features, logits, loss and gradients, LoRA in the tower too. */
import test from 'ava';
import {
  CASES,
  checkBf16Features,
  checkEncoder,
  checkForward,
  checkFull,
  checkGreedy,
  checkMisfits,
  checkSplit,
  checkTraining,
  checkUpdates,
  trainCase,
} from './vision_cases.js';

for (const name of Object.keys(CASES)) {
  test(`features and logits are those of transformers: ${name}`, (t) => checkForward(t, name, 'cpu'));

  test(`loss and gradients of adapters in tower and language model are those of transformers and PEFT: ${name}`, (t) =>
    checkTraining(t, name, 'cpu'));
}

for (const name of ['several', 'video']) {
  test(`a tower that runs by itself makes the features of transformers and PEFT: ${name}`, (t) => checkEncoder(t, name, 'cpu'));

  test(`features made beforehand train to the same bits: ${name}`, (t) => checkSplit(t, name, 'cpu'));

  test(`a tower whose activations are made again has the same bits: ${name}`, async (t) => {
    const kept = await trainCase(name, 'cpu');
    const recomputed = await trainCase(name, 'cpu', true);
    t.is(recomputed.loss, kept.loss);
    for (const [tensor, gradient] of kept.gradients) t.deepEqual(recomputed.gradients.get(tensor), gradient, tensor);
  });
}

test('full fine-tuning has gradients in positions, patches and norms of the tower', (t) => checkFull(t, 'cpu'));

test('twelve updates with one, several, no pictures and video have the losses and norms of transformers and PEFT', (t) =>
  checkUpdates(t, 'cpu'));

test('words after pictures and video are those of transformers and PEFT', (t) => checkGreedy(t, 'cpu'));

test('in bf16, features are no further from F32 than 1.25 times those of transformers', (t) => checkBf16Features(t, 'cpu'));

test('patches that do not fit their grids, and tokens that do not fit their pictures, are refused', (t) => checkMisfits(t));
