import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { VltuneError } from '../../lib/errors.js';
import { ModelFolder } from '../../lib/models/model_folder.js';
import { QWEN3_VL } from '../../lib/models/qwen3_vl.js';
import { describeModel } from '../../lib/models/registry.js';
import { Checkpoint, type TensorEntry, writeCheckpoint } from '../../lib/weights/safetensors.js';
import { MODEL, temporaryFolder } from '../train/support.js';

type Json = Record<string, unknown>;

function config(): Json & { text_config: Json; vision_config: Json } {
  return JSON.parse(readFileSync(join(MODEL, 'config.json'), 'utf8')) as Json & { text_config: Json; vision_config: Json };
}

const refusals: [string, (c: ReturnType<typeof config>) => void, RegExp][] = [
  [
    'a missing size',
    (c) => void delete c.text_config.hidden_size,
    /text_config\.hidden_size must be a whole number from 1 .* got nothing/,
  ],
  [
    'a negative size',
    (c) => {
      c.text_config.num_hidden_layers = -3;
    },
    /text_config\.num_hidden_layers .* got -3/,
  ],
  [
    'a huge size',
    (c) => {
      c.text_config.vocab_size = 1e12;
    },
    /text_config\.vocab_size .* got 1000000000000/,
  ],
  [
    'a size that is text',
    (c) => {
      c.text_config.intermediate_size = '128';
    },
    /text_config\.intermediate_size .* got "128"/,
  ],
  [
    'a size with a fraction',
    (c) => {
      c.text_config.num_attention_heads = 2.5;
    },
    /num_attention_heads .* got 2\.5/,
  ],
  [
    'heads that do not divide',
    (c) => {
      c.text_config.num_key_value_heads = 3;
    },
    /num_key_value_heads must be a divisor of num_attention_heads/,
  ],
  [
    'an odd head',
    (c) => {
      c.text_config.head_dim = 15;
    },
    /head_dim must be even, got 15/,
  ],
  [
    'an epsilon of zero',
    (c) => {
      c.text_config.rms_norm_eps = 0;
    },
    /rms_norm_eps must be a number above 0/,
  ],
  [
    'another activation',
    (c) => {
      c.text_config.hidden_act = 'gelu';
    },
    /hidden_act must be "silu", got "gelu"/,
  ],
  ['no text part', (c) => void delete (c as Json).text_config, /text_config must be an object, got nothing/],
  [
    'a vision part that is a list',
    (c) => {
      (c as Json).vision_config = [];
    },
    /vision_config must be an object/,
  ],
  [
    'vision heads that do not turn in quarters',
    (c) => {
      c.vision_config.num_heads = 16;
    },
    /vision_config.num_heads must be a number that leaves hidden_size \(32\) heads of a multiple of 4, got 16/,
  ],
  [
    'another activation in the vision tower',
    (c) => {
      c.vision_config.hidden_act = 'quick_gelu';
    },
    /vision_config.hidden_act must be "gelu_pytorch_tanh" or "gelu", got "quick_gelu"/,
  ],
  [
    'features of another width than the language model',
    (c) => {
      c.vision_config.out_hidden_size = 48;
    },
    /vision_config.out_hidden_size must be text_config.hidden_size, 64, got 48/,
  ],
  [
    'a scaled rope',
    (c) => {
      c.text_config.rope_parameters = { rope_type: 'yarn', rope_theta: 1e4 };
    },
    /rope_type must be "default", got "yarn"/,
  ],
  [
    'sections of another sum',
    (c) => {
      c.text_config.rope_parameters = { rope_type: 'default', rope_theta: 1e4, mrope_section: [1, 1, 1] };
    },
    /mrope_section must be three numbers whose sum is/,
  ],
  [
    'a flag that is a number',
    (c) => {
      c.tie_word_embeddings = 1;
    },
    /tie_word_embeddings must be true or false, got 1/,
  ],
];

for (const [what, change, message] of refusals) {
  test(`a config with ${what} is refused by file and key`, (t) => {
    const changed = config();
    change(changed);
    const error = t.throws(() => QWEN3_VL.describe(changed, '/m/config.json'), { instanceOf: VltuneError });
    t.is(error?.code, 'ERR_BAD_CHECKPOINT');
    t.true(error?.message.startsWith('/m/config.json: '));
    t.regex(error!.message, message);
  });
}

