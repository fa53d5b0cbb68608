// `npm run test:sanitizers`: every op case of test/cuda on this machine's GPU under compute-sanitizer's four tools, with the products
// that are chosen by default and with our own for Hopper. Needs a build with CUDA and compute-sanitizer on the PATH.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './setup.mjs';

const TOOLS = ['memcheck', 'racecheck', 'initcheck', 'synccheck'];
const PRODUCTS = ['', 'sm90'];
const program = join(ROOT, 'dist', 'test', 'cuda', 'every_case.js');

let failed = 0;
for (const tool of process.argv.length > 2 ? process.argv.slice(2) : TOOLS) {
  for (const product of PRODUCTS) {
    const started = performance.now();
    const { status, stdout, error } = spawnSync(
      'compute-sanitizer',
      ['--tool', tool, '--error-exitcode', '9', process.execPath, program],
      {
        env: { ...process.env, ...(product && { VLTUNE_GEMM: product }) },
        encoding: 'utf8',
        maxBuffer: 1 << 28,
      },
    );
    if (error) throw error;
    const clean = status === 0;
    if (!clean) failed += 1;
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    console.log(`${clean ? '✔' : '✘'} ${tool}${product && `, VLTUNE_GEMM=${product}`} (${seconds} s)`);
    if (!clean) console.log(stdout.split('\n').slice(0, 60).join('\n'));
  }
}
console.log(failed === 0 ? 'no finding' : `${failed} with findings`);
process.exitCode = failed === 0 ? 0 : 1;
