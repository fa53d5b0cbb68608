/** `vltune bench step`: a training step at true size on random weights. */
import { SHAPE_NAMES } from '../bench/random_model.js';
import { benchStep, type StepBenchResult } from '../bench/step.js';
import { type DeviceOption, deviceOption, openDevice } from '../device.js';
import { leads } from '../distributed/place.js';
import { ddpTimeoutOption, Workers } from '../distributed/workers.js';
import { COMPUTE_DTYPES, type ComputeDType, generationActivations } from '../dtype.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes, formatCount } from './output.js';
import { LACKS_NCCL, opTimes } from './shared_options.js';

const WHAT = 'What';
const MACHINE = 'Machine and memory';

const TABLE: OptionTable = {
  shape: { kind: 'choice', value: 'SHAPE', choices: SHAPE_NAMES, fallback: 'qwen3-vl-2b', group: WHAT, help: 'The model' },
  perDeviceTrainBatchSize: {
    kind: 'integer',
    value: 'N',
    unit: 'sequences',
    min: 1,
    max: 65_536,
    fallback: 2,
    group: WHAT,
    help: 'Sequences of a micro-batch',
  },
  maxLength: {
    kind: 'integer',
    value: 'N',
    unit: 'tokens',
    min: 2,
    max: 262_144,
    fallback: 2048,
    group: WHAT,
    help: 'Tokens of a sequence',
  },
  gradientAccumulationSteps: {
    kind: 'integer',
    value: 'N',
    unit: 'micro-batches',
    min: 1,
    max: 65_536,
    fallback: 4,
    group: WHAT,
    help: 'Micro-batches of an update',
  },
  loadIn4bit: { kind: 'flag', fallback: true, group: WHAT, help: 'Hold the linear layers as NF4' },
  dtype: {
    kind: 'choice',
    value: 'TYPE',
    choices: COMPUTE_DTYPES,
    defaultText: 'bfloat16; float16 on a GPU without it',
    group: WHAT,
    help: 'Type of activations',
  },
  loraR: {
    kind: 'integer',
    value: 'N',
    min: 1,
    max: 1024,
    fallback: 16,
    group: WHAT,
    help: 'Rank of the adapters, on all linear layers',
  },
  optim: {
    kind: 'choice',
    value: 'NAME',
    choices: ['adamw_8bit', 'adamw_torch'],
    fallback: 'adamw_8bit',
    group: WHAT,
    help: 'Optimizer',
  },
  device: deviceOption(MACHINE),
  memory: {
    kind: 'bytes',
    value: 'SIZE',
    group: MACHINE,
    defaultText: 'what the device has free',
    help: 'What the plan must fit in',
  },
  ddpTimeout: ddpTimeoutOption(MACHINE),
  gradientCheckpointing: { kind: 'flag', fallback: false, onOnly: true, group: MACHINE, help: 'Recompute every layer' },
  steps: {
    kind: 'integer',
    value: 'N',
    unit: 'updates',
    min: 1,
    max: 1000,
    fallback: 5,
    group: WHAT,
    help: 'Updates that are timed',
  },
  profile: { kind: 'flag', fallback: false, onOnly: true, group: WHAT, help: 'Tell what each op of a micro-step takes' },
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const device = values.device as DeviceOption;
  const waiting = { signal, onWait: (what: string) => output.note(what) };
  const workers = await Workers.join({ device, ddpTimeout: values.ddpTimeout as number }, waiting);
  let result: StepBenchResult;
  try {
    result = await benchStep({
      shape: values.shape as string,
      perDeviceTrainBatchSize: values.perDeviceTrainBatchSize as number,
      maxLength: values.maxLength as number,
      gradientAccumulationSteps: values.gradientAccumulationSteps as number,
      loadIn4bit: values.loadIn4bit as boolean,
      dtype: generationActivations(values.dtype as ComputeDType | undefined, device),
      device: workers?.device ?? openDevice(device),
      loraR: values.loraR as number,
      optim: values.optim as 'adamw_8bit' | 'adamw_torch',
      gradientCheckpointing: values.gradientCheckpointing as boolean,
      memory: values.memory as number | undefined,
      steps: values.steps as number,
      profile: values.profile as boolean,
      signal,
      workers,
    });
    await workers?.leave();
  } catch (error) {
    workers?.fail(error);
    throw error;
  }
  if (!leads()) return;
  if (workers?.lacksNccl) output.warn(LACKS_NCCL);
  if (result.processes > 1)
    output.say(`${result.processes} processes; gradients are added up in ${result.sumMs.toFixed(1)} ms of an update`);
  output.say(
    `${formatCount(result.tokensPerSecond)} tokens/s; an update ${result.stepMs.toFixed(1)} ms, ${result.hostMs.toFixed(2)} of them the host's`,
  );
  output.say(
    `${formatBytes(result.peakMemoryBytes)} at most, ${formatBytes(result.plannedMemoryBytes)} planned; recomputed: ${result.recompute}`,
  );
  const rate = (result.flopsPerToken * result.tokensPerSecond) / 1e12;
  output.say(`${(result.flopsPerToken / 1e9).toFixed(2)} GFLOP a token, ${rate.toPrecision(3)} TFLOP/s`);
  for (const line of opTimes(result.ops)) output.say(line);
  output.emit({ ...result });
}

export const command: CommandSpec = {
  name: 'bench step',
  summary: 'Time a training step of a model of true size, on random weights made in place: tokens/s, memory, host time.',
  table: TABLE,
  recipe: false,
  examples: [
    'vltune bench step',
    'vltune bench step --shape qwen3-vl-8b --memory 16GB --json',
    'vltune bench step --shape 100m --device cpu --max-length 256',
  ],
  run,
};
