/** The typed face of the addon: every function it exports, and nothing else. Of `lib/data`, `media` alone imports this file. */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Numbers shared with `native/runtime/tensor.h`. `nf4` counts elements; two lie in a byte. */
export const DTYPES = { f32: 0, bf16: 1, f16: 2, i32: 3, u8: 4, i64: 5, nf4: 6 } as const;
export type DType = keyof typeof DTYPES;
export type Device = 'cpu' | 'cuda';

/** Bytes of `count` elements of a dtype (NF4: the packed codes alone). */
export function dtypeBytes(dtype: DType, count: number): number {
  switch (dtype) {
    case 'f32':
    case 'i32':
      return count * 4;
    case 'bf16':
    case 'f16':
      return count * 2;
    case 'u8':
      return count;
    case 'i64':
      return count * 8;
    case 'nf4':
      return Math.ceil(count / 2);
  }
}

/** A block of memory of a device, or a read-only mapping of a file. Opaque; freed by `release` or when collected. */
export interface Storage {
  readonly __storage: unique symbol;
}

/** A program made ready to run. Opaque. */
export interface Executable {
  readonly __executable: unique symbol;
}

/** This process among those that add up their tensors through NCCL. Opaque. */
export interface Communicator {
  readonly __communicator: unique symbol;
}

/** A tensor in a storage. Byte offsets; contiguous, row-major. */
export interface TensorRef {
  readonly storage: Storage;
  readonly offset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The scales of an `nf4` tensor. `absmaxU8` with `nestedAbsmax` and `nestedOffset` is double quantisation. */
  readonly nf4?: Nf4Ref;
}

export type Nf4Ref =
  | { readonly absmax: { readonly storage: Storage; readonly offset: number } }
  | {
      readonly absmaxU8: { readonly storage: Storage; readonly offset: number };
      readonly nestedAbsmax: { readonly storage: Storage; readonly offset: number };
      readonly nestedOffset: number;
    };

/** A dimension of a program's value: a number, or the name of a dimension whose length is given at each run. */
export type Dim = number | string;

/** A value as native code sees it: in the arena at a byte offset, or bound to a storage. */
export interface NativeValue {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  /** Byte offset in the arena; absent if `ref` is there. */
  readonly arena?: number;
  readonly ref?: { readonly storage: Storage; readonly offset: number; readonly nf4?: Nf4Ref };
}

export interface NativeOp {
  readonly op: string;
  /** Indices into `values`; -1 for an absent operand. */
  readonly in: readonly number[];
  readonly out: readonly number[];
  readonly attrs: Readonly<Record<string, number>>;
}

export interface NativeProgram {
  /** The largest length of each named dimension. */
  readonly dims: Readonly<Record<string, number>>;
  readonly values: readonly NativeValue[];
  readonly ops: readonly NativeOp[];
  /** Storage of the arena; absent if no value lies in it. Its scratch region starts at `workspaceOffset`. */
  readonly arena?: Storage;
  readonly workspaceOffset: number;
  readonly workspaceBytes: number;
}

export interface CpuInfo {
  readonly model: string;
  readonly threads: number;
  readonly isa: 'portable' | 'avx2' | 'avx512';
  readonly avx512Bf16: boolean;
  readonly avx512Vnni: boolean;
  readonly amxBf16: boolean;
}

export interface MemoryInfo {
  /** Bytes allocated by vltune on a device now, and the most there have been since the start or `resetPeak`. Mappings do not count. */
  readonly current: number;
  readonly peak: number;
}

/** One GPU, as the driver names it. */
export interface GpuInfo {
  readonly index: number;
  readonly name: string;
  /** As `9.0`. */
  readonly computeCapability: string;
  readonly multiprocessors: number;
  readonly totalMemory: number;
  /** Of the chosen one: to ask another costs it memory. */
  readonly freeMemory?: number;
}

export interface CudaInfo {
  /** Whether this build has CUDA. */
  readonly compiled: boolean;
  /** Whether there is a GPU that it can compute on. */
  readonly available: boolean;
  /** Why not; '' if it is available. */
  readonly reason: string;
  /** Versions, as `13.0`; '' if unknown. */
  readonly driver: string;
  readonly runtime: string;
  readonly devices: readonly GpuInfo[];
  /** cuBLASLt, which the large products use where it is found. */
  readonly blas: LibraryInfo;
}

