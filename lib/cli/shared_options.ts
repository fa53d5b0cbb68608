/** Options that several commands take, and what they do with them. */
import type { OptionSpec } from '../options.js';
import { type DownloadProgress, resolveModel } from '../weights/hub.js';
import { formatBytes } from './output.js';
import type { ProgressStages } from './progress.js';

export const MODEL_OPTION: OptionSpec = {
  kind: 'text',
  value: 'M',
  required: true,
  group: 'Model',
  help: 'Model folder or hub id',
};
export const REVISION_OPTION: OptionSpec = {
  kind: 'text',
  value: 'REV',
  fallback: 'main',
  group: 'Model',
  help: 'Branch, tag or commit of a hub id',
};
export const NEW_FOLDER_OPTION: OptionSpec = {
  kind: 'text',
  value: 'DIR',
  required: true,
  group: 'Output',
  help: 'Folder to write, empty or absent; it appears whole or not at all',
};

/** A line for each op that was measured. */
export function opTimes(
  ops: readonly { readonly op: string; readonly calls: number; readonly milliseconds: number }[] = [],
): string[] {
  return ops.map(
    ({ op, calls, milliseconds }) => `  ${op.padEnd(24)} ${String(calls).padStart(5)} ${milliseconds.toFixed(3).padStart(10)} ms`,
  );
}

/** Shows a download as it goes. */
export function downloadProgress(progress: ProgressStages): (download: DownloadProgress) => void {
  return ({ file, bytes, totalBytes }) => progress.report('Downloading', bytes, totalBytes, formatBytes, file);
}

/** The folder of a model that a command reads, downloaded if it is a hub id that is not here. */
export async function modelFolder(
  values: Readonly<Record<string, unknown>>,
  progress: ProgressStages,
  signal: AbortSignal,
): Promise<string> {
  return await resolveModel(values.model as string, {
    revision: values.revision as string,
    signal,
    onProgress: downloadProgress(progress),
  });
}

/** A warning of commands that several GPUs work on together. */
export const LACKS_NCCL =
  "NCCL was not found (VLTUNE_NCCL names its file): gradients are added up through the host's memory, which takes longer";
