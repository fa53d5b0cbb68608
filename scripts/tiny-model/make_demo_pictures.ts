/** Writes examples/data/pictures.jsonl anew: `node dist/scripts/tiny-model/make_demo_pictures.js`, after a change to what is drawn or asked. */
import { join } from 'node:path';
import { writeFileAtomic } from '../../lib/files.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { demoPictureRows } from './demo_pictures.js';

let text = '';
for await (const row of demoPictureRows()) text += `${JSON.stringify(row)}\n`;
await writeFileAtomic(join(PACKAGE_ROOT, 'examples', 'data', 'pictures.jsonl'), text);