/** A library that is opened at run time. */
export interface LibraryInfo {
  readonly found: boolean;
  readonly path: string;
  /** As `13.1.0`; '' if it was not found. */
  readonly version: string;
  /** Why not; '' if it was found. */
  readonly reason: string;
}

/** One direction of a resize: output i is the sum of `weights[i, k] * input[starts[i] + k]`, plus half, shifted down, clipped to a byte. */
export interface Resampling {
  readonly starts: Int32Array;
  /** [starts.length, taps] */
  readonly weights: Int32Array;
  readonly shift: number;
}

/** Contract: `native/ops/image_patches.h`. */
export interface PatchLayout {
  readonly width: number;
  readonly height: number;
  /** Across a row, then down a column; null: that side stays as it is. */
  readonly columns: Resampling | null;
  readonly rows: Resampling | null;
  /** Down a column before across a row. */
  readonly rowsFirst: boolean;
  /** [3, 256]: what each value of each channel becomes. */
  readonly table: Float32Array;
  readonly patchSize: number;
  readonly mergeSize: number;
  readonly temporalPatchSize: number;
}

export interface OpTime {
  readonly op: string;
  readonly calls: number;
  readonly nanoseconds: number;
}

export interface Addon {
  /**
   * Zeroed memory, 64-byte aligned (on a GPU 256). 'pinned' is page-locked host memory that the GPU reads and writes too; `read`,
   * `write` and `copy` work directly on it. Throws ERR_OUT_OF_MEMORY with the size.
   */
  allocate(bytes: number, device: Device | 'pinned'): Storage;
  /** Maps a file read-only. Throws ERR_IO. */
  mapFile(path: string): Storage;
  storageBytes(storage: Storage): number;
  /** Frees at once; later use of the storage is ERR_ARGUMENT. A storage in use by a running program is freed when that ends. */
  release(handle: Storage | Executable | Communicator): void;
  /** Tells the system that a mapped range is not needed for now (its pages are dropped from memory and read again on use). */
  adviseUnneeded(storage: Storage, offset: number, bytes: number): void;
  read(storage: Storage, offset: number, into: ArrayBufferView): void;
  write(storage: Storage, offset: number, from: ArrayBufferView): void;
  /** Copies bytes between storages. */
  copy(to: Storage, toOffset: number, from: Storage, fromOffset: number, bytes: number): void;
  /** The same between any two storages, off the main thread (weights: from the mapped file to the card). */
  copyAsync(to: Storage, toOffset: number, from: Storage, fromOffset: number, bytes: number): Promise<void>;

  /** Runs one op now, on the device of its operands. `null` stands for an absent operand. Operands on different devices: ERR_ARGUMENT. */
  call(
    op: string,
    inputs: readonly (TensorRef | null)[],
    outputs: readonly (TensorRef | null)[],
    attrs: Readonly<Record<string, number>>,
  ): void;
  /** Runs one op from a worker thread. */
  callAsync(
    op: string,
    inputs: readonly (TensorRef | null)[],
    outputs: readonly (TensorRef | null)[],
    attrs: Readonly<Record<string, number>>,
  ): Promise<void>;
  /** Scratch bytes that an op wants for operands of these shapes on a device. It is computed from shapes alone: no GPU need be there. */
  workspace(
    op: string,
    inputs: readonly ({ dtype: DType; shape: readonly number[] } | null)[],
    outputs: readonly ({ dtype: DType; shape: readonly number[] } | null)[],
    attrs: Readonly<Record<string, number>>,
    device: Device,
  ): number;
  opNames(): string[];

