/**
 * recipe.yaml as a program: the same run from TypeScript, with a hook for every event and a way to stop. In a project of yours the import is 'vltune'.
 * Run it with a TypeScript runner, or with Node 22.18 and newer: node examples/train.ts
 */
import { isUserError, train } from 'vltune';

// Ctrl-C saves a checkpoint of the last whole update; `resumeFromCheckpoint: true` goes on from it.
const stop = new AbortController();
process.once('SIGINT', () => stop.abort());

try {
  const result = await train(
    {
      model: 'Qwen/Qwen3-VL-2B-Instruct',
      dataset: 'messages.jsonl',
      outputDir: 'out',

      loadIn4bit: true,
      loraR: 16,
      loraAlpha: 16,

      perDeviceTrainBatchSize: 2,
      gradientAccumulationSteps: 4,
      maxLength: 2048,

      numTrainEpochs: 1,
      learningRate: 2e-5,
      lrSchedulerType: 'linear',
      warmupSteps: 5,
      optim: 'adamw_8bit',
      weightDecay: 0.01,
      seed: 3407,

      loggingSteps: 1,
      saveSteps: 500,
      saveTotalLimit: 1,
    },
    {
      signal: stop.signal,
      onEvent: (event) => {
        if (event.event === 'step')
          console.log(`update ${event.step}  loss ${event.loss.toFixed(4)}  ${Math.round(event.tokens_per_second)} tokens/s`);
        if (event.event === 'save') console.log(`saved ${event.path}`);
      },
    },
  );
  console.log(`adapter in ${result.outputDir} after ${result.steps} updates, mean loss ${result.trainLoss.toFixed(4)}`);
} catch (error) {
  // A mistake in options or data says where it is; anything else is worth a stack trace.
  if (!isUserError(error)) throw error;
  console.error((error as Error).message);
  process.exitCode = 2;
}
