/** The instruction set is chosen once a process, so the op tests run again in processes of their own, held to the lesser ones. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { addon, PACKAGE_ROOT } from '../../lib/native.js';

const OPS = [
  'adamw',
  'elementwise',
  'embedding',
  'embedding_bag',
  'gelu',
  'layer_norm',
  'nf4',
  'qk_norm_rope',
  'qkv_rope',
  'rms_norm',
  'scatter_rows',
  'swiglu',
];
const FILES = [
  ...OPS.map((op) => `dist/test/ops/${op}.test.js`),
  'dist/test/native/image_patches.test.js',
  'dist/test/data/media/image_processor.test.js',
];
const best = addon().cpuInfo().isa;

for (const isa of ['portable', 'avx2'] as const) {
  const lesser = isa === 'portable' ? best !== 'portable' : best === 'avx512';
  (lesser ? test.serial : test.skip)(`the op tests hold with VLTUNE_ISA=${isa}`, async (t) => {
    t.timeout(240_000);
    const script = `import('${new URL('../../lib/native.js', import.meta.url)}').then(({ addon }) => console.log(addon().cpuInfo().isa))`;
    const environment = { ...process.env, VLTUNE_ISA: isa, FORCE_COLOR: '0' };
    const run = promisify(execFile);
    const chosen = await run(process.execPath, ['--input-type=module', '-e', script], { env: environment });
    t.is(chosen.stdout.trim(), isa, 'the instruction set that the child takes');
    const ava = join(PACKAGE_ROOT, 'node_modules', 'ava', 'entrypoints', 'cli.mjs');
    const result = await run(process.execPath, [ava, '--concurrency=1', ...FILES], { cwd: PACKAGE_ROOT, env: environment }).catch(
      (error: Error & { stdout: string; stderr: string }) =>
        t.fail(
          `${error.stdout}${error.stderr}`
            .split('\n')
            .filter((line) => !line.includes('✔'))
            .join('\n'),
        ),
    );
    if (typeof result === 'object') t.regex(result.stdout, /\d+ tests passed/);
  });
}
