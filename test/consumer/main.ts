/**
 * A project that has installed vltune from its tarball: it must type-check in the strictest settings, and run. Arguments: a
 * model folder, a dataset, an output folder. Prints one JSON object.
 */
import {
  Generator,
  isUserError,
  resolveTrainArgs,
  type TrainArgs,
  type TrainEvent,
  type TrainOptions,
  train,
  VltuneError,
} from 'vltune';
import { Eager, nf4Dequantize, nf4Quantize, rmsNorm, Tensor } from 'vltune/ops';

const [model, dataset, outputDir] = process.argv.slice(2) as [string, string, string];

// Types: options are checked by name and value, events are told apart by `event`, tuples and unions stay what they are.
const options: TrainOptions = { model, dataset, outputDir, maxLength: 64, maxSteps: 2, loraR: 4, saveStrategy: 'no' };
const args: TrainArgs = resolveTrainArgs(options);
const scheduler: 'linear' | 'cosine' | 'constant' | 'constant_with_warmup' = args.lrSchedulerType;
// @ts-expect-error a misspelled option
const misspelled: TrainOptions = { model, dataset, outputDir, learningRat: 1 };
// @ts-expect-error a value that is no choice
const noChoice: TrainOptions = { model, dataset, outputDir, optim: 'sgd' };
// @ts-expect-error nothing to train on
const noDataset: TrainOptions = { model, outputDir };
// @ts-expect-error what is settled is not written to
const write = (): number => (args.seed = 1);
const refusedTypes = [misspelled, noChoice, noDataset, write].length;

function lossOf(event: TrainEvent): number | undefined {
  return event.event === 'step' ? event.loss : undefined;
}

let refusal = '';
try {
  resolveTrainArgs({ ...options, loraR: 0 });
} catch (error) {
  if (error instanceof VltuneError && isUserError(error)) refusal = `${error.code} ${error.message}`;
}

// Kernels on typed arrays.
const eager = new Eager();
const x = Tensor.from(new Float32Array([3, 4, 0, 0]), [1, 4]);
const { y } = rmsNorm(eager, x, Tensor.from(new Float32Array(4).fill(1), [4]), 0);
const weights = Tensor.from(
  Float32Array.from({ length: 128 }, (_, i) => Math.sin(i)),
  [2, 64],
);
const { codes, absmax } = nf4Quantize(eager, weights);
const restored = nf4Dequantize(eager, Tensor.nf4([2, 64], codes, absmax), 'f32').toFloat32();
const error = Math.max(...restored.map((value, i) => Math.abs(value - Math.sin(i))));

// The whole job.
const losses: number[] = [];
const result = await train(options, {
  onEvent(event) {
    const loss = lossOf(event);
    if (loss !== undefined) losses.push(loss);
  },
});
const generator = await Generator.load(model, { adapter: result.outputDir, dtype: 'float32' });
const answer = await generator.complete({ prompt: 'Who are you?', maxNewTokens: 4, temperature: 0 });
generator.release();

console.log(
  JSON.stringify({
    scheduler,
    refusal,
    norm: [...y.toFloat32()],
    error,
    losses,
    steps: result.steps,
    tokens: answer.tokenIds.length,
    refusedTypes,
  }),
);
