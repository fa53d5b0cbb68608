// `npm test`: makes the clone ready (that is the type check too), lints, runs every test, and where nvcc is at hand compiles the
// CUDA sources. Ends with the plain line `N passed, N failed`; any failure, and no test at all, is a non-zero exit.
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { findNvcc, main, nvccJobs, ROOT, runBin, setup } from './setup.mjs';

let passed = 0;
let failed = 0;

const seconds = (started) => `${((performance.now() - started) / 1000).toFixed(1)} s`;

/** A check that is not a test of its own: counted only if it fails. */
async function check(name, work) {
  const started = performance.now();
  try {
    await work();
    console.log(`✔ ${name} (${seconds(started)})`);
  } catch (error) {
    failed += 1;
    console.log(`✘ ${name}\n  ${error.message.replaceAll('\n', '\n  ')}`);
  }
}

/** Runs ava and counts the lines of its TAP stream, so that the count does not depend on the words of a reporter. */
async function runTests(args) {
  const child = spawn(process.execPath, [join(ROOT, 'node_modules', 'ava', 'entrypoints', 'cli.mjs'), '--tap', ...args], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.on('close', (code) => resolve(code ?? 1)));
  const before = failed;
  let inFailure = false;
  for await (const line of createInterface({ input: child.stdout })) {
    const result = /^(not )?ok \d+ - (.*?)(?: # (SKIP|TODO).*)?$/.exec(line);
    if (!result) {
      if (inFailure) console.log(line);
      continue;
    }
    const [, not, name, directive] = result;
    inFailure = Boolean(not) && directive !== 'TODO';
    if (inFailure) failed += 1;
    else if (directive === undefined) passed += 1;
    console.log(inFailure ? `✘ ${name}` : directive ? `- ${name} (${directive.toLowerCase()})` : `✔ ${name}`);
  }
  // A test process that died, or a file without tests, is a failure that no test line may tell of.
  if ((await ended) !== 0 && failed === before) failed += 1;
}

/** The oldest architecture, the first with what most kernels use, and the one with kernels of its own. */
const CUDA_ARCHITECTURES = ['75', '80', '90a'];

/** Whether every CUDA source compiles. Needs no GPU. */
async function compileCuda() {
  const nvcc = findNvcc();
  if (!nvcc) {
    console.log('- CUDA sources compile (no nvcc here)');
    return;
  }
  const folder = join(ROOT, 'native', 'cuda');
  const sources = readdirSync(folder, { recursive: true })
    .filter((name) => String(name).endsWith('.cu'))
    .map((name) => ({ path: join(folder, name), bytes: statSync(join(folder, name)).size }))
    .sort((a, b) => a.bytes - b.bytes);
  const codes = CUDA_ARCHITECTURES.flatMap((name) => ['-gencode', `arch=compute_${name},code=sm_${name}`]);
  const objects = mkdtempSync(join(tmpdir(), 'vltune-cuda-'));
  const failures = [];
  const worker = async (number) => {
    const object = join(objects, `${number}.o`);
    for (let source = sources.pop(); source; source = sources.pop()) {
      // That it compiles is asked, not how well it runs: assembled without long optimisation.
      const child = spawn(nvcc.path, ['-std=c++20', '-Xptxas=-O1', ...codes, '-c', '-o', object, source.path], { cwd: ROOT });
      let output = '';
      for (const stream of [child.stdout, child.stderr])
        stream.on('data', (data) => {
          output += data;
        });
      const code = await new Promise((resolve) => child.on('close', resolve).on('error', () => resolve(1)));
      if (code !== 0) failures.push(`${relative(ROOT, source.path)} (exit code ${code})\n${output}`);
    }
  };
  await check(`${sources.length} CUDA sources compile for ${CUDA_ARCHITECTURES.join(', ')}`, async () => {
    await Promise.all(Array.from({ length: nvccJobs() }, (_, number) => worker(number)));
    if (failures.length > 0) throw new Error(failures.join('\n'));
  });
  rmSync(objects, { recursive: true, force: true });
}

await main(async () => {
  const started = performance.now();
  let isReady = false;
  await check('setup: dependencies, native addon, type check', () => {
    setup();
    isReady = true;
  });
  if (isReady) {
    await check('lint and format', () =>
      runBin('@biomejs/biome', 'bin/biome', ['ci', '--error-on-warnings', '--colors=off', '--max-diagnostics=30', '.']),
    );
    await compileCuda();
    await runTests(process.argv.slice(2));
  }
  if (passed === 0 && failed === 0) {
    console.log('no test ran');
    failed = 1;
  }
  console.log(`\n${seconds(started)}`);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
});
