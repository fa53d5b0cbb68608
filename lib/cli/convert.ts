/** `vltune convert`: an Alpaca file to messages. */
import { CONVERT_FORMATS, type ConvertFormat, convert } from '../data/convert.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes, formatCount } from './output.js';
import { ProgressStages } from './progress.js';

const FILES = 'Files';
const RECORDS = 'Records';

const TABLE: OptionTable = {
  input: { kind: 'text', short: 'i', value: 'IN', required: true, group: FILES, help: 'Alpaca file: JSON or JSON Lines' },
  output: {
    kind: 'text',
    short: 'o',
    value: 'OUT',
    required: true,
    group: FILES,
    help: 'File to write; it appears whole or not at all',
  },
  outputFormat: {
    kind: 'choice',
    short: 'f',
    value: 'FORMAT',
    choices: CONVERT_FORMATS,
    fallback: 'jsonl',
    group: FILES,
    help: 'One record a line, or one array',
  },
  systemInstruction: { kind: 'text', short: 's', value: 'TEXT', group: RECORDS, help: "Text put before the user's" },
  forceEmptyImage: {
    kind: 'flag',
    fallback: false,
    onOnly: true,
    group: RECORDS,
    help: 'Add an empty image to rows without one',
  },
  preview: {
    kind: 'integer',
    short: 'p',
    value: 'N',
    unit: 'records',
    min: 0,
    max: 1_000_000,
    fallback: 0,
    group: RECORDS,
    help: 'Print the first N records',
  },
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const progress = new ProgressStages();
  const result = await convert({
    input: values.input as string,
    output: values.output as string,
    format: values.outputFormat as ConvertFormat,
    systemInstruction: values.systemInstruction as string | undefined,
    forceEmptyImage: values.forceEmptyImage as boolean,
    preview: values.preview as number,
    signal,
    onProgress: ({ rows, bytesRead, bytesTotal }) => {
      progress.report('Converting', bytesRead, bytesTotal, formatBytes, `${formatCount(rows)} rows`);
    },
  }).finally(() => progress.stop());
  for (const record of result.preview) output.say(record);
  output.say(`Converted ${result.rows} items -> ${result.output} (format=${result.format})`);
  output.emit({ event: 'end', rows: result.rows, output: result.output, format: result.format });
}

export const command: CommandSpec = {
  name: 'convert',
  summary: 'Turn an Alpaca file (instruction, input, output) into messages. Memory does not grow with the file.',
  table: TABLE,
  recipe: false,
  examples: [
    'vltune convert -i alpaca.json -o messages.jsonl',
    'vltune convert -i alpaca.jsonl -o messages.json -f json -s "Answer briefly." -p 2',
  ],
  run,
};
