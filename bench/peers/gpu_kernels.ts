/**
 * vltune's kernels beside their peers' on this machine's GPU: torch's products, attention, norm, SwiGLU and AdamW, bitsandbytes' NF4
 * and 8-bit AdamW, and the losses of torch, Liger Kernel and Cut Cross-Entropy. Samples alternate with those of a Python process that
 * waits in between; both count what the GPU spends on a call, with a cold cache.
 *
 *     npm run bench:peers:gpu:kernels -- --python PATH [--time S] [--filter TEXT] [--json]
 *
 * PATH is a Python with torch, and for the respective rows bitsandbytes, liger_kernel and cut_cross_entropy.
 */
import type { Timing } from '../../lib/bench/harness.js';
import { SCOPES } from '../../lib/bench/shapes.js';
import { formatTable } from '../../lib/cli/output.js';
import { openDevice } from '../../lib/device.js';
import { addon } from '../../lib/native.js';
import {
  benchNamed,
  type ComparedPair,
  commonPairs,
  comparePairs,
  filtered,
  type KernelPair,
  type PeerCase,
} from './kernel_pairs.js';
import { PeerProcess } from './peer_process.js';
import { Usage } from './usage.js';

const usage = new Usage('bench:peers:gpu:kernels');
const options = usage.parse({
  python: { type: 'string' },
  time: { type: 'string', default: '0.2' },
  filter: { type: 'string', default: '' },
  json: { type: 'boolean', default: false },
});
const python = usage.python(options.python);
const seconds = usage.number('time', options.time);

const SCOPE = SCOPES.cuda;

/** The loss comes last: its peers compile kernels of their own, whose faults would be those of all that comes after. */
function pairs(): KernelPair[] {
  const { models, tokens, parameters } = SCOPE;
  const all = commonPairs(SCOPE, 'bf16');
  const add = (kernel: string, shape: string, peers: Readonly<Record<string, PeerCase>>, dtype: 'f32' | 'bf16' = 'bf16') => {
    const bench = benchNamed(SCOPE, kernel, shape, dtype);
    for (const [peerName, peer] of Object.entries(peers)) all.push({ bench, peer, peerName });
  };
  const movers = (op: string, columns: number) => {
    const of = (compiled: boolean): PeerCase => ({ op, rows: tokens, columns, compiled });
    return { 'torch, eager': of(false), 'torch.compile': of(true) };
  };
  const millions = `${parameters / 2 ** 20}Mi`;
  add('adamw 8-bit', millions, { bitsandbytes: { op: 'adamw_8bit', parameters } }, 'f32');
  add('adamw 32-bit', millions, { 'torch, fused': { op: 'adamw_32bit', parameters } }, 'f32');
  for (const { hidden } of models) add('rms_norm +residual', `${tokens}x${hidden}`, movers('rms_norm', hidden));
  for (const { intermediate } of models) add('swiglu', `${tokens}x${intermediate}`, movers('swiglu', intermediate));
  const learnt = tokens / 4;
  for (const { hidden, vocab } of models) {
    // A peer is given the rows that have a target, and no others.
    const by = (name: string): PeerCase => ({ op: 'linear_cross_entropy', by: name, rows: learnt, hidden, vocab });
    add('linear_cross_entropy', `${learnt}of${tokens}x${hidden}x${vocab}`, {
      torch: by('torch'),
      liger_kernel: by('liger_kernel'),
      cut_cross_entropy: by('cut_cross_entropy'),
    });
  }
  return all;
}

const HEAD = ['kernel', 'shape', 'vltune µs', '±', 'peer µs', '±', 'times', '±', 'peer is'];
const RIGHT = [2, 3, 4, 5, 6, 7];

function micro(time: number): string {
  return time < 1e-3 ? (time * 1e6).toFixed(1) : (time * 1e6).toFixed(0);
}

/** Half the distance of the quartiles, as a share of the median. */
function spread({ low, high, seconds: median }: Timing): number {
  return (high - low) / 2 / median;
}

function percent(share: number): string {
  return `${Math.round(100 * share)}%`;
}

function eventOf({ bench, peerName, comparison, missing, variant, variants }: ComparedPair, gpu: string): object {
  const { kernel, shape, dtype } = bench;
  return {
    event: 'kernel',
    gpu,
    kernel,
    shape,
    dtype,
    peer: peerName,
    ...(comparison && {
      vltune_us: comparison.kernel.seconds * 1e6,
      vltune_spread: spread(comparison.kernel),
      peer_us: comparison.baseline.seconds * 1e6,
      peer_spread: spread(comparison.baseline),
      ratio: comparison.timeRatio,
      ratio_spread: comparison.timeRatioSpread,
    }),
    missing,
    variant,
    variants,
  };
}

function row({ bench, peerName, comparison, missing, variant }: ComparedPair): string[] {
  const peer = variant ? `${peerName}, ${variant}` : peerName;
  if (!comparison) return [bench.kernel, bench.shape, '', '', '', '', '', '', `${peer}: missing, ${missing}`];
  const { kernel, baseline, timeRatio, timeRatioSpread } = comparison;
  return [
    bench.kernel,
    bench.shape,
    micro(kernel.seconds),
    percent(spread(kernel)),
    micro(baseline.seconds),
    percent(spread(baseline)),
    timeRatio.toFixed(2),
    percent(timeRatioSpread),
    peer,
  ];
}

async function run(): Promise<void> {
  const chosen = filtered(pairs(), options.filter);
  if (chosen.length === 0) {
    usage.fail(`--filter: expected words of a kernel's name, got ${JSON.stringify(options.filter)}, which none has`);
  }
  openDevice('cuda');
  const gpu = addon().cudaInfo().devices[0]?.name ?? 'a GPU';
  process.stderr.write(`${gpu}; medians of alternating samples\n`);
  const peer = new PeerProcess(python, 'peer_kernels.py', addon().cpuInfo().threads, 'cuda');
  const rows: string[][] = [];
  try {
    for await (const compared of comparePairs(chosen, peer, 'cuda', { seconds })) {
      if (options.json) process.stdout.write(`${JSON.stringify(eventOf(compared, gpu))}\n`);
      rows.push(row(compared));
      process.stderr.write(
        `${rows
          .at(-1)!
          .filter((cell) => cell !== '')
          .join('  ')}\n`,
      );
    }
  } finally {
    await peer.end();
  }
  if (options.json) return;
  process.stdout.write(`\n${formatTable(HEAD, rows, RIGHT)}\n`);
  process.stdout.write("\ntimes: the peer's time over vltune's; ±: half the distance of the quartiles\n");
}

try {
  await run();
} catch (error) {
  process.stderr.write(`bench:peers:gpu:kernels: ${(error as Error).message}\n`);
  process.exitCode = 1;
}
