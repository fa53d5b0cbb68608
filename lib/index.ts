/** vltune: fine-tuning of vision-language models from Node.js. The kernels are in `vltune/ops`. */

export { type Batch, BatchPlan, type BatchPlanOptions, buildBatch } from './data/batches.js';
export { type ConvertOptions, type ConvertResult, convert } from './data/convert.js';
export { type PrepareOptions, prepareDataset, type RowSource, TokenDataset, type TokenRow } from './data/prepare.js';
export { type Message, type ReadOptions, type Row, readRows } from './data/read.js';
export { ChatTemplate } from './data/template.js';
export { Tokenizer } from './data/tokenizer.js';
export { type ErrorCode, isUserError, VltuneError } from './errors.js';
export {
  type GeneratedToken,
  type GenerateOptions,
  type GenerationResult,
  Generator,
  type GeneratorOptions,
} from './generate/generate.js';
export { supportedModelTypes } from './models/registry.js';
export { resolveTrainArgs, type TrainArgs, type TrainOptions } from './train/args.js';
export { type PlanReport, plan, type TrainEvent, type TrainHooks, type TrainResult, train } from './train/trainer.js';
export { resolveModel } from './weights/hub.js';
export { type Adapter, readAdapter, writeAdapter } from './weights/lora.js';
export { type MergeOptions, mergeAdapter } from './weights/merge.js';
export { type QuantizeOptions, quantizeCheckpoint } from './weights/quantize.js';
