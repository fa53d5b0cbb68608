/** `vltune bench generate`: generation at true size on random weights. */
import { benchGenerate } from '../bench/generate.js';
import { SHAPE_NAMES } from '../bench/random_model.js';
import { type DeviceOption, deviceOption, openDevice } from '../device.js';
import { COMPUTE_DTYPES, type ComputeDType, generationActivations } from '../dtype.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes } from './output.js';
import { opTimes } from './shared_options.js';

const WHAT = 'What';
const MACHINE = 'Machine';

const TABLE: OptionTable = {
  shape: { kind: 'choice', value: 'SHAPE', choices: SHAPE_NAMES, fallback: 'qwen3-vl-2b', group: WHAT, help: 'The model' },
  promptTokens: {
    kind: 'integer',
    value: 'N',
    unit: 'tokens',
    min: 1,
    max: 262_144,
    fallback: 512,
    group: WHAT,
    help: 'The prompt',
  },
  newTokens: {
    kind: 'integer',
    value: 'N',
    unit: 'tokens',
    min: 2,
    max: 262_144,
    fallback: 129,
    group: WHAT,
    help: 'The answer',
  },
  loadIn4bit: { kind: 'flag', fallback: true, group: WHAT, help: 'Hold the linear layers as NF4' },
  dtype: {
    kind: 'choice',
    value: 'TYPE',
    choices: COMPUTE_DTYPES,
    defaultText: 'bfloat16; float16 on a GPU without it',
    group: WHAT,
    help: 'Type of activations and of weights that are not quantised',
  },
  loraR: {
    kind: 'integer',
    value: 'N',
    min: 0,
    max: 1024,
    fallback: 0,
    group: WHAT,
    help: 'Rank of adapters on all linear layers; 0: none',
  },
  temperature: {
    kind: 'number',
    value: 'T',
    min: 0,
    max: 100,
    fallback: 0,
    group: WHAT,
    help: 'Of sampling with top-k 20, top-p 0.8; 0: greedy',
  },
  rounds: {
    kind: 'integer',
    value: 'N',
    min: 1,
    max: 1000,
    fallback: 3,
    group: WHAT,
    help: 'Answers that are timed, after one that is not',
  },
  profile: { kind: 'flag', fallback: false, onOnly: true, group: WHAT, help: 'Tell what each op of a token takes (on a GPU)' },
  device: deviceOption(MACHINE),
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const result = await benchGenerate({
    shape: values.shape as string,
    promptTokens: values.promptTokens as number,
    newTokens: values.newTokens as number,
    loadIn4bit: values.loadIn4bit as boolean,
    dtype: generationActivations(values.dtype as ComputeDType | undefined, values.device as DeviceOption),
    device: openDevice(values.device as DeviceOption),
    loraR: values.loraR as number,
    temperature: values.temperature as number,
    rounds: values.rounds as number,
    profile: values.profile as boolean,
    signal,
  });
  output.say(
    `${result.tokensPerSecond.toFixed(1)} tokens/s after the first, which took ${result.timeToFirstTokenMs.toFixed(1)} ms`,
  );
  output.say(`weights read at ${formatBytes(result.weightBytesPerSecond)}/s; ${formatBytes(result.peakMemoryBytes)} in use`);
  for (const line of opTimes(result.ops)) output.say(line);
  output.emit({ ...result });
}

export const command: CommandSpec = {
  name: 'bench generate',
  summary: 'Time generation of one sequence by a model of true size, on random weights made in place.',
  table: TABLE,
  recipe: false,
  examples: ['vltune bench generate', 'vltune bench generate --shape qwen3-vl-8b --prompt-tokens 4096 --json'],
  run,
};
