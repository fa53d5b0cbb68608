/**
 * The memory plan: how long each value of the arena lives, and where it lies. Known before anything is allocated.
 */
import { addon, type Device } from '../native.js';
import { type Graph, type Op, type Value, valueBytes } from './graph.js';

/** Alignment of every value: a cache line, and what vector loads like. */
const ALIGNMENT = 64;
/** What an allocation of its own starts at on a GPU: so does the scratch region, and each weight. */
export const CUDA_ALIGNMENT: number = 256;

export interface Plan {
  /** Byte offset of each value of the arena. */
  readonly offsets: ReadonlyMap<Value, number>;
  readonly workspaceOffset: number;
  readonly workspaceBytes: number;
  /** Values and scratch memory together. */
  readonly arenaBytes: number;
}

interface Interval {
  readonly value: Value;
  readonly bytes: number;
  first: number;
  last: number;
  offset: number;
}

export function align(bytes: number, alignment: number = ALIGNMENT): number {
  return Math.ceil(bytes / alignment) * alignment;
}

/** Plans a graph at its largest lengths. The device need not be there. */
export function planMemory(graph: Graph, device: Device = 'cpu'): Plan {
  const intervals = place(liveIntervals(graph));
  const offsets = new Map(intervals.map((interval) => [interval.value, interval.offset]));
  const end = intervals.reduce((most, interval) => Math.max(most, interval.offset + align(interval.bytes)), 0);
  const workspaceOffset = align(end, device === 'cuda' ? CUDA_ALIGNMENT : ALIGNMENT);
  const workspaceBytes = graph.ops.reduce((most, op) => Math.max(most, workspaceOf(graph, op, device)), 0);
  return { offsets, workspaceOffset, workspaceBytes, arenaBytes: workspaceOffset + workspaceBytes };
}

function liveIntervals(graph: Graph): Interval[] {
  const intervals = new Map<Value, Interval>();
  graph.ops.forEach((op, index) => {
    for (const value of [...op.in, ...op.out]) {
      if (value?.kind !== 'arena') continue;
      const interval = intervals.get(value);
      if (interval) interval.last = index;
      else intervals.set(value, { value, bytes: valueBytes(value, graph.dims), first: index, last: index, offset: 0 });
    }
  });
  return [...intervals.values()];
}

/** Greedy by size: each value goes to the lowest gap that no value alive at the same time touches (Pisarchyk & Lee 2020). */
function place(intervals: Interval[]): Interval[] {
  const bySize = intervals.toSorted((a, b) => b.bytes - a.bytes || a.first - b.first);
  const placed: Interval[] = []; // in the order of their offsets
  for (const interval of bySize) {
    let offset = 0;
    for (const other of placed) {
      if (other.last < interval.first || other.first > interval.last) continue;
      if (offset + align(interval.bytes) <= other.offset) break;
      offset = Math.max(offset, other.offset + align(other.bytes));
    }
    interval.offset = offset;
    const at = placed.findIndex((other) => other.offset > offset);
    placed.splice(at < 0 ? placed.length : at, 0, interval);
  }
  return placed;
}

function workspaceOf(graph: Graph, op: Op, device: Device): number {
  const shapeOf = (value: Value | null) =>
    value && { dtype: value.dtype, shape: value.shape.map((dim) => (typeof dim === 'number' ? dim : graph.dims[dim]!)) };
  return addon().workspace(op.op, op.in.map(shapeOf), op.out.map(shapeOf), op.attrs, device);
}
