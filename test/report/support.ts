/** A run folder as training writes it, with whatever texts a test wants in it, and a reader of HTML that is strict about its form. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';

export type Event = Record<string, unknown>;

export const START: Event = {
  event: 'start',
  time: '2026-11-30T02:00:00.000Z',
  model: 'models/vltune-tiny',
  rows: 430,
  tokens: 11_544,
  target_tokens: 4867,
  truncated_rows: 2,
  skipped_rows: 0,
  trainable_parameters: 651_264,
  steps: 6,
  resumed_step: 0,
  device: 'cpu',
  planned_memory_bytes: 212_000_000,
  version: '0.1.0',
  machine: 'A processor',
  options: { model: 'models/vltune-tiny', dataset: ['rows.jsonl'], lora_r: 32, seed: 3407, max_steps: -1, memory: null },
};

export function step(n: number, more: Event = {}): Event {
  return {
    event: 'step',
    time: `2026-11-30T02:00:0${n % 10}.000Z`,
    step: n,
    epoch: n / 6,
    loss: 4 / n,
    grad_norm: 1 / n,
    learning_rate: 1e-3 * (1 - n / 6),
    num_tokens: 500,
    num_target_tokens: 200,
    tokens_per_second: 20_000 + n,
    memory_bytes: 2e8 + n,
    ...more,
  };
}

export const END: Event = {
  event: 'end',
  time: '2026-11-30T02:00:07.500Z',
  steps: 6,
  train_loss: 1,
  tokens_per_second: 19_000,
  peak_memory_bytes: 211_000_000,
  planned_memory_bytes: 212_000_000,
};

/** A run of six updates from its start to its end. */
export const RUN: readonly Event[] = [
  START,
  ...[1, 2, 3].map((n) => step(n)),
  { event: 'eval', time: '2026-11-30T02:00:03.500Z', step: 3, epoch: 0.5, eval_loss: 1.5, num_target_tokens: 10 },
  ...[4, 5, 6].map((n) => step(n)),
  END,
];

export async function writeLog(folder: string, events: readonly Event[]): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'events.jsonl'), `${events.map((event) => JSON.stringify(event)).join('\n')}\n`);
}

/** A PNG of one colour. */
export async function png(width: number, height: number, background: string): Promise<Buffer> {
  return await sharp({ create: { width, height, channels: 3, background } })
    .png()
    .toBuffer();
}

export interface Element {
  readonly tag: string;
  readonly attributes: ReadonlyMap<string, string>;
}

const VOID = new Set(['meta', 'img', 'br', 'link', 'input']);

/** Every element of a page, in order. Throws where a tag is not closed, closed in the wrong order, or oddly written. */
export function elementsOf(page: string): Element[] {
  const elements: Element[] = [];
  const open: string[] = [];
  const body = page.replace(/^<!doctype html>/, '').replace(/<style>[\s\S]*?<\/style>/g, '');
  for (const [tag] of body.matchAll(/<[^>]*>/g)) {
    const closing = /^<\/([a-z][\w-]*)>$/i.exec(tag)?.[1];
    if (closing !== undefined) {
      const expected = open.pop();
      if (closing !== expected) throw new Error(`${tag} closes <${expected}>`);
      continue;
    }
    const opening = /^<([a-z][\w-]*)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>$/i.exec(tag);
    if (!opening) throw new Error(`odd tag: ${tag}`);
    const attributes = new Map([...opening[2]!.matchAll(/([\w:-]+)="([^"]*)"/g)].map(([, name, value]) => [name!, value!]));
    elements.push({ tag: opening[1]!, attributes });
    if (!VOID.has(opening[1]!) && opening[3] !== '/') open.push(opening[1]!);
  }
  if (open.length > 0) throw new Error(`not closed: ${open.join(', ')}`);
  return elements;
}
