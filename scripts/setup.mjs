// Makes a clone ready to run: dependencies, the native addon, the compiled TypeScript; each only if it is missing or its
// sources have changed. Node's own modules are enough to run this file.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, homedir, tmpdir, totalmem } from 'node:os';
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
  // npm ci would empty the folder that a link names, and that is someone else's.
  if (lstatSync(join(ROOT, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink())
    return 'node_modules is a link: left as it is';
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

/** What a program prints, or undefined if it is not there or fails. */
function answer(program, ...args) {
  const { error, status, stdout } = spawnSync(program, args, { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' });
  return error || status !== 0 ? undefined : stdout;
}

function missingTools() {
  const works = (program, ...args) => answer(program, ...args) !== undefined;
  if (process.platform === 'win32') return []; // node-gyp looks for Visual Studio itself
  const missing = [];
  if (!works(process.env.CXX ?? 'c++', '--version') && !works('g++', '--version') && !works('clang++', '--version'))
    missing.push('a C++20 compiler');
  if (!works('make', '--version')) missing.push('make');
  if (!works(process.env.PYTHON ?? 'python3', '--version')) missing.push('python3 (node-gyp is written in it)');
  return missing;
}

/** nvcc where CUDACXX or CUDA_HOME, the PATH or the toolkit's usual place has it: `{ path, version }`, or undefined. */
export function findNvcc() {
  const { CUDACXX, CUDA_HOME, CUDA_PATH } = process.env;
  const folders = [CUDA_HOME, CUDA_PATH].filter(Boolean).map((folder) => join(folder, 'bin', 'nvcc'));
  for (const path of [CUDACXX, ...folders, 'nvcc', '/usr/local/cuda/bin/nvcc'].filter(Boolean)) {
    const version = /release ([\d.]+)/.exec(answer(path, '--version') ?? '')?.[1];
    if (version) return { path, version };
  }
  return undefined;
}

/** The compute capabilities of the GPUs here, as '9.0'; [] if there is a GPU that does not tell, undefined if there is none. */
function gpus() {
  if (process.platform !== 'linux' || !['/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path))) return undefined;
  const told = answer('nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader') ?? '';
  return [...new Set(told.split('\n').map((line) => line.trim()))].filter((line) => /^\d+\.\d$/.test(line)).sort();
}

/** What to compile for these GPUs, as CMake names it: their own machine code where this nvcc knows it, else PTX for the driver. */
function architecturesFor(capabilities, nvcc) {
  const known = (answer(nvcc.path, '--list-gpu-arch') ?? '').match(/\d+/g)?.map(Number) ?? [];
  const names = capabilities.map((capability) => {
    const number = Number(capability.replace('.', ''));
    if (number === 90) return '90a-real';
    if (known.length === 0 || known.includes(number)) return `${number}-real`;
    return `${Math.max(...known.filter((name) => name < number))}-virtual`;
  });
  return [...new Set(names)].join(';');
}

/**
 * Whether to build for CUDA: `{ nvcc, architectures }` (none: those of a release) or, for the CPU alone, `{ note }`. VLTUNE_CUDA=1 or =0
 * decides, else whether there is a GPU and what it takes; VLTUNE_CUDA_ARCHITECTURES names others than those of the GPUs here.
 */
function cudaChoice() {
  const asked = process.env.VLTUNE_CUDA ?? '';
  if (!['', '0', '1'].includes(asked)) throw new SetupError(`VLTUNE_CUDA: expected 0 or 1, got ${asked}`);
  const capabilities = asked === '0' ? undefined : gpus();
  if (asked === '0' || (asked === '' && !capabilities)) return {};
  const nvcc = findNvcc();
  const missing = [
    (!nvcc || Number.parseInt(nvcc.version, 10) < 12) &&
      "CUDA's compiler (nvcc 12 or newer; CUDACXX or CUDA_HOME names its place)",
    answer('cmake', '--version') === undefined && 'cmake (3.20 or newer)',
  ].filter(Boolean);
  if (missing.length > 0) {
    const lacking = `${missing.join(' and ')} ${missing.length > 1 ? 'are' : 'is'} missing`;
    if (asked === '1') throw new SetupError(`VLTUNE_CUDA=1, and ${lacking}`);
    return { note: `without CUDA: there is a GPU, but ${lacking}` };
  }
  const architectures = process.env.VLTUNE_CUDA_ARCHITECTURES || architecturesFor(capabilities ?? [], nvcc);
  return { nvcc, architectures };
}

function prebuild() {
  const folder = join(ROOT, 'prebuilds', `${process.platform}-${process.arch}`);
  return files(folder).find((path) => path.endsWith('.node'));
}

const NVCC_BYTES = 3e9; // what one takes of memory at most

/** How many nvcc run side by side. */
export function nvccJobs() {
  return Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / NVCC_BYTES)));
}

/** Builds the addon with CUDA through cmake-js, in a folder of its own beside node-gyp's, and puts it where node-gyp would. */
export function buildCuda({ nvcc, architectures, clean = false, live = false }) {
  const folder = join(ROOT, 'build', `cuda-${nvcc.version}-${architectures ? architectures.replaceAll(';', '_') : 'release'}`);
  if (clean) rmSync(folder, { recursive: true, force: true });
  const definitions = ['--CDVLTUNE_CUDA=ON', ...(architectures ? [`--CDVLTUNE_CUDA_ARCHITECTURES=${architectures}`] : [])];
  for (const command of [
    ['configure', ...definitions],
    ['build', `--parallel=${nvccJobs()}`],
  ])
    runBin('cmake-js', 'bin/cmake-js', [...command, `--out=${folder}`, '--log-level=warn'], {
      live,
      env: { CUDACXX: nvcc.path },
      advice:
        'CUDA needs nvcc 12 or newer, cmake 3.20 or newer, and a C++ compiler that both know. VLTUNE_CUDA=0 builds without CUDA.',
    });
  mkdirSync(dirname(ADDON), { recursive: true });
  // Renamed into place: a process that has the former one loaded keeps it.
  copyFileSync(join(folder, 'Release', 'vltune.node'), `${ADDON}.new`);
  renameSync(`${ADDON}.new`, ADDON);
}

function buildCpu() {
  const headers = headerFolder();
  const options = headers === undefined ? [] : [`--nodedir=${headers}`];
  // node-gyp keeps headers that it downloads in the home folder; without one it takes the system's temporary folder.
  const env = canWrite(homedir()) ? {} : { npm_config_devdir: join(tmpdir(), 'vltune-node-gyp') };
  // An addon with CUDA in this place would be newer than all that this one is made of, and stay.
  rmSync(ADDON, { force: true });
  runBin('node-gyp', 'bin/node-gyp.js', ['configure', 'build', '--jobs=max', ...options], {
    env,
    advice: 'The compiler must know C++20 (g++ 11, clang 14 or newer).',
  });
}

function buildAddon() {
  const cuda = cudaChoice();
  const builder = cuda.nvcc ? `cuda ${cuda.nvcc.version} ${cuda.architectures}` : 'cpu';
  const hash = contentHash(
    ['native', 'scripts/sources.mjs', cuda.nvcc ? 'CMakeLists.txt' : 'binding.gyp'],
    `${process.platform} ${process.arch} ${builder}`,
  );
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
  if (cuda.nvcc) buildCuda(cuda);
  else buildCpu();
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, hash);
  if (cuda.nvcc) return `cmake build with CUDA for ${cuda.architectures || 'all GPUs of a release'}`;
  return cuda.note ? `node-gyp build ${cuda.note}` : 'node-gyp build';
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
