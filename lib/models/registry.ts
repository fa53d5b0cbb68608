/** The model families, by config.json's `model_type`. A new family is a file and a line here. */
import { join } from 'node:path';
import { VltuneError } from '../errors.js';
import { readJsonObject } from '../weights/json.js';
import type { Family, ModelSpec } from './family.js';
import { QWEN3_VL } from './qwen3_vl.js';

const FAMILIES: ReadonlyMap<string, Family> = new Map([QWEN3_VL].map((family) => [family.modelType, family]));

export function supportedModelTypes(): string[] {
  return [...FAMILIES.keys()];
}

/** Reads a model folder's config.json. ERR_BAD_CHECKPOINT, or ERR_UNSUPPORTED for a family that is not built. */
export async function describeModel(folder: string): Promise<{ spec: ModelSpec; config: Readonly<Record<string, unknown>> }> {
  const file = join(folder, 'config.json');
  const config = await readJsonObject(file, 'ERR_BAD_CHECKPOINT');
  const type = config.model_type;
  if (typeof type !== 'string')
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${file}: model_type must be a string, got ${JSON.stringify(type)}`);
  const family = FAMILIES.get(type);
  if (!family) {
    throw new VltuneError(
      'ERR_UNSUPPORTED',
      `${file}: model_type ${JSON.stringify(type)} is not supported; vltune has ${supportedModelTypes().join(', ')}`,
    );
  }
  return { spec: family.describe(config, file), config };
}
