/** Kernels of vltune beside kernels of other libraries: what is compared with what, and how the two are timed in turn. */
import { type Bench, benchName, type Float } from '../../lib/bench/bench.js';
import { type CompareOptions, type Comparison, compare } from '../../lib/bench/harness.js';
import { attentionPacks } from '../../lib/bench/ops/attention.js';
import { allBenches } from '../../lib/bench/ops/index.js';
import { Recorder } from '../../lib/bench/recorder.js';
import type { Scope } from '../../lib/bench/shapes.js';
import type { Device } from '../../lib/native.js';
import { PeerFailure, type PeerProcess } from './peer_process.js';

/** A case of bench/peers/peer_kernels.py, but for its dtype, which is the bench's. */
export type PeerCase = Readonly<Record<string, unknown>> & { readonly op: string };

export interface KernelPair {
  readonly bench: Bench;
  readonly peer: PeerCase;
  readonly peerName: string;
}

export function benchNamed(scope: Scope, kernel: string, shape: string, dtype: Float): Bench {
  const bench = allBenches(scope).find((b) => b.kernel === kernel && b.shape === shape && b.dtype === dtype);
  if (!bench) throw new Error(`no benchmark named ${benchName({ kernel, shape, dtype })}`);
  return bench;
}

/** What torch and bitsandbytes have kernels for on either device: products, attention, NF4. */
export function commonPairs(scope: Scope, dtype: Float): KernelPair[] {
  const { device, models, tokens } = scope;
  const all: KernelPair[] = [];
  const add = (kernel: string, shape: string, peer: PeerCase, peerName: string) =>
    all.push({ bench: benchNamed(scope, kernel, shape, dtype), peer, peerName });
  for (const { hidden, intermediate } of models) {
    for (const op of ['linear', 'linear_backward']) {
      add(op, `${tokens}x${hidden}x${intermediate}`, { op, rows: tokens, in: hidden, out: intermediate }, 'torch');
    }
  }
  for (const { heads, kvHeads, headDim } of models) {
    for (const { name, lengths } of attentionPacks(scope)) {
      // torch's own attention knows no packs: on a GPU a call for each short sequence would measure launches.
      if (device === 'cuda' && lengths.some((length) => length !== lengths[0])) continue;
      for (const op of ['attention', 'attention_backward']) {
        const peer = { op, lengths, heads, kv_heads: kvHeads, dim: headDim };
        add(op, `${name}x${heads}/${kvHeads}x${headDim}`, peer, 'torch SDPA');
      }
    }
  }
  for (const { hidden: columns, intermediate: rows } of models) {
    const shape = `${rows}x${columns}`;
    add('nf4_quantize', shape, { op: 'nf4_quantize', rows, columns }, 'bitsandbytes');
    add('nf4_dequantize', shape, { op: 'nf4_dequantize', rows, columns, nested: false }, 'bitsandbytes');
    add('nf4_dequantize nested', shape, { op: 'nf4_dequantize', rows, columns, nested: true }, 'bitsandbytes');
  }
  return all;
}

/** The pairs whose kernel's name holds all words of a text. */
export function filtered(pairs: readonly KernelPair[], filter: string): KernelPair[] {
  const words = filter.split(/\s+/).filter((word) => word !== '');
  return pairs.filter(({ bench }) => words.every((word) => benchName(bench).includes(word)));
}

export interface ComparedPair extends KernelPair {
  /** vltune's kernel against the peer's; absent where the peer's cannot be run. */
  readonly comparison?: Comparison;
  /** Why there is no comparison. */
  readonly missing?: string;
  /** Of a case that the peer can run in several ways: the fastest's name, and the seconds of each, or why it cannot be run. */
  readonly variant?: string;
  readonly variants?: Readonly<Record<string, number | string>>;
}

/** Times pair after pair. The operands of a bench that several peers in a row are measured beside are made once. */
export async function* comparePairs(
  pairs: readonly KernelPair[],
  peer: PeerProcess,
  device: Device,
  options: CompareOptions,
): AsyncGenerator<ComparedPair> {
  let built: { readonly bench: Bench; readonly recorder: Recorder } | undefined;
  try {
    for (const pair of pairs) {
      const { bench } = pair;
      const { missing, variant, variants } = await peer.ask({ case: { ...pair.peer, dtype: bench.dtype } });
      if (missing !== undefined) {
        yield { ...pair, missing: String(missing) };
        continue;
      }
      if (built?.bench !== bench) {
        built?.recorder.release();
        built = { bench, recorder: new Recorder(device) };
        bench.build(built.recorder);
      }
      let outcome: Pick<ComparedPair, 'comparison' | 'missing'>;
      try {
        outcome = { comparison: await compare(built.recorder, peer.timed, options) };
      } catch (error) {
        if (!(error instanceof PeerFailure)) throw error;
        outcome = { missing: error.message };
      }
      yield { ...pair, ...outcome, ...(variants ? ({ variant, variants } as Pick<ComparedPair, 'variant' | 'variants'>) : {}) };
    }
  } finally {
    built?.recorder.release();
  }
}
