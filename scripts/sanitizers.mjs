// `npm run test:sanitizers [-- TOOL…]`: every op case of test/cuda on this machine's GPU under compute-sanitizer's four tools, with the
// products that are chosen by default and with our own for Hopper. Needs a build with CUDA and compute-sanitizer on the PATH. The tools are
// slow on the host and light on the GPU, so the cases are dealt out to as many processes as there are cores for.
// Racecheck of CUDA 13.0 does not follow one lane that arrives at an mbarrier for its warp: it wants a build with -DVLTUNE_RACECHECK=ON.
import { spawn, spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ROOT } from './setup.mjs';

const TOOLS = ['memcheck', 'racecheck', 'initcheck', 'synccheck'];
const PRODUCTS = ['', 'sm90'];
/** Parts that the cases are dealt out in. */
const PARTS = 8;
/** Seconds that one part may take: some minutes for what takes one. */
const LIMIT = Number(process.env.VLTUNE_SANITIZER_LIMIT ?? 900);
/** Lines of a run's report that are shown where no kernel is named. */
const MOST_LINES = 60;
const program = join(ROOT, 'dist', 'test', 'cuda', 'every_case.js');

// Before 2025.4, of CUDA 13.1, initcheck does not see what cp.async.bulk writes to global memory, which is where round_dq's sums come from.
// That they are all written is what test/cuda/program.test.ts looks at, with NaN there before.
const [, year, number] =
  spawnSync('compute-sanitizer', ['--version'], { encoding: 'utf8' }).stdout?.match(/Version (\d+)\.(\d+)/) ?? [];
const sees = Number(year) > 2025 || (Number(year) === 2025 && Number(number) >= 4);
const OPTIONS = { initcheck: sees ? [] : ['--kernel-name-exclude', 'kernel_substring=round_dq'] };
const COMMON = ['--error-exitcode', '9', '--print-limit', '20000', '--show-backtrace', 'no'];

/** Runs one part; what was wrong, or undefined. */
function runPart(tool, product, part) {
  return new Promise((resolve) => {
    const child = spawn(
      'compute-sanitizer',
      ['--tool', tool, ...COMMON, ...(OPTIONS[tool] ?? []), process.execPath, program, `${part}/${PARTS}`],
      { env: { ...process.env, ...(product && { VLTUNE_GEMM: product }) }, timeout: LIMIT * 1000, killSignal: 'SIGKILL' },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
    child.on('error', (error) => resolve({ part, cases: 0, finding: error.message }));
    child.on('close', (status, signal) => {
      const cases = Number(output.match(/^(\d+) cases ran$/m)?.[1] ?? 0);
      if (status === 0 && cases > 0) resolve({ part, cases });
      else if (signal) resolve({ part, cases, finding: `stopped after ${LIMIT} s at: ${output.trim().split('\n').at(-1)}` });
      else resolve({ part, cases, finding: output });
    });
  });
}

const asked = process.argv.length > 2 ? process.argv.slice(2) : TOOLS;
const left = asked.flatMap((tool) =>
  PRODUCTS.flatMap((product) => Array.from({ length: PARTS }, (_, part) => ({ tool, product, part }))),
);
const parts = new Map();
let failed = 0;

/** `void a::<unnamed>::kernel<(int)64>(Args)+0x10` as the kernel's name, template arguments and place in its code. */
function placeOf(text) {
  const [, name, at] = text.match(/^(.+)\+0x([0-9a-f]+)/) ?? [null, text, ''];
  const short = name
    .replace(/^void /, '')
    .replace(/\((?:int|bool)\)/g, '')
    .replace(/\([^()]*\)$/, '')
    .replace(/vltune::cuda::|<unnamed>::/g, '');
  return { kernel: short, at: at && `+0x${at}` };
}

/** A report's findings: how often each kernel has each, where in its code, and the first case. */
function byKernel(report, found) {
  let name = '';
  let what = '';
  let first;
  for (const line of report.split('\n')) {
    if (!line.startsWith('=')) name = line || name;
    const heading = line.match(/^=+ (\S.*)/)?.[1];
    if (heading) what = heading;
    const race = heading?.match(/^(\w+): Race reported between (\w+) access at (.+)/);
    if (race) first = { kind: race[2], ...placeOf(race[3]) };
    const [, second, text] = line.match(/^=+ {2,}(?:and (\w+) access )?at (.+)/) ?? [];
    if (!text) continue;
    const { kernel, at } = placeOf(text);
    const key = `${kernel}: ${second ? `${first.kind} and ${second}, a race` : what}`;
    const entry = found.get(key) ?? { count: 0, places: new Set(), name };
    entry.count += 1;
    entry.places.add(second ? `${first.at} and ${at}` : at);
    found.set(key, entry);
  }
}

function report(tool, product, results) {
  const findings = results.filter(({ finding }) => finding !== undefined);
  if (findings.length > 0) failed += 1;
  const cases = results.reduce((sum, result) => sum + result.cases, 0);
  console.log(`${findings.length === 0 ? '✔' : '✘'} ${tool}${product && `, VLTUNE_GEMM=${product}`}: ${cases} cases`);
  const found = new Map();
  for (const { part, finding } of findings) {
    const before = [...found.values()].reduce((sum, { count }) => sum + count, 0);
    byKernel(finding, found);
    const named = [...found.values()].reduce((sum, { count }) => sum + count, 0) > before;
    if (!named) console.log(`part ${part}: ${finding.split('\n').slice(-MOST_LINES).join('\n')}`);
  }
  for (const [key, { count, places, name }] of found)
    console.log(
      `  ${count} × ${key}\n    at ${[...places].slice(0, 8).join(', ')}${places.size > 8 ? ', …' : ''}; first in: ${name}`,
    );
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
