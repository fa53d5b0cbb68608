/** `vltune report`: a run as one HTML file. */
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { writeReport } from '../report/report.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes, formatCount } from './output.js';

const FILES = 'Files';

const TABLE: OptionTable = {
  folder: { kind: 'text', value: 'DIR', required: true, group: FILES, help: 'Output folder of a training run' },
  output: {
    kind: 'text',
    short: 'o',
    value: 'FILE',
    defaultText: 'report.html in DIR',
    group: FILES,
    help: 'HTML file to write; it appears whole or not at all',
  },
  questions: {
    kind: 'text',
    value: 'FILE',
    defaultText: 'questions.json in DIR, if it is there',
    group: FILES,
    help: 'JSON list of questions asked before and after training: question, before, after, and where there are such image, alt, group, expected, rightBefore, rightAfter',
  },
};

async function run({ given, output }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const report = await writeReport({
    folder: values.folder as string,
    output: values.output as string | undefined,
    questions: values.questions as string | undefined,
  });
  const { steps, questions } = report;
  const asked = questions === 0 ? '' : ` and ${formatCount(questions)} question${questions === 1 ? '' : 's'}`;
  output.say(`${formatCount(steps)} update${steps === 1 ? '' : 's'}${asked} -> ${report.output} (${formatBytes(report.bytes)})`);
  output.emit({ event: 'report', ...report });
}

export const command: CommandSpec = {
  name: 'report',
  summary: 'Write a training run as one HTML file: its curves, options, checkpoints, and questions asked before and after.',
  table: TABLE,
  argument: 'folder',
  recipe: false,
  examples: ['vltune report out', 'vltune report runs/demo/adapter --output demo.html'],
  run,
};
