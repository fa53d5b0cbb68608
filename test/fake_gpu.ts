/**
 * A GPU in name only: storages remember a device, ops run on the CPU, and an op whose operands lie on several devices is refused. What
 * `lib` does otherwise on a GPU is tested with it where there is none. f16, which the CPU does not compute in, is bf16 there.
 */
import { type Addon, type Device, type DType, type NativeValue, type Storage, type TensorRef, wrapAddon } from '../lib/native.js';

type Place = Device | 'pinned';

/** What was asked of it. */
export interface Asked {
  /** Writes from the host to the GPU, and programs run there. */
  writes: number;
  runs: number;
}

/** Takes the addon's place in this process. */
export function fakeGpu(): Asked {
  const asked: Asked = { writes: 0, runs: 0 };
  wrapAddon((real) => wrap(real, asked));
  return asked;
}

function computable<T extends { readonly dtype: DType } | null>(operand: T): T {
  return operand?.dtype === 'f16' ? { ...operand, dtype: 'bf16' } : operand;
}

function wrap(real: Addon, asked: Asked): Addon {
  const places = new WeakMap<Storage, Place>();
  const placeOf = (storage: Storage): Place => places.get(storage) ?? 'cpu';

  const check = (op: string, operands: readonly (Pick<TensorRef, 'storage' | 'nf4'> | null)[]): void => {
    const found = new Set<Place>();
    for (const operand of operands) {
      if (!operand) continue;
      found.add(placeOf(operand.storage));
      for (const part of Object.values(operand.nf4 ?? {})) if (typeof part === 'object') found.add(placeOf(part.storage));
    }
    if (found.has('cuda') && found.has('cpu'))
      throw Object.assign(new Error(`${op}: some operands lie on cuda, some on cpu`), { code: 'ERR_ARGUMENT' });
  };

  const gpu = { index: 0, name: 'Fake', computeCapability: '9.0', multiprocessors: 1, totalMemory: 2 ** 36, freeMemory: 2 ** 36 };
  return {
    ...real,
    allocate: (bytes, device) => {
      const storage = real.allocate(bytes, 'cpu');
      places.set(storage, device);
      return storage;
    },
    write: (storage, offset, from) => {
      if (placeOf(storage) === 'cuda') asked.writes += 1;
      real.write(storage, offset, from);
    },
    copyAsync: async (to, toOffset, from, fromOffset, bytes) => {
      await Promise.resolve();
      real.copy(to, toOffset, from, fromOffset, bytes);
    },
    call: (op, inputs, outputs, attrs) => {
      check(op, [...inputs, ...outputs]);
      real.call(op, inputs.map(computable), outputs.map(computable), attrs);
    },
    callAsync: async (op, inputs, outputs, attrs) => {
      check(op, [...inputs, ...outputs]);
      await real.callAsync(op, inputs.map(computable), outputs.map(computable), attrs);
    },
    workspace: (op, inputs, outputs, attrs) => real.workspace(op, inputs.map(computable), outputs.map(computable), attrs, 'cpu'),
    compile: (program) => {
      const operand = ({ ref }: NativeValue) => ref ?? { storage: program.arena! };
      for (const { op, in: inputs, out } of program.ops)
        check(
          op,
          [...inputs, ...out].map((index) => (index < 0 ? null : operand(program.values[index]!))),
        );
      return real.compile({ ...program, values: program.values.map(computable) });
    },
    run: async (executable, dims, repeats) => {
      asked.runs += 1;
      await real.run(executable, dims, repeats);
    },
    profile: () => {},
    cudaInfo: () => ({
      compiled: true,
      available: true,
      reason: '',
      driver: '13.0',
      runtime: '13.0',
      devices: [gpu],
      blas: { found: false, path: '', version: '', reason: 'a fake' },
    }),
    selectDevice: () => {},
    deviceMemory: () => ({ free: gpu.freeMemory, total: gpu.totalMemory }),
    memory: () => real.memory(),
    resetPeak: () => real.resetPeak(),
  };
}
