/** The programs of a training step, built and planned: forward and backward of a micro-batch, its loss alone, and an update. */
import { VltuneError } from '../errors.js';
import { differentiate } from '../graph/gradient.js';
import { Graph, type Value } from '../graph/graph.js';
import { type Plan, planMemory } from '../graph/planner.js';
import { blockStarts, levelsAt, recompute } from '../graph/recompute.js';
import type { MediaInputs, ModelSpec, VisionSpec } from '../models/family.js';
import { GraphWeights } from '../models/graph_weights.js';
import type { Trainables } from '../models/trainables.js';
import { featureDims, featureValues, mediaRows, type VisionLimits, visionDims, visionInputs } from '../models/vision_io.js';
import type { WeightStore } from '../models/weight_store.js';
import type { Device } from '../native.js';
import { adamw, gradNorm, SEGMENT_COLUMNS } from '../ops/adamw.js';
import { attention } from '../ops/attention.js';
import type { ActivationDType } from '../ops/builder.js';
import { fill } from '../ops/elementwise.js';
import { GRADIENT_RULES } from '../ops/gradients.js';
import { linearCrossEntropy } from '../ops/linear_cross_entropy.js';
import type { OptimizerLayout } from './optimizer.js';

/** What is trained, on what. */
export interface StepModel {
  readonly spec: ModelSpec;
  readonly frozen: WeightStore;
  readonly trainables: Trainables;
}

export interface PassOptions {
  readonly dtype: ActivationDType;
  readonly device: Device;
  /** Most tokens and most sequences of a micro-batch. */
  readonly maxTokens: number;
  readonly maxSequences: number;
  /** Most tokens of a micro-batch that have a target. Default: all of them. */
  readonly maxTargets?: number;
  /** Pictures and videos among the text. Absent: none, and the vision tower is not touched. */
  readonly media?: StepMedia;
}

export interface StepMedia extends VisionLimits {
  /**
   * `patches`: the tower is part of the step, and what of it is trained gets its gradients. `features`: a batch brings what a
   * `VisionEncoder` made of its pictures.
   */
  readonly from: 'patches' | 'features';
}

/** A program that is not compiled yet. */
export interface Pass {
  readonly graph: Graph;
  readonly plan: Plan;
}

export interface TrainPass extends Pass {
  /** Blocks of the forward pass that recomputation is chosen for. */
  readonly blocks: number;
}

/** Forward and backward. `setting`: how much is recomputed (`levelsAt`). */
export function buildTrainPass(model: StepModel, options: PassOptions, setting: number): TrainPass {
  const graph = passGraph(options, model.spec);
  const weights = forward(graph, model, options, graph.value('io', 'rng', 'i32', [2]));
  const forwardOps = graph.ops.length;
  const gradients = new Map<Value, Value>();
  for (const [name, value] of weights.entries()) {
    if (value.kind === 'param') gradients.set(value, graph.value('grad', name, 'f32', value.shape));
  }
  differentiate(graph, gradients, GRADIENT_RULES);
  const blocks = blockStarts(graph.ops.slice(0, forwardOps), graph.ops.slice(forwardOps)).length;
  recompute(graph, forwardOps, levelsAt(setting, blocks));
  return { graph, plan: planMemory(graph, options.device), blocks };
}

/** The loss alone. */
export function buildEvaluatePass(model: StepModel, options: PassOptions): Pass {
  const graph = passGraph(options, model.spec);
  forward(graph, model, options, null);
  return { graph, plan: planMemory(graph, options.device) };
}

