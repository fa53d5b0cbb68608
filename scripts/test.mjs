// `npm test`: makes the clone ready (that is the type check too), lints, runs every test, and where nvcc is at hand compiles the
// CUDA sources. Ends with the plain line `N passed, N failed`; any failure, and no test at all, is a non-zero exit.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { main, ROOT, run, runBin, setup } from './setup.mjs';

let passed = 0;
let failed = 0;

/** A check that is not a test of its own: counted only if it fails. */
function check(name, work) {
  const started = performance.now();
  try {
    work();
    console.log(`✔ ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
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

/** Whether every CUDA source compiles, for the newest architecture that this nvcc knows. Needs no GPU. */
function compileCuda() {
  const folder = join(ROOT, 'native', 'cuda');
  const sources = existsSync(folder)
    ? readdirSync(folder, { recursive: true }).filter((name) => String(name).endsWith('.cu'))
    : [];
  if (sources.length === 0 || spawnSync('nvcc', ['--version'], { stdio: 'ignore' }).error) return;
  check(`${sources.length} CUDA sources compile`, () => {
    for (const source of sources)
      run('nvcc', ['-std=c++20', '-arch=sm_80', '-Inative', '-cuda', '-o', '/dev/null', join('native', 'cuda', String(source))]);
  });
}

await main(async () => {
  const started = performance.now();
  let isReady = false;
  check('setup: dependencies, native addon, type check', () => {
    setup();
    isReady = true;
  });
  if (isReady) {
    check('lint and format', () =>
      runBin('@biomejs/biome', 'bin/biome', ['ci', '--error-on-warnings', '--colors=off', '--max-diagnostics=30', '.']),
    );
    compileCuda();
    await runTests(process.argv.slice(2));
  }
  if (passed === 0 && failed === 0) {
    console.log('no test ran');
    failed = 1;
  }
  console.log(`\n${((performance.now() - started) / 1000).toFixed(0)} s`);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
});
