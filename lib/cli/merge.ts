/** `vltune merge`: an adapter into its 16-bit model. */
import { type DeviceOption, deviceOption } from '../device.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { mergeAdapter } from '../weights/merge.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes } from './output.js';
import { ProgressStages } from './progress.js';
import { MODEL_OPTION, modelFolder, NEW_FOLDER_OPTION, REVISION_OPTION } from './shared_options.js';

const TABLE: OptionTable = {
  model: MODEL_OPTION,
  revision: REVISION_OPTION,
  adapter: { kind: 'text', value: 'DIR', required: true, group: 'Model', help: 'PEFT adapter folder' },
  outputDir: NEW_FOLDER_OPTION,
  device: deviceOption('Machine'),
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const outputDir = values.outputDir as string;
  const progress = new ProgressStages();
  try {
    const { merged, warnings } = await mergeAdapter({
      model: await modelFolder(values, progress, signal),
      adapter: values.adapter as string,
      outputDir,
      device: values.device as DeviceOption,
      signal,
      onProgress: ({ bytes, totalBytes }) => progress.report('Merging', bytes, totalBytes, formatBytes),
    });
    progress.stop();
    for (const warning of warnings) output.warn(warning);
    output.say(`Merged ${merged} layers -> ${outputDir}`);
    output.emit({ event: 'end', outputDir, mergedLayers: merged });
  } finally {
    progress.stop();
  }
}

export const command: CommandSpec = {
  name: 'merge',
  summary: 'Add an adapter to its 16-bit model, and write a model that transformers and vLLM load.',
  table: TABLE,
  recipe: true,
  examples: ['vltune merge --model Qwen/Qwen3-VL-2B-Instruct --adapter out --output-dir merged'],
  run,
};
