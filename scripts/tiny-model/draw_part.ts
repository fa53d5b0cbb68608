/** `node draw_part.js SET PART FILE`: draws one part of a set of pictures and writes its rows; what make.ts starts once for each part. */
import { createWriteStream } from 'node:fs';
import { rename } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { pictureRows } from './pictures.js';
import { PART, PICTURES, type PictureSetName } from './settings.js';

const [set, part, file] = process.argv.slice(2) as [PictureSetName, string, string];
const { seed, count, ...options } = PICTURES[set];
const first = Number(part) * PART;

async function* lines(): AsyncGenerator<string> {
  for await (const row of pictureRows({ ...options, seed: seed + Number(part), count: Math.min(PART, count - first) }))
    yield `${JSON.stringify(row)}\n`;
}

// Under its name only when it is whole, so that a run which was stopped draws it anew.
await pipeline(Readable.from(lines()), createWriteStream(`${file}.part`));
await rename(`${file}.part`, file);
