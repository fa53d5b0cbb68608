/** The trainable tensors, laid out in one flat f32 buffer (their gradients lie in another of the same layout). */
import { ADAMW_BLOCK } from '../ops/adamw.js';

export interface Parameter {
  /** The name it is saved under, as `…q_proj.lora_A.weight` or a checkpoint's tensor name. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly numel: number;
  /** First element in the flat buffer: a multiple of 256, the block of 8-bit optimizer state. */
  readonly offset: number;
  /** Whether weight decay applies: not to biases and norms, as in transformers' Trainer. */
  readonly decays: boolean;
  /** Embedding tables keep 32-bit optimizer state, as in bitsandbytes. */
  readonly isEmbedding: boolean;
}

export interface ParameterRequest {
  readonly name: string;
  readonly shape: readonly number[];
  readonly decays: boolean;
  readonly isEmbedding: boolean;
}

export class ParameterLayout {
  readonly parameters: readonly Parameter[];
  /** Elements of the flat buffer, padding included. */
  readonly elements: number;
  /** Elements that are trained. */
  readonly trainable: number;
  readonly #byName: ReadonlyMap<string, Parameter>;

  constructor(requests: readonly ParameterRequest[]) {
    let offset = 0;
    this.parameters = requests.map((request) => {
      const numel = request.shape.reduce((product, dim) => product * dim, 1);
      const parameter: Parameter = { ...request, numel, offset };
      offset += Math.ceil(numel / ADAMW_BLOCK) * ADAMW_BLOCK;
      return parameter;
    });
    this.elements = offset;
    this.trainable = this.parameters.reduce((sum, parameter) => sum + parameter.numel, 0);
    this.#byName = new Map(this.parameters.map((parameter) => [parameter.name, parameter]));
  }

  get(name: string): Parameter | undefined {
    return this.#byName.get(name);
  }
}
