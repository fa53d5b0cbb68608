/** vltune: fine-tuning of vision-language models from Node.js. The kernels are in `vltune/ops`. */

export { BatchStream, type BatchStreamOptions } from './data/batch_stream.js';
export { type Batch, type BatchLimits, type BatchMedia, BatchPlan, type BatchPlanOptions, buildBatch } from './data/batches.js';
export { type ConvertFormat, type ConvertOptions, type ConvertProgress, type ConvertResult, convert } from './data/convert.js';
export type { Pixels } from './data/media/decode.js';
export {
  type ImageBackend,
  ImageProcessor,
  type ImageProcessorOptions,
  type Patches,
} from './data/media/image_processor.js';
export type { MediaContext, MediaSource } from './data/media/locate.js';
export { type MediaFile, type MediaOptions, MediaReader, type SeeingModel, type SeenMedia } from './data/media/media_reader.js';
export { type OpenedImage, openImage } from './data/media/source.js';
export {
  timestampText,
  type VideoLength,
  type VideoPlan,
  VideoProcessor,
  type VideoProcessorOptions,
} from './data/media/video_processor.js';
export { type OpenedVideo, openVideo, type VideoOptions, type VideoSource } from './data/media/video_source.js';
export type {
  ContentItem,
  ImageItem,
  MediaItem,
  Message,
  Role,
  TextItem,
  VideoItem,
} from './data/message.js';
export { type PrepareOptions, type PrepareProgress, prepareDataset } from './data/prepare.js';
export { type ReadOptions, type Row, readRows } from './data/read.js';
export type { TextFormat } from './data/render.js';
export { ChatTemplate, type RenderOptions, type TemplateTokens } from './data/template.js';
export {
  type DatasetStats,
  type MediaSize,
  type RowMedia,
  type RowSource,
  TokenDataset,
  type TokenRow,
} from './data/token_dataset.js';
export { type DecodeStream, type EncodeOptions, Tokenizer } from './data/tokenizer.js';
export type { DeviceOption } from './device.js';
export type { ComputeDType } from './dtype.js';
export { type ErrorCode, isUserError, VltuneError } from './errors.js';
export {
  type GeneratedToken,
  type GenerateOptions,
  type GenerationResult,
  Generator,
  type GeneratorOptions,
} from './generate/generate.js';
export type { Sampling } from './generate/sampler.js';
export type { RecomputeLevel } from './graph/recompute.js';
export type { Grid } from './models/grid.js';
export { supportedModelTypes } from './models/registry.js';
export type { MediaRun } from './models/rope_positions.js';
export type { GivenOptions } from './options.js';
export type { Accuracy, QuestionEntry } from './report/questions.js';
export { type ReportOptions, type ReportResult, writeReport } from './report/report.js';
export {
  type LrSchedulerType,
  type OptimizerName,
  resolveTrainArgs,
  type SaveStrategy,
  type TrainArgs,
  type TrainOptions,
} from './train/args.js';
export type { LogEntry } from './train/checkpoint.js';
export type { RunHooks } from './train/run.js';
export type { MemoryPlan } from './train/step_plan.js';
export type { TrainEvent } from './train/train_events.js';
export { type PlanReport, plan, type TrainHooks, train } from './train/trainer.js';
export type { TrainResult } from './train/training_loop.js';
export { type DownloadProgress, type ResolveModelOptions, resolveModel } from './weights/hub.js';
export {
  type Adapter,
  type AdapterConfig,
  type AdapterModule,
  type LoraModule,
  readAdapter,
  type WriteAdapterOptions,
  writeAdapter,
} from './weights/lora.js';
export { type MergeOptions, type MergeResult, mergeAdapter } from './weights/merge.js';
export { type QuantizeOptions, type QuantizeResult, quantizeCheckpoint } from './weights/quantize.js';
export type { ModulePattern } from './weights/target_modules.js';