  compile(program: NativeProgram): Executable;
  /** One run, or `repeats`, off the main thread, with the lengths of the named dimensions. Rejects with ERR_CANCELLED after `cancel`. */
  run(executable: Executable, dims: Readonly<Record<string, number>>, repeats?: number): Promise<void>;
  /** Stops the run under way between two ops. */
  cancel(executable: Executable): void;
  /** What each op of a program has taken since it was compiled, in the program's order. */
  times(executable: Executable): OpTime[];
  /** From now on `times` are measured or not. On the CPU they always are; on CUDA, where it costs events, not until asked for. */
  profile(executable: Executable, on: boolean): void;
  /** Microseconds of each launch of an op on the GPU; with `flushL2` the cache is cold at each. ERR_NO_DEVICE on the CPU. */
  timeOp(
    op: string,
    inputs: readonly (TensorRef | null)[],
    outputs: readonly (TensorRef | null)[],
    attrs: Readonly<Record<string, number>>,
    options: { readonly repeats: number; readonly flushL2: boolean },
  ): Promise<Float64Array>;

  /** What the first process makes for `ncclCommunicator` and hands to the others. ERR_NO_DEVICE without NCCL. */
  ncclUniqueId(): Uint8Array;
  /** This process as number `rank` of `size`, each on a GPU of its own. They are connected by the first sum. */
  ncclCommunicator(id: Uint8Array, rank: number, size: number): Communicator;
  /** Puts the sum over all processes in the place of `count` f32, off the main thread; all call it alike. ERR_DEVICE with NCCL's words. */
  ncclAllReduce(communicator: Communicator, storage: Storage, offset: number, count: number): Promise<void>;
  /** A sum that waits for others, and any to come, is ERR_CANCELLED. */
  ncclAbort(communicator: Communicator): void;

  /**
   * Frames (RGB bytes of one size) to rows of patches in `out`, off the main thread. Neither may be changed or transferred to another
   * thread until the promise settles.
   */
  imagePatches(frames: readonly Uint8Array[], layout: PatchLayout, out: Float32Array): Promise<void>;
  /** Zeros in memory of its own, in huge pages where there are such: touching a large array for the first time takes a third as long. */
  largeArray(length: number): Float32Array;

  cpuInfo(): CpuInfo;
  setThreads(threads: number): void;
  /** Default: of the CPU. */
  memory(device?: Device): MemoryInfo;
  resetPeak(device?: Device): void;
  /** Whether this build has CUDA, and what was found of driver and devices. */
  cudaInfo(): CudaInfo;
  /** NCCL, which is opened if it was not yet. */
  ncclInfo(): LibraryInfo;
  /** The GPU that 'cuda' means, 0 until another is chosen. ERR_NO_DEVICE, or ERR_ARGUMENT once another one is in use. */
  selectDevice(index: number): void;
  /** The GPU's memory as the driver counts it, whoever has taken it. */
  deviceMemory(): { readonly free: number; readonly total: number };
}

const require = createRequire(import.meta.url);

function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!folder.endsWith('dist') && dirname(folder) !== folder) folder = dirname(folder);
  return dirname(folder);
}

/** The folder of the installed package: its `models` and `examples` lie here. */
export const PACKAGE_ROOT: string = packageRoot();

function load(): Addon {
  const nodeGypBuild = require('node-gyp-build') as { (folder: string): Addon; path(folder: string): string };
  try {
    return nodeGypBuild(PACKAGE_ROOT);
  } catch (cause) {
    throw new Error(
      [
        `vltune: no native addon for ${process.platform}-${process.arch}, Node ${process.version} (looked in ${join(PACKAGE_ROOT, 'build')} and ${join(PACKAGE_ROOT, 'prebuilds')}).`,
        '  1. Install again without --ignore-scripts or --omit=optional, on a platform that has a prebuild (linux-x64 with glibc 2.34 or newer).',
        `  2. Or build it here: a C++20 compiler and Python 3, then: cd ${PACKAGE_ROOT} && npm install --include=dev --ignore-scripts && npx node-gyp rebuild`,
        `  The loader said: ${(cause as Error).message}`,
      ].join('\n'),
      { cause },
    );
  }
}

let loaded: Addon | undefined;

/** The addon, loaded on first use: importing vltune costs nothing. */
export function addon(): Addon {
  loaded ??= load();
  return loaded;
}

/** For tests: what `addon` gives from now on, made from what it gave so far. */
export function wrapAddon(wrap: (real: Addon) => Addon): void {
  loaded = wrap(addon());
}
