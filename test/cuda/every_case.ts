/** Runs every case of `op_cases.ts` once on a GPU and leaves: what `npm run test:sanitizers` puts under compute-sanitizer. */
import { addon } from '../../lib/native.js';
import { opCases, runCase } from './op_cases.js';

const { available, reason } = addon().cudaInfo();
if (!available) {
  process.stderr.write(`no GPU: ${reason}\n`);
  process.exit(2);
}
const cases = opCases();
for (const c of cases) runCase(c, 'cuda');
process.stdout.write(`${cases.length} cases ran\n`);
