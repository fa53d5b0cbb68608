/** `vltune generate`: a prompt to text, as it comes. */
import { dirname } from 'node:path';
import { type MediaArgs, mediaOptionErrors, mediaOptionSpecs, mediaOptions } from '../data/media/media_options.js';
import { type DeviceOption, deviceOption } from '../device.js';
import { COMPUTE_DTYPES, type ComputeDType } from '../dtype.js';
import { type GenerateOptions, Generator } from '../generate/generate.js';
import { addon } from '../native.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import type { CommandContext, CommandSpec } from './command.js';
import { readMessages } from './messages.js';
import { formatBytes } from './output.js';
import { ProgressStages } from './progress.js';
import { MODEL_OPTION, modelFolder, REVISION_OPTION } from './shared_options.js';

const MODEL = 'Model';
const PROMPT = 'Prompt (one of --prompt, --messages, --raw)';
const SAMPLING = 'Sampling';
const FROM_MODEL = "the model's generation_config.json";

const TABLE: OptionTable = {
  model: MODEL_OPTION,
  revision: REVISION_OPTION,
  adapter: { kind: 'text', value: 'DIR', group: MODEL, help: 'PEFT adapter folder' },
  loadIn4bit: { kind: 'flag', fallback: false, group: MODEL, help: 'Hold the linear layers as NF4 with double quantisation' },
  dtype: {
    kind: 'choice',
    value: 'TYPE',
    choices: COMPUTE_DTYPES,
    defaultText: 'bfloat16; float16 on a GPU without it',
    group: MODEL,
    help: 'Type of activations and weights',
  },
  device: deviceOption(MODEL),
  threads: {
    kind: 'integer',
    value: 'N',
    unit: 'threads',
    min: 1,
    max: 4096,
    defaultText: 'VLTUNE_NUM_THREADS, else all CPUs',
    group: MODEL,
    help: 'CPU threads',
  },
  prompt: { kind: 'text', value: 'TEXT', group: PROMPT, help: "A user's turn, put into the model's chat template" },
  messages: { kind: 'text', value: 'FILE', group: PROMPT, help: 'JSON file with a list of messages (role, content)' },
  raw: { kind: 'text', value: 'TEXT', group: PROMPT, help: 'Text that no template touches' },
  system: { kind: 'text', value: 'TEXT', group: PROMPT, help: 'A system turn before --prompt' },
  image: {
    kind: 'list',
    value: 'FILE...',
    defaultText: 'none',
    group: PROMPT,
    help: 'Images that stand before the text of --prompt (--messages has its own)',
  },
  video: {
    kind: 'list',
    value: 'FILE...',
    defaultText: 'none',
    group: PROMPT,
    help: 'Videos, or folders of frames, that stand before the text of --prompt, after images',
  },
  ...mediaOptionSpecs(PROMPT, "the working directory, or the messages file's folder"),
  maxNewTokens: {
    kind: 'integer',
    value: 'N',
    unit: 'tokens',
    min: 1,
    max: 1_000_000,
    defaultText: `${FROM_MODEL}, else 512`,
    group: SAMPLING,
    help: 'Stop after this many',
  },
  temperature: {
    kind: 'number',
    value: 'T',
    min: 0,
    max: 100,
    defaultText: FROM_MODEL,
    group: SAMPLING,
    help: '0 takes the likeliest token each time',
  },
  topP: {
    kind: 'number',
    value: 'P',
    above: 0,
    max: 1,
    defaultText: FROM_MODEL,
    group: SAMPLING,
    help: 'Likeliest tokens that reach this probability together',
  },
  topK: {
    kind: 'integer',
    value: 'K',
    unit: 'tokens',
    min: 0,
    max: 10_000_000,
    defaultText: FROM_MODEL,
    group: SAMPLING,
    help: 'Likeliest tokens to choose from; 0 for all',
  },
  repetitionPenalty: {
    kind: 'number',
    value: 'R',
    above: 0,
    max: 100,
    defaultText: FROM_MODEL,
    group: SAMPLING,
    help: 'Above 1 makes tokens that occurred less likely',
  },
  seed: { kind: 'integer', value: 'N', min: 0, max: 4_294_967_295, fallback: 0, group: SAMPLING, help: 'Seed of sampling' },
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, given: keys, errors } = checkOptions(TABLE, given);
  const prompts = ['prompt', 'messages', 'raw'].filter((key) => keys.has(key));
  if (prompts.length !== 1)
    errors.push(
      `expected one of --prompt, --messages and --raw, got ${prompts.length === 0 ? 'none' : prompts.map(given.nameOf).join(' and ')}`,
    );
  if (keys.has('system') && !keys.has('prompt')) errors.push(`${given.nameOf('system')}: goes with --prompt only`);
  errors.push(...mediaOptionErrors(values, given.nameOf));
  for (const key of ['image', 'video'].filter((option) => keys.has(option) && !keys.has('prompt')))
    errors.push(`${given.nameOf(key)}: goes with --prompt only; the content of --messages names its own`);
  failOnErrors(errors);
  const messages = values.messages === undefined ? undefined : await readMessages(values.messages as string);
  if (values.threads !== undefined) addon().setThreads(values.threads as number);

  const progress = new ProgressStages();
  let generator: Generator;
  try {
    generator = await Generator.load(await modelFolder(values, progress, signal), {
      adapter: values.adapter as string | undefined,
      dtype: values.dtype as ComputeDType | undefined,
      loadIn4bit: values.loadIn4bit as boolean,
      device: values.device as DeviceOption,
      media: mediaOptions(values as unknown as MediaArgs),
      signal,
      onProgress: (done, total) => progress.report('Loading weights', done, total, formatBytes),
    });
  } finally {
    progress.stop();
  }
  try {
    const tokens = generator.generate({
      ...(values as GenerateOptions),
      images: values.image as string[] | undefined,
      videos: values.video as string[] | undefined,
      messages,
      folder: values.messages === undefined ? undefined : dirname(values.messages as string),
      signal,
    });
    let shown = 0;
    let next = await tokens.next();
    for (; !next.done; next = await tokens.next()) {
      output.stream(next.value.text);
      shown += next.value.text.length;
    }
    const { text, tokenIds, numPromptTokens, finishReason, tokensPerSecond } = next.value;
    output.stream(`${text.slice(shown)}\n`);
    output.emit({ text, tokenIds, numPromptTokens, finishReason, tokensPerSecond });
    if (process.stderr.isTTY)
      output.note(output.style('dim', `${tokenIds.length} tokens, ${tokensPerSecond.toFixed(1)} a second, ${finishReason}`));
  } finally {
    generator.release();
  }
}

export const command: CommandSpec = {
  name: 'generate',
  summary: 'Let a model answer, with or without an adapter. The text streams to stdout.',
  table: TABLE,
  recipe: true,
  examples: [
    'vltune generate --model Qwen/Qwen3-VL-2B-Instruct --adapter out --prompt "Who are you?"',
    'vltune generate --model merged --image cat.jpg --prompt "What is this?"',
    'vltune generate --model merged --messages chat.json --temperature 0 --json',
  ],
  run,
};
