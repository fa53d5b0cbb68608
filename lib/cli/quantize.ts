/** `vltune quantize`: a model in NF4, as bitsandbytes stores it. */
import { type DeviceOption, deviceOption } from '../device.js';
import { checkOptions, failOnErrors, type OptionTable } from '../options.js';
import { quantizeCheckpoint } from '../weights/quantize.js';
import type { CommandContext, CommandSpec } from './command.js';
import { formatBytes } from './output.js';
import { ProgressStages } from './progress.js';
import { MODEL_OPTION, modelFolder, NEW_FOLDER_OPTION, REVISION_OPTION } from './shared_options.js';

const TABLE: OptionTable = {
  model: MODEL_OPTION,
  revision: REVISION_OPTION,
  doubleQuant: { kind: 'flag', fallback: true, group: 'Output', help: 'Quantise the scales too (0.4 bits less a weight)' },
  outputDir: NEW_FOLDER_OPTION,
  device: deviceOption('Machine'),
};

async function run({ given, output, signal }: CommandContext): Promise<void> {
  const { values, errors } = checkOptions(TABLE, given);
  failOnErrors(errors);
  const outputDir = values.outputDir as string;
  const progress = new ProgressStages();
  try {
    const { quantized, bytesBefore, bytesAfter } = await quantizeCheckpoint({
      model: await modelFolder(values, progress, signal),
      outputDir,
      device: values.device as DeviceOption,
      doubleQuant: values.doubleQuant as boolean,
      signal,
      onProgress: ({ bytes, totalBytes }) => progress.report('Quantising', bytes, totalBytes, formatBytes),
    });
    progress.stop();
    output.say(`Quantised ${quantized} layers, ${formatBytes(bytesBefore)} -> ${formatBytes(bytesAfter)}: ${outputDir}`);
    output.emit({ event: 'end', outputDir, quantizedLayers: quantized, bytesBefore, bytesAfter });
  } finally {
    progress.stop();
  }
}

export const command: CommandSpec = {
  name: 'quantize',
  summary: 'Store a model in 4 bits (NF4) as bitsandbytes does: transformers loads it, and so do train and generate.',
  table: TABLE,
  recipe: true,
  examples: ['vltune quantize --model Qwen/Qwen3-VL-2B-Instruct --output-dir qwen3-vl-2b-nf4'],
  run,
};
