// Makes a clone ready to run: dependencies, the native addon, the compiled TypeScript; each only if it is missing or its
// sources have changed. Node's own modules are enough to run this file.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const ADDON = join(ROOT, 'build', 'Release', 'vltune.node');

class SetupError extends Error {}

/** Runs a step and says what it was and how long it took. `work` returns false where there was nothing to do. */
function step(name, work) {
  const started = performance.now();
  const note = work();
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.error(`[setup] ${name.padEnd(12)} ${note === false ? 'up to date' : `${note} (${seconds} s)`}`);
}

/** Runs a program in the root; its output is shown only if it fails, or as it comes with `live`. Throws SetupError with `advice`. */
export function run(program, args, { live = false, advice = '', env = {} } = {}) {
  const result = spawnSync(program, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: live ? ['ignore', 2, 2] : ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    shell: process.platform === 'win32',
  });
  if (result.error || result.status !== 0) {
    if (!live) process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
    const why = result.error ? result.error.message : `exit code ${result.status ?? result.signal}`;
    throw new SetupError(`${program} ${args.join(' ')} failed (${why})${advice ? `\n${advice}` : ''}`);
  }
}

/** A program that a dependency brings, run by this very Node. */
export function runBin(packageName, bin, args, options) {
  run(process.execPath, [join(ROOT, 'node_modules', packageName, bin), ...args], options);
}

function files(path) {
  if (!existsSync(path)) return [];
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => files(join(path, entry.name)));
}

/** A hash of what the files hold and are called: a stamp that survives a fresh clone and a changed clock. */
function contentHash(paths, extra = '') {
  const hash = createHash('sha256').update(extra);
  for (const path of paths.flatMap((name) => files(join(ROOT, name)))) {
    hash.update(relative(ROOT, path)).update('\0').update(readFileSync(path)).update('\0');
  }
  return hash.digest('hex');
}

function hasStamp(stamp, hash) {
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === hash;
}

function canWrite(folder) {
  try {
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function installDependencies() {
  const lock = join(ROOT, 'package-lock.json');
  const installed = join(ROOT, 'node_modules', '.package-lock.json');
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return false;
  // A home that is missing or belongs to someone else has no room for npm's cache.
  const env = canWrite(homedir()) ? {} : { npm_config_cache: join(tmpdir(), 'vltune-npm-cache') };
  run('npm', ['ci', '--include=dev', '--ignore-scripts', '--no-audit', '--no-fund'], {
    env,
    advice: 'npm ci needs the package registry: is there a network, and is `npm config get registry` reachable?',
  });
  return 'npm ci';
}

/** Node's headers beside the running Node, where distributions and the official archives put them. */
export function headerFolder() {
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include', 'node', 'common.gypi')) ? prefix : undefined;
}

function missingTools() {
  const works = (program, ...args) => {
    const { error, status } = spawnSync(program, args, { stdio: 'ignore' });
    return !error && status === 0;
  };
  if (process.platform === 'win32') return []; // node-gyp looks for Visual Studio itself
  const missing = [];
  if (!works(process.env.CXX ?? 'c++', '--version') && !works('g++', '--version') && !works('clang++', '--version'))
    missing.push('a C++20 compiler');
  if (!works('make', '--version')) missing.push('make');
  if (!works(process.env.PYTHON ?? 'python3', '--version')) missing.push('python3 (node-gyp is written in it)');
  return missing;
}

function prebuild() {
  const folder = join(ROOT, 'prebuilds', `${process.platform}-${process.arch}`);
  return files(folder).find((path) => path.endsWith('.node'));
}

function buildAddon() {
  const hash = contentHash(['native', 'binding.gyp', 'scripts/sources.mjs'], `${process.platform} ${process.arch}`);
  const stamp = join(ROOT, 'build', '.stamp');
  if (existsSync(ADDON) && hasStamp(stamp, hash)) return false;
  const missing = missingTools();
  if (missing.length > 0) {
    if (prebuild()) return `no compiler here: using the prebuilt ${relative(ROOT, prebuild())}`;
    throw new SetupError(
      `the native addon has to be built, and ${missing.join(' and ')} ${missing.length > 1 ? 'are' : 'is'} missing.\n` +
        '  1. On Debian or Ubuntu: apt-get install g++ make python3. On macOS: xcode-select --install.\n' +
        `  2. Or put a prebuilt addon into prebuilds/${process.platform}-${process.arch}/ (npm run prebuild makes one on a machine with a compiler).`,
    );
  }
  rmSync(stamp, { force: true });
  const headers = headerFolder();
  const options = headers === undefined ? [] : [`--nodedir=${headers}`];
  // node-gyp keeps headers that it downloads in the home folder; without one it takes the system's temporary folder.
  const env = canWrite(homedir()) ? {} : { npm_config_devdir: join(tmpdir(), 'vltune-node-gyp') };
  runBin('node-gyp', 'bin/node-gyp.js', ['configure', 'build', '--jobs=max', ...options], {
    env,
    advice: 'The compiler must know C++20 (g++ 11, clang 14 or newer).',
  });
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, hash);
  return 'node-gyp build';
}

const TYPESCRIPT = ['lib', 'test', 'bench'];

function compile() {
  const sources = TYPESCRIPT.flatMap((name) => files(join(ROOT, name))).filter((path) => path.endsWith('.ts'));
  const hash = contentHash([...sources.map((path) => relative(ROOT, path)), 'tsconfig.json', 'package-lock.json']);
  const stamp = join(ROOT, 'dist', '.stamp');
  if (hasStamp(stamp, hash)) return false;
  rmSync(stamp, { force: true });
  removeOrphans(new Set(sources.map((path) => relative(ROOT, path).replace(/\.ts$/, ''))));
  runBin('typescript', 'bin/tsc', ['-p', 'tsconfig.json']);
  writeFileSync(stamp, hash);
  return 'tsc';
}

/** Removes what was compiled from files that are gone, so that no test of a removed file runs on. */
function removeOrphans(sources) {
  const dist = join(ROOT, 'dist');
  for (const path of files(dist)) {
    const match = /^(.*?)(\.d\.ts|\.js)(\.map)?$/.exec(relative(dist, path));
    if (match && !sources.has(match[1])) rmSync(path);
  }
}

/** Makes everything ready. Throws SetupError. */
export function setup() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    throw new SetupError(`Node 20.19 or newer is needed, this is ${process.version}`);
  step('dependencies', installDependencies);
  step('native addon', buildAddon);
  step('TypeScript', compile);
}

/** Runs `work`; what setup found wrong is said in words, without a stack. */
export async function main(work) {
  try {
    process.exitCode = await work();
  } catch (error) {
    console.error(error instanceof SetupError ? `[setup] ${error.message}` : error);
    process.exitCode = 1;
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main(() => setup());
