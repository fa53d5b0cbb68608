/** Rows as token ids and targets, and their order: transformers' tokenizer and template, torch's permutation (`train_parity.py`). */
import { join } from 'node:path';

import test from 'ava';

import { BatchPlan } from '../../lib/data/batches.js';
import { prepareDataset } from '../../lib/data/prepare.js';
import { ChatTemplate } from '../../lib/data/template.js';
import type { TokenDataset } from '../../lib/data/token_dataset.js';
import { Tokenizer } from '../../lib/data/tokenizer.js';
import { IGNORE_INDEX } from '../../lib/ops/linear_cross_entropy.js';
import { type EncodedRow, MODEL, PARITY, readJson, type Trace } from './fixtures.js';

interface Form {
  readonly file: string;
  readonly textFormat: 'chat' | 'plain';
  readonly appendEos: boolean;
}

const FORMS: Readonly<Record<string, Form>> = {
  chat: { file: 'messages.jsonl', textFormat: 'chat', appendEos: true },
  plain: { file: 'messages.jsonl', textFormat: 'plain', appendEos: true },
  'plain-no-eos': { file: 'messages.jsonl', textFormat: 'plain', appendEos: false },
  long: { file: 'long.jsonl', textFormat: 'chat', appendEos: true },
  'alpaca-chat': { file: 'alpaca.jsonl', textFormat: 'chat', appendEos: true },
};

async function prepare({ file, textFormat, appendEos }: Form): Promise<TokenDataset> {
  const tokenizer = await Tokenizer.load(MODEL);
  const template = await ChatTemplate.load(MODEL, tokenizer);
  return prepareDataset([join(PARITY, file)], { tokenizer, template, textFormat, appendEos });
}

/** Labels that are predicted: a row's first token has nothing before it. */
function labels({ ids, targets }: EncodedRow): number[] {
  return ids.map((id, i) => (i > 0 && targets.some(([first, end]) => first <= i && i < end) ? id : IGNORE_INDEX));
}

for (const [name, form] of Object.entries(FORMS)) {
  test(`rows in the form ${name} have transformers' token ids and targets`, async (t) => {
    const expected = readJson<Record<string, EncodedRow[]>>('tokens.json')[name]!;
    const dataset = await prepare(form);
    try {
      t.is(dataset.size, expected.length);
      for (const [i, row] of expected.entries()) {
        const { ids, targets } = dataset.read(i);
        t.deepEqual([...ids], row.ids, `ids of row ${i}`);
        t.deepEqual([IGNORE_INDEX, ...targets.subarray(1)], labels(row), `targets of row ${i}`);
      }
    } finally {
      dataset.close();
    }
  });
}

test("micro-batches hold the rows that torch's permutation and Trainer's accumulation put there", async (t) => {
  const trace = readJson<Trace>('lora-chat.json');
  const dataset = await prepare(FORMS.chat!);
  try {
    const plan = new BatchPlan(dataset, {
      batchSize: 2,
      gradientAccumulationSteps: 3,
      maxLength: 2048,
      packing: false,
      shuffle: true,
      seed: 3407,
    });
    t.is(plan.updatesPerEpoch, 5);
    for (const { step, rows } of trace.steps) {
      const update = plan.update(Math.floor((step - 1) / 5), (step - 1) % 5);
      t.deepEqual(
        update.map((batch) => [...batch]),
        rows.map((batch) => [...batch]),
        `update ${step}`,
      );
    }
  } finally {
    dataset.close();
  }
});
