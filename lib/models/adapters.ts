/** LoRA adapters of a model: from a PEFT folder, or new ones by the options of a run. */
import { VltuneError } from '../errors.js';
import type { Place } from '../graph/program.js';
import { addon, type Device, type Storage } from '../native.js';
import { MersenneTwister } from '../random.js';
import { type Adapter, checkAdapterFits } from '../weights/lora.js';
import { inScope, type LayerScope, matchTargetModules } from '../weights/target_modules.js';
import type { LinearSpec, ModelSpec } from './family.js';
import { loraName, Trainables } from './trainables.js';

export interface LoraOptions {
  readonly r: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly useRslora: boolean;
  readonly targetModules: string | readonly string[];
  /** Narrows them. */
  readonly scope?: LayerScope | undefined;
  /** Whether the vision tower is run, so that its adapters are trained. Default false. */
  readonly vision?: boolean | undefined;
}

/** New adapters on the layers that `targetModules` names, as PEFT reads it, and that are in scope. ERR_USAGE if there is none. */
export function newAdapters(spec: ModelSpec, options: LoraOptions): Trainables {
  const linears = new Map(spec.linears.map((linear) => [linear.name, linear]));
  const targets = matchTargetModules([...linears.keys()], options.targetModules);
  const names = inScope(targets, options.scope ?? {});
  if (names.length === 0)
    throw new VltuneError(
      'ERR_USAGE',
      `the --finetune options leave none of the ${targets.length} layers that --target-modules matches`,
    );
  const scale = options.alpha / (options.useRslora ? Math.sqrt(options.r) : options.r);
  return Trainables.lora(
    names.map((name) => ({ spec: linears.get(name)!, rank: options.r, scale })),
    options.dropout,
    { vision: options.vision ?? false },
  );
}

/** The layers of an adapter that was read. ERR_BAD_ADAPTER if it does not fit the model. */
export function adaptersOf(spec: ModelSpec, adapter: Adapter, dropout: number, options: { vision?: boolean } = {}): Trainables {
  const linears = new Map(spec.linears.map((linear) => [linear.name, linear]));
  checkAdapterFits(
    adapter,
    new Map(spec.linears.map(({ name, in: inFeatures, out: outFeatures }) => [name, { inFeatures, outFeatures }])),
  );
  // In the model's order, whatever the file's: the same adapter trains to the same bits.
  const present = spec.linears.filter(({ name }) => adapter.tensors.has(name));
  return Trainables.lora(
    present.map(({ name }) => ({
      spec: linears.get(name)!,
      rank: adapter.tensors.get(name)!.rank,
      scale: adapter.tensors.get(name)!.scale,
    })),
    dropout,
    options,
  );
}

/** Writes an adapter's numbers to where its layers lie, `params` in the layout of `trainables`. */
export function writeAdapters(params: Storage, { layout }: Trainables, adapter: Adapter): void {
  for (const [name, { a, b }] of adapter.tensors) {
    for (const [which, data] of [['A', a] as const, ['B', b] as const]) {
      addon().write(params, layout.get(loraName(name, which))!.offset * 4, data);
    }
  }
}

/** What an adapter holds of the vision tower, on a device, where it is read and not trained. */
export class TowerAdapters {
  readonly trainables: Trainables;
  readonly #adapter: Adapter;
  readonly #device: Device;
  #params: Storage | undefined;

  private constructor(spec: ModelSpec, adapter: Adapter, device: Device) {
    this.trainables = adaptersOf(spec, adapter, 0, { vision: true });
    this.#adapter = adapter;
    this.#device = device;
  }

  /** Allocates nothing. Undefined if nothing of the tower is adapted. ERR_BAD_ADAPTER if it does not fit the model. */
  static of(spec: ModelSpec, adapter: Adapter, device: Device): TowerAdapters | undefined {
    const tower = new Set(spec.linears.filter(({ part }) => part === 'vision').map(({ name }) => name));
    const tensors = new Map([...adapter.tensors].filter(([name]) => tower.has(name)));
    return tensors.size > 0 ? new TowerAdapters(spec, { ...adapter, tensors }, device) : undefined;
  }

  get bytes(): number {
    return this.trainables.layout.elements * 4;
  }

  allocate(): void {
    this.#params = addon().allocate(this.bytes, this.#device);
    writeAdapters(this.#params, this.trainables, this.#adapter);
  }

  /** Where a parameter lies, once allocated. */
  place(name: string): Place {
    if (!this.#params) throw new VltuneError('ERR_INTERNAL', 'the adapters are not allocated');
    return { storage: this.#params, offset: this.trainables.layout.get(name)!.offset * 4 };
  }

  release(): void {
    if (this.#params) addon().release(this.#params);
    this.#params = undefined;
  }
}

/**
 * A new adapter's A: kaiming_uniform with a = sqrt(5), that is uniform in ±1/sqrt(in), as PEFT starts it (B starts at zero).
 * One generator a layer, so that a layer's numbers do not depend on which others are trained.
 */
export function initialA(spec: LinearSpec, rank: number, seed: number): Float32Array {
  const random = new MersenneTwister((seed ^ hash(spec.name)) >>> 0);
  const bound = 1 / Math.sqrt(spec.in);
  return Float32Array.from({ length: rank * spec.in }, () => (2 * random.uniform() - 1) * bound);
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of Buffer.from(text)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}
