/**
 * The kernels on typed arrays. Each function takes a builder first: `new Eager()` runs it at once on `Tensor`s, a `Graph`
 * records it for a program that is differentiated, planned and run as a whole.
 *
 *     const b = new Eager();
 *     const x = Tensor.from(new Float32Array(8), [2, 4]);
 *     const { y } = rmsNorm(b, x, Tensor.from(new Float32Array(4).fill(1), [4]), 1e-6);
 *     y.toFloat32();
 */
export { type Backward, differentiate, type GradientRule } from '../graph/gradient.js';
export { Graph, type Kind, type Op, type Value } from '../graph/graph.js';
export { type Plan, planMemory } from '../graph/planner.js';
export { type Place, Program } from '../graph/program.js';
export {
  type Addon,
  addon as nativeAddon,
  type CpuInfo,
  type CudaInfo,
  type Device,
  type Dim,
  type DType,
  type Executable,
  type GpuInfo,
  type MemoryInfo,
  type NativeOp,
  type NativeProgram,
  type NativeValue,
  type Nf4Ref,
  type OpTime,
  type Storage,
  type TensorRef,
} from '../native.js';
export { ADAMW_BLOCK, type AdamWState, adamw, gradNorm, SEGMENT_COLUMNS } from './adamw.js';
export {
  type Attention,
  type AttentionOptions,
  attention,
  attentionAttrs,
  attentionBackward,
  attentionCached,
} from './attention.js';
export type { ActivationDType, Attrs, Builder, Into, OutputSpec, Shaped } from './builder.js';
export { type AttentionOne, attentionOne, type LinearsOne, linearsOne, MOST_LINEARS } from './decode.js';
export { add, cast, fill, reshape, selectRows } from './elementwise.js';
export { embedding, embeddingBackward } from './embedding.js';
export { type Bags, embeddingBag, embeddingBagBackward } from './embedding_bag.js';
export { type GeluOptions, gelu, geluBackward } from './gelu.js';
export { GRADIENT_RULES } from './gradients.js';
export { type LayerNorm, type LayerNormWeights, layerNorm, layerNormBackward } from './layer_norm.js';
export {
  type Linear,
  type LinearGradients,
  type LinearOperands,
  type LoraOperands,
  linear,
  linearAttrs,
  linearBackward,
} from './linear.js';
export { type CrossEntropyOperands, IGNORE_INDEX, linearCrossEntropy } from './linear_cross_entropy.js';
export { NF4_BLOCK, NF4_NESTED_BLOCK, nf4Dequantize, nf4Quantize, nf4QuantizeAbsmax } from './nf4.js';
export { type QkNormRope, qkNormRope, qkNormRopeBackward, type RopeOptions, type RopeTable, ropeTable } from './qk_norm_rope.js';
export { type Qkv, qkvRope, qkvRopeBackward } from './qkv_rope.js';
export { type RmsNorm, rmsNorm, rmsNormBackward } from './rms_norm.js';
export { MOST_CANDIDATES, type SampleOperands, type SampleState, sampleToken } from './sample.js';
export { type ScatterOptions, scatterRows } from './scatter_rows.js';
export { swiglu, swigluBackward } from './swiglu.js';
export { Eager, Tensor, type TypedArray } from './tensor.js';
