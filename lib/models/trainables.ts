/** What is trained: LoRA adapters on some linear layers, or every parameter of the language model. */
import { VltuneError } from '../errors.js';
import type { LinearSpec, ModelSpec } from './family.js';
import { ParameterLayout, type ParameterRequest } from './parameters.js';

/** One layer's adapter. */
export interface LoraModule {
  readonly spec: LinearSpec;
  readonly rank: number;
  /** alpha / r, or alpha / sqrt(r). */
  readonly scale: number;
  /** The layer's number in the dropout mask. */
  readonly site: number;
}

export class Trainables {
  readonly layout: ParameterLayout;
  readonly lora: ReadonlyMap<string, LoraModule>;
  readonly dropout: number;
  readonly mode: 'none' | 'lora' | 'full';

  private constructor(mode: Trainables['mode'], layout: ParameterLayout, lora: ReadonlyMap<string, LoraModule>, dropout: number) {
    this.mode = mode;
    this.layout = layout;
    this.lora = lora;
    this.dropout = dropout;
  }

  /** Nothing: for generation without an adapter. */
  static none(): Trainables {
    return new Trainables('none', new ParameterLayout([]), new Map(), 0);
  }

  /**
   * Adapters on each of `modules`. Those of the vision tower are parameters with `vision`; else they stay as they are, for text
   * does not reach them.
   */
  static lora(
    modules: readonly { spec: LinearSpec; rank: number; scale: number }[],
    dropout: number,
    { vision = false }: { vision?: boolean } = {},
  ): Trainables {
    const lora = new Map(modules.map((module, site) => [module.spec.name, { ...module, site }]));
    const requests = [...lora.values()].flatMap(({ spec, rank }): ParameterRequest[] => {
      if (spec.part === 'head')
        throw new VltuneError('ERR_UNSUPPORTED', `target_modules: an adapter on the output head (${spec.name}) is not supported`);
      if (spec.part === 'vision' && !vision) return [];
      return [
        { name: loraName(spec.name, 'A'), shape: [rank, spec.in], decays: true, isEmbedding: false },
        { name: loraName(spec.name, 'B'), shape: [spec.out, rank], decays: true, isEmbedding: false },
      ];
    });
    return new Trainables('lora', new ParameterLayout(requests), lora, dropout);
  }

  /** Every parameter of the language model and its head; with `vision` of the tower too, which else stays as it is. */
  static full(model: ModelSpec, { vision = false }: { vision?: boolean } = {}): Trainables {
    const isTrained = (part: LinearSpec['part']) => part === 'language' || (part === 'vision' && vision);
    const linears = model.linears.filter(
      (spec) => isTrained(spec.part) || (spec.part === 'head' && model.head !== model.embedding),
    );
    const requests: ParameterRequest[] = [
      ...model.tensors
        .filter((tensor) => isTrained(tensor.part))
        .map((tensor) => ({
          name: tensor.name,
          shape: tensor.view ?? tensor.shape,
          decays: tensor.shape.length > 1,
          isEmbedding: tensor.isEmbedding ?? false,
        })),
      ...linears.flatMap((spec) => [
        { name: `${spec.name}.weight`, shape: [spec.out, spec.in], decays: true, isEmbedding: false },
        ...(spec.bias ? [{ name: `${spec.name}.bias`, shape: [spec.out], decays: false, isEmbedding: false }] : []),
      ]),
    ];
    return new Trainables('full', new ParameterLayout(requests), new Map(), 0);
  }
}

export function loraName(module: string, which: 'A' | 'B'): string {
  return `${module}.lora_${which}.weight`;
}