test('the published form of the rope settings means the same as that of transformers 5', (t) => {
  const settings = { rope_type: 'default', mrope_interleaved: true, mrope_section: [4, 2, 2] };
  const newer = config();
  newer.text_config.head_dim = 16;
  delete newer.text_config.rope_scaling;
  newer.text_config.rope_parameters = { ...settings, rope_theta: 5e6 };
  const older = config();
  older.text_config.head_dim = 16;
  older.text_config.rope_theta = 5e6;
  older.text_config.rope_scaling = settings;
  const { rope } = QWEN3_VL.describe(older, 'f').text;
  t.deepEqual(rope, QWEN3_VL.describe(newer, 'f').text.rope);
  t.deepEqual(rope, { headDim: 16, theta: 5e6, sections: [4, 2, 2], interleaved: true });
});

test('an unknown model_type is refused by name', async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ model_type: 'llama' }));
  await t.throwsAsync(describeModel(folder), {
    code: 'ERR_UNSUPPORTED',
    message: /model_type "llama" is not supported; vltune has qwen3_vl/,
  });
});

async function changedCheckpoint(folder: string, change: (entries: TensorEntry[]) => TensorEntry[]): Promise<void> {
  cpSync(MODEL, folder, { recursive: true });
  const checkpoint = await Checkpoint.open(MODEL);
  const entries = [...checkpoint.tensors.values()].map(({ name, dtype, shape }) => ({
    name,
    dtype,
    shape,
    data: checkpoint.bytes(name),
  }));
  await writeCheckpoint(folder, change(entries));
  checkpoint.close();
}

const NORM = 'model.language_model.layers.1.self_attn.q_norm.weight';
const VISION = 'model.visual.merger.norm.bias';
const faults: [string, (entries: TensorEntry[]) => TensorEntry[], RegExp][] = [
  [
    'lacks a tensor',
    (e) => e.filter((entry) => entry.name !== NORM),
    /tensor model\.language_model\.layers\.1\.self_attn\.q_norm\.weight is missing/,
  ],
  [
    'lacks a tensor of the tower',
    (e) => e.filter((entry) => entry.name !== VISION),
    /model\.visual\.merger\.norm\.bias is missing/,
  ],
  [
    'has one too many',
    (e) => [
      ...e,
      { name: 'model.language_model.layers.9.mlp.up_proj.weight', dtype: 'F32', shape: [1], data: new Uint8Array(4) },
    ],
    /tensor model\.language_model\.layers\.9\.mlp\.up_proj\.weight is there that config\.json \(qwen3_vl\) does not call for/,
  ],
  [
    'has a tensor of another shape',
    (e) => e.map((entry) => (entry.name === NORM ? { ...entry, shape: [entry.shape[0]! / 2, 2] } : entry)),
    /tensor .*q_norm\.weight: config\.json calls for shape \[\d+\], found \[\d+, 2\]/,
  ],
  [
    'has a tensor of another type',
    (e) => e.map((entry) => (entry.name === NORM ? { ...entry, dtype: 'I32' } : entry)),
    /tensor .*q_norm\.weight: expected F32, BF16 or F16, found I32/,
  ],
];

for (const [what, change, message] of faults) {
  test(`a checkpoint that ${what} is refused by tensor`, async (t) => {
    const folder = temporaryFolder(t);
    await changedCheckpoint(folder, change);
    const error = await t.throwsAsync(ModelFolder.open(folder));
    t.is((error as VltuneError).code, 'ERR_BAD_CHECKPOINT');
    t.regex(error!.message, message);
  });
}

test('the linear layers are those that PEFT would find', async (t) => {
  const model = await ModelFolder.open(MODEL);
  const names = model.spec.linears.map((linear) => linear.name);
  t.true(names.includes('model.language_model.layers.0.mlp.gate_proj'));
  t.true(names.includes('model.visual.blocks.0.mlp.linear_fc1'));
  t.true(names.includes('model.visual.deepstack_merger_list.0.linear_fc2'));
  t.true(names.includes('lm_head'));
  model.close();
});
