/**
 * A training step at true size beside its peers on this machine's GPU: vltune, transformers + PEFT + bitsandbytes, Unsloth; or
 * generation beside transformers + bitsandbytes. Whole processes take turns, on random weights of the same shape, each peer in the
 * settings that suit it; then a table.
 *
 *     npm run bench:peers:gpu -- --python PATH [--shape qwen3-vl-2b] [--batch 2] [--max-length 2048] [--accumulation 4] [--rounds 2]
 *                                [--only vltune,transformers,unsloth] [--what training|generation] [--model DIR] [--memory SIZE,…]
 *                                [--json]
 *
 * PATH is a Python with torch, transformers, PEFT, and for the respective rows bitsandbytes, TRL and Unsloth. Unsloth reads a
 * checkpoint: DIR holds one of the shape, or is where it is made.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { quantile } from '../../lib/bench/harness.js';
import { SHAPE_NAMES } from '../../lib/bench/random_model.js';
import { formatBytes, formatTable } from '../../lib/cli/output.js';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { writeRandomCheckpoint } from '../random_checkpoint.js';
import { Usage } from './usage.js';

const usage = new Usage('bench:peers:gpu');
const options = usage.parse({
  python: { type: 'string', default: 'python3' },
  shape: { type: 'string', default: 'qwen3-vl-2b' },
  batch: { type: 'string', default: '2' },
  'max-length': { type: 'string', default: '2048' },
  accumulation: { type: 'string', default: '4' },
  rounds: { type: 'string', default: '2' },
  only: { type: 'string', default: 'vltune,transformers,unsloth' },
  what: { type: 'string', default: 'training' },
  model: { type: 'string' },
  memory: { type: 'string', default: '' },
  json: { type: 'boolean', default: false },
});

if (!SHAPE_NAMES.includes(options.shape)) {
  usage.fail(`--shape: expected one of ${SHAPE_NAMES.join(', ')}, got ${options.shape}`);
}
if (!['training', 'generation'].includes(options.what)) {
  usage.fail(`--what: expected training or generation, got ${options.what}`);
}

/** Sources are not compiled: the Python files lie where they were written. */
const PEERS = join(PACKAGE_ROOT, 'bench', 'peers');
/** vltune's command line, as arguments of Node. */
const OWN = [join(PACKAGE_ROOT, 'dist', 'lib', 'cli', 'main.js')];
const only = new Set(options.only.split(','));

interface Contender {
  readonly name: string;
  readonly settings: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly speeds: number[];
  peakBytes: number;
  torchPeakBytes: number | undefined;
  error: string | undefined;
}

function contenders(model: string): Contender[] {
  return options.what === 'generation' ? generators() : trainers(model);
}

function contender(name: string, settings: string, command: string, ...args: string[]): Contender {
  return { name, settings, command, args, speeds: [], peakBytes: 0, torchPeakBytes: undefined, error: undefined };
}

function generators(): Contender[] {
  const { shape, python } = options;
  const own = [...OWN, 'bench', 'generate', '--device', 'cuda', '--json', '--shape', shape];
  const script = join(PEERS, 'gpu_generate.py');
  return [
    ...(only.has('vltune') ? [contender('vltune', 'NF4', process.execPath, ...own)] : []),
    ...(only.has('transformers')
      ? ['dynamic', 'static'].map((cache) =>
          contender('transformers + bitsandbytes', `NF4, ${cache} cache`, python, script, '--shape', shape, '--cache', cache),
        )
      : []),
  ];
}