/** Norm and clip of the gradient, AdamW, and clearing. `scaled`: gradients are those of a loss times `grad_scale`. */
export function buildUpdate(
  { layout }: Trainables,
  optimizer: OptimizerLayout,
  { device, maxGradNorm, scaled }: { readonly device: Device; readonly maxGradNorm: number; readonly scaled: boolean },
): Pass {
  const graph = new Graph({});
  const { elements } = layout;
  const { arrays, segmentCount, variant } = optimizer;
  const grads = graph.value('grad', 'flat', 'f32', [elements]);
  const clip = graph.value('io', 'clip', 'f32', [1]);
  const scale = scaled ? graph.value('io', 'grad_scale', 'f32', [1]) : null;
  gradNorm(graph, { grads, scale }, { into: graph.value('io', 'grad_norm', 'f32', [1]) }, { into: clip }, maxGradNorm);
  const state = arrays.map((array) => graph.value('state', array.name, array.dtype, [array.elements]));
  adamw(
    graph,
    {
      grads,
      clip,
      hyper: graph.value('io', 'hyper', 'f32', [8]),
      segments: graph.value('io', 'segments', 'i32', [segmentCount, SEGMENT_COLUMNS]),
    },
    { into: graph.value('param', 'flat', 'f32', [elements]) },
    { m8: state[0]!, v8: state[1]!, m8Absmax: state[2]!, v8Absmax: state[3]!, m32: state[4]!, v32: state[5]! },
    variant,
  );
  fill(graph, { into: grads }, 0);
  return { graph, plan: planMemory(graph, device) };
}

/** The tower of a model that is to see. ERR_UNSUPPORTED if it has none. */
export function visionOf(spec: ModelSpec): VisionSpec {
  if (!spec.vision) throw new VltuneError('ERR_UNSUPPORTED', `${spec.modelType} models read no pictures`);
  return spec.vision;
}

function passGraph({ maxTokens, maxSequences, maxTargets = maxTokens, media }: PassOptions, spec: ModelSpec): Graph {
  return new Graph({
    tokens: maxTokens,
    bounds: maxSequences + 1,
    targets: Math.min(maxTargets, maxTokens),
    ...(media && mediaDims(media, visionOf(spec))),
  });
}

function mediaDims(media: StepMedia, { shape }: VisionSpec): Record<string, number> {
  return media.from === 'patches' ? visionDims(shape, media) : featureDims(shape, media.maxPatches);
}

/** From ids (and pictures) to the loss, which is added up. `rng`: what dropout draws from; null: none. */
function forward(graph: Graph, { spec, frozen, trainables }: StepModel, options: PassOptions, rng: Value | null): GraphWeights {
  const input = (name: string, dtype: 'i32' | 'f32', ...shape: (number | string)[]) => graph.value('io', name, dtype, shape);
  const bounds = input('bounds', 'i32', 'bounds');
  const weights = new GraphWeights(graph, frozen, trainables, rng);
  const { heads, kvHeads, headDim } = spec.text;
  const hidden = spec.forward(graph, weights, {
    ids: input('ids', 'i32', 'tokens'),
    positions: input('positions', 'i32', 3, 'tokens'),
    dtype: options.dtype,
    attend: (_layer, q, k, v) => attention(graph, q, k, v, bounds, { heads, kvHeads, headDim, causal: true }).o,
    media: options.media && mediaInputs(graph, weights, visionOf(spec), options.media.from, options.dtype),
  });
  linearCrossEntropy(
    graph,
    {
      x: hidden,
      weight: weights.tensor(spec.head),
      targets: input('targets', 'i32', 'tokens'),
      lossScale: input('loss_scale', 'f32', 1),
      rows: input('rows', 'i32', 'targets'),
    },
    { into: input('loss', 'f32', 1) },
  );
  return weights;
}

/** Pictures as the language model reads them: out of the tower, or as a batch brings them. */
function mediaInputs(
  graph: Graph,
  weights: GraphWeights,
  vision: VisionSpec,
  from: StepMedia['from'],
  dtype: ActivationDType,
): MediaInputs<Value> {
  const rows = mediaRows(graph);
  if (from === 'features') return { rows, ...featureValues(graph, vision.shape, dtype) };
  return { rows, ...vision.forward(graph, weights, visionInputs(graph, vision.shape, dtype)) };
}
