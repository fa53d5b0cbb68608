/** The weights of a model as values of one graph: frozen ones from the checkpoint, trained ones from the flat buffer. */
import { VltuneError } from '../errors.js';
import type { Graph, Value } from '../graph/graph.js';
import type { LinearOperands, LoraOperands } from '../ops/linear.js';
import type { WeightLookup } from './family.js';
import { loraName, type Trainables } from './trainables.js';
import type { WeightStore } from './weight_store.js';

export class GraphWeights implements WeightLookup<Value> {
  readonly #graph: Graph;
  readonly #frozen: WeightStore;
  readonly #trainables: Trainables;
  readonly #rng: Value | null;
  readonly #values = new Map<string, Value>();

  /** `rng` is the key of the dropout masks; null in evaluation, where nothing is dropped. */
  constructor(graph: Graph, frozen: WeightStore, trainables: Trainables, rng: Value | null) {
    this.#graph = graph;
    this.#frozen = frozen;
    this.#trainables = trainables;
    this.#rng = rng;
  }

  tensor(name: string): Value {
    let value = this.#values.get(name);
    if (!value) {
      value = this.#make(name);
      this.#values.set(name, value);
    }
    return value;
  }

  linear(module: string): LinearOperands<Value> {
    const spec = this.#frozen.linear(module);
    return {
      weight: this.tensor(`${module}.weight`),
      bias: spec.bias ? this.tensor(`${module}.bias`) : null,
      lora: this.#lora(module),
      rng: this.#rng,
    };
  }

  /** Each value with the tensor name it stands for. */
  entries(): IterableIterator<[string, Value]> {
    return this.#values.entries();
  }

  #lora(module: string): LoraOperands<Value> | null {
    const lora = this.#trainables.lora.get(module);
    if (!lora) return null;
    return {
      a: this.tensor(loraName(module, 'A')),
      b: this.tensor(loraName(module, 'B')),
      scale: lora.scale,
      dropout: this.#rng ? this.#trainables.dropout : 0,
      site: lora.site,
    };
  }

  #make(name: string): Value {
    const parameter = this.#trainables.layout.get(name);
    if (parameter) return this.#graph.value('param', name, 'f32', parameter.shape);
    const frozen = this.#frozen.get(name);
    if (!frozen) throw new VltuneError('ERR_INTERNAL', `the model has no tensor ${name}`);
    return this.#graph.value('weight', name, frozen.dtype, frozen.shape);
  }
}