function trainers(model: string): Contender[] {
  const { batch, 'max-length': length, accumulation, shape } = options;
  const all: Contender[] = [];
  const add = (...of: Parameters<typeof contender>): void => void all.push(contender(...of));
  const recipe = ['--batch', batch, '--length', length, '--accumulation', accumulation];
  const twice = [
    '--batch',
    String(2 * Number(batch)),
    '--length',
    length,
    '--accumulation',
    String(Math.ceil(Number(accumulation) / 2)),
  ];
  const own = [
    ...[...OWN, 'bench', 'step', '--device', 'cuda', '--json', '--shape', shape],
    ...['--per-device-train-batch-size', batch, '--max-length', length, '--gradient-accumulation-steps', accumulation],
  ];
  if (only.has('vltune')) {
    add('vltune', 'all kept that fits', process.execPath, ...own);
    for (const memory of options.memory.split(',').filter((size) => size !== ''))
      add('vltune', `--memory ${memory}`, process.execPath, ...own, '--memory', memory);
    add('vltune', 'every layer recomputed', process.execPath, ...own, '--gradient-checkpointing');
  }
  if (only.has('transformers')) {
    const script = join(PEERS, 'gpu_transformers.py');
    add('transformers + PEFT + bitsandbytes', 'all kept', options.python, script, '--shape', shape, ...recipe);
    add(
      'transformers + PEFT + bitsandbytes',
      'checkpointing',
      options.python,
      script,
      '--shape',
      shape,
      '--checkpointing',
      ...recipe,
    );
  }
  if (only.has('unsloth')) {
    const script = join(PEERS, 'gpu_unsloth.py');
    add('Unsloth', 'its checkpointing', options.python, script, model, ...recipe);
    add('Unsloth', 'its checkpointing, twice the batch', options.python, script, model, ...twice);
    add('Unsloth', 'all kept', options.python, script, model, '--checkpointing', 'false', ...recipe);
  }
  return all;
}

/** A line as the object it tells, or undefined: trainers print Python's dictionaries among others. */
function objectOf(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{"')) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

/** Runs a program and returns the last line of JSON it prints. */
async function jsonOf(command: string, args: readonly string[]): Promise<Record<string, unknown>> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
  let errors = '';
  child.stderr.on('data', (data: Buffer) => {
    errors = (errors + data.toString()).slice(-4000);
  });
  let last: Record<string, unknown> | undefined;
  for await (const line of createInterface({ input: child.stdout })) last = objectOf(line) ?? last;
  const code = await ended;
  if (code !== 0 || !last) throw new Error(`exit code ${code}: ${errors.trim().split('\n').slice(-3).join(' | ')}`);
  return last;
}

async function measure(contender: Contender): Promise<void> {
  try {
    const result = await jsonOf(contender.command, contender.args);
    contender.speeds.push(result.tokens_per_second as number);
    contender.peakBytes = Math.max(contender.peakBytes, result.peak_memory_bytes as number);
    if (result.torch_peak_bytes !== undefined) contender.torchPeakBytes = result.torch_peak_bytes as number;
    if (options.json)
      process.stdout.write(`${JSON.stringify({ name: contender.name, settings: contender.settings, ...result })}\n`);
    process.stderr.write(
      `${contender.name}, ${contender.settings}: ${Math.round(result.tokens_per_second as number)} tokens/s\n`,
    );
  } catch (error) {
    contender.error = (error as Error).message;
    process.stderr.write(`${contender.name}, ${contender.settings}: ${contender.error}\n`);
  }
}

/** A checkpoint for those who read one. */
async function checkpoint(folder: string): Promise<void> {
  if (existsSync(join(folder, 'config.json'))) return;
  process.stderr.write(`making a ${options.shape} checkpoint in ${folder}\n`);
  await writeRandomCheckpoint(folder, options.shape);
}

const scratch = mkdtempSync(join(tmpdir(), 'vltune-peers-'));
try {
  const model = options.model ?? join(scratch, 'model');
  if (options.what === 'training' && only.has('unsloth')) await checkpoint(model);
  const all = contenders(model);
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const contender of all) if (contender.error === undefined) await measure(contender);
  }
  const best = Math.max(
    0,
    ...all.filter(({ name }) => name === 'vltune').map(({ speeds }) => quantile(speeds.length > 0 ? speeds : [0], 0.5)),
  );
  const rows = all.map(({ name, settings, speeds, peakBytes, torchPeakBytes, error }) => {
    if (speeds.length === 0) return [name, settings, '', '', '', '', error ?? ''];
    const speed = quantile(speeds, 0.5);
    return [
      name,
      settings,
      Math.round(speed).toLocaleString('en-US'),
      `${Math.round(Math.min(...speeds))}–${Math.round(Math.max(...speeds))}`,
      formatBytes(peakBytes),
      torchPeakBytes === undefined ? '' : formatBytes(torchPeakBytes),
      name === 'vltune' || best === 0 ? '' : `${(best / speed).toFixed(2)}×`,
    ];
  });
  const head = ['', 'settings', 'tokens/s', 'rounds', 'peak, driver', "peak, torch's", 'vltune is'];
  process.stdout.write(`${formatTable(head, rows, [2, 3, 4, 5, 6])}\n`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
