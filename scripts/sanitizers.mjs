// `npm run test:sanitizers [-- TOOL…]`: every op case of test/cuda on this machine's GPU under compute-sanitizer's four tools, with the
// products that are chosen by default and with our own for Hopper. Needs a build with CUDA and compute-sanitizer on the PATH. The tools are
// slow on the host and light on the GPU, so the cases are dealt out to as many processes as there are cores for.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ROOT } from './setup.mjs';

const TOOLS = ['memcheck', 'racecheck', 'initcheck', 'synccheck'];
const PRODUCTS = ['', 'sm90'];
/** Parts that the cases are dealt out in. */
const PARTS = 8;
/** Seconds that one part may take: some minutes for what takes one. */
const LIMIT = Number(process.env.VLTUNE_SANITIZER_LIMIT ?? 900);
const program = join(ROOT, 'dist', 'test', 'cuda', 'every_case.js');

/** Runs one part; what was wrong, or undefined. */
function runPart(tool, product, part) {
  return new Promise((resolve) => {
    const child = spawn(
      'compute-sanitizer',
      ['--tool', tool, '--error-exitcode', '9', process.execPath, program, `${part}/${PARTS}`],
      { env: { ...process.env, ...(product && { VLTUNE_GEMM: product }) }, timeout: LIMIT * 1000, killSignal: 'SIGKILL' },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
    child.on('error', (error) => resolve({ part, cases: 0, finding: error.message }));
    child.on('close', (status, signal) => {
      const cases = Number(output.match(/^(\d+) cases ran$/m)?.[1] ?? 0);
      if (status === 0 && cases > 0) resolve({ part, cases });
      else if (signal) resolve({ part, cases, finding: `stopped after ${LIMIT} s at: ${output.trim().split('\n').at(-1)}` });
      else resolve({ part, cases, finding: output.split('\n').slice(0, 400).join('\n') });
    });
  });
}

const asked = process.argv.length > 2 ? process.argv.slice(2) : TOOLS;
const left = asked.flatMap((tool) =>
  PRODUCTS.flatMap((product) => Array.from({ length: PARTS }, (_, part) => ({ tool, product, part }))),
);
const parts = new Map();
let failed = 0;

function report(tool, product, results) {
  const findings = results.filter(({ finding }) => finding !== undefined);
  if (findings.length > 0) failed += 1;
  const cases = results.reduce((sum, result) => sum + result.cases, 0);
  console.log(`${findings.length === 0 ? '✔' : '✘'} ${tool}${product && `, VLTUNE_GEMM=${product}`}: ${cases} cases`);
  for (const { part, finding } of findings) console.log(`part ${part}: ${finding}`);
}

async function work() {
  for (let next = left.shift(); next !== undefined; next = left.shift()) {
    const { tool, product, part } = next;
    const result = await runPart(tool, product, part);
    const key = `${tool} ${product}`;
    const results = [...(parts.get(key) ?? []), result];
    parts.set(key, results);
    if (results.length === PARTS) report(tool, product, results);
  }
}

await Promise.all(Array.from({ length: Math.max(1, availableParallelism() - 1) }, work));
console.log(failed === 0 ? 'no finding' : `${failed} with findings`);
process.exitCode = failed === 0 ? 0 : 1;
