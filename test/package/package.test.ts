/** What ships: the list of files, the package's own claims about itself, and a project that installs it. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';

interface Context {
  /** Holds the tarball. */
  folder: string;
  tarball: string;
  files: string[];
}
const test = anyTest as TestFn<Context>;

const ROOT = resolve('.');

function run(
  program: string,
  args: readonly string[],
  cwd: string,
  env: NodeJS.ProcessEnv = {},
): { status: number | null; stdout: string; output: string } {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 26,
  });
  return { status, stdout, output: `${stdout}${stderr}${error?.message ?? ''}` };
}

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'vltune-package-'));
  const packed = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], ROOT, {
    npm_config_cache: join(folder, 'cache'),
  });
  if (packed.status !== 0) throw new Error(packed.output);
  const [report] = JSON.parse(packed.stdout) as { filename: string; files: { path: string }[] }[];
  t.context = { folder, tarball: join(folder, basename(report!.filename)), files: report!.files.map(({ path }) => path).sort() };
});
test.after.always(async (t) => {
  if (t.context.folder) await rm(t.context.folder, { recursive: true, force: true });
});

test('the tarball holds what runs and what builds, and nothing else', (t) => {
  const { files } = t.context;
  for (const needed of [
    'package.json',
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
    'binding.gyp',
    'CMakeLists.txt',
    'scripts/sources.mjs',
    'native/addon.cc',
    'native/ops/table.h',
    'native/cuda/runtime.cu',
    'native/cuda/gemm/gemm_sm90.cu',
    'native/cuda/vector.cuh',
    'dist/lib/index.js',
    'dist/lib/index.d.ts',
    'dist/lib/ops/index.js',
    'dist/lib/ops/index.d.ts',
    'dist/lib/cli/main.js',
    'examples/data/identity.json',
    'examples/data/pictures.jsonl',
    'models/vltune-tiny/config.json',
    'models/vltune-tiny/model.safetensors',
    'models/vltune-tiny/tokenizer.json',
  ]) {
    t.true(files.includes(needed), `${needed} is missing`);
  }
  const allowed =
    /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|binding\.gyp|CMakeLists\.txt|scripts\/sources\.mjs|(native|models|examples)\/.+|dist\/lib\/.+\.(js|d\.ts)|prebuilds\/[^/]+\/[^/]+\.node)$/;
  t.deepEqual(
    files.filter((file) => !allowed.test(file)),
    [],
  );
});

test('the tarball is below 60 MB', async (t) => {
  const { size } = await import('node:fs/promises').then(({ stat }) => stat(t.context.tarball));
  t.true(size < 60e6, `${size} bytes`);
});

test('every compiled file that ships has a source: nothing stale is packed', (t) => {
  const stale = t.context.files
    .filter((file) => file.startsWith('dist/lib/'))
    .filter((file) => !existsSync(file.replace(/^dist\//, '').replace(/(\.d\.ts|\.js)$/, '.ts')));
  t.deepEqual(stale, []);
});

test('publint --strict finds nothing', (t) => {
  const { status, output } = run(
    process.execPath,
    [join(ROOT, 'node_modules/publint/src/cli.js'), '--strict', '--pack=false', '.'],
    ROOT,
  );
  t.is(status, 0, output);
});

/** A project with the tarball installed as npm lays it out, its dependencies borrowed from ours: no network is needed. */
async function install(t: ExecutionContext<Context>): Promise<{ project: string; installed: string }> {
  const project = await mkdtemp(join(t.context.folder, 'project-'));
  const modules = join(project, 'node_modules');
  const installed = join(modules, 'vltune');
  await mkdir(installed, { recursive: true });
  const unpacked = run('tar', ['-xzf', t.context.tarball, '--strip-components=1', '-C', installed], project);
  if (unpacked.status !== 0) throw new Error(unpacked.output);
  const { dependencies } = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  for (const name of [...Object.keys(dependencies), '@types/node', 'undici-types']) {
    const from = join(ROOT, 'node_modules', name);
    if (!existsSync(from)) continue;
    await mkdir(dirname(join(modules, name)), { recursive: true });
    await symlink(from, join(modules, name));
  }
  // The addon as prebuildify would have named it; there is no build folder and no compiler in this place.
  const prebuilds = join(installed, 'prebuilds', `${process.platform}-${process.arch}`);
  await rm(join(installed, 'prebuilds'), { recursive: true, force: true });
  await mkdir(prebuilds, { recursive: true });
  await cp(join(ROOT, 'build/Release/vltune.node'), join(prebuilds, 'vltune.glibc.node'));
  return { project, installed };
}

test('a strict TypeScript project installs the tarball, type-checks, and trains and generates from the prebuilt addon', async (t) => {
  const { project, installed } = await install(t);
  t.false(existsSync(join(installed, 'build')));
  for (const file of await readdir('test/consumer')) await cp(join('test/consumer', file), join(project, file));
  const compiled = run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', '.'], project);
  t.is(compiled.status, 0, compiled.output);

  const args = [
    join(ROOT, 'test/fixtures/qwen3vl-tiny'),
    join(ROOT, 'test/fixtures/parity/alpaca.jsonl'),
    join(project, 'adapter'),
  ];
  const ran = run(process.execPath, ['out/main.js', ...args], project, { PATH: '/nonexistent' });
  t.is(ran.status, 0, ran.output);
  const report = JSON.parse(ran.stdout) as {
    refusal: string;
    norm: number[];
    error: number;
    losses: number[];
    steps: number;
    tokens: number;
    scheduler: string;
  };
  t.is(report.scheduler, 'linear');
  t.regex(report.refusal, /^ERR_USAGE loraR: expected an integer from 1 to 65536, got 0$/);
  t.deepEqual(
    report.norm.map((value) => Number(value.toFixed(4))),
    [1.2, 1.6, 0, 0],
  );
  t.true(report.error > 0 && report.error < 0.2, 'four bits are near, and not exact');
  t.is(report.losses.length, 2);
  t.is(report.steps, 2);
  t.true(report.tokens >= 0 && report.tokens <= 4);
});

test('the installed command runs from its place: help, doctor, and the package as its own folder', async (t) => {
  const { project, installed } = await install(t);
  const main = join(installed, 'dist/lib/cli/main.js');
  const { version } = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8')) as { version: string };
  t.is(run(process.execPath, [main, '--version'], project).stdout.trim(), version);
  const doctor = run(process.execPath, [main, 'doctor', '--json'], project);
  t.is(doctor.status, 0, doctor.output);
  t.regex((JSON.parse(doctor.stdout) as { package_folder: string }).package_folder, /node_modules\/vltune$/);
  t.is((await readFile(main, 'utf8')).split('\n')[0], '#!/usr/bin/env node');
});

test('without any addon the command says in words what to do', async (t) => {
  const { project, installed } = await install(t);
  await rm(join(installed, 'prebuilds'), { recursive: true });
  const { status, output } = run(process.execPath, [join(installed, 'dist/lib/cli/main.js'), 'doctor'], project);
  t.is(status, 1);
  t.regex(output, /^vltune: no native addon for .*\n {2}1\. .*\n {2}2\. /);
  t.notRegex(output, /\n\s+at /);
});
