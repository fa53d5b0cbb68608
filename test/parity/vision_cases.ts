/** Rows with pictures and video, and what transformers + PEFT compute of them (`vision_parity.py`), on a device. */
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { DecoderSession } from '../../lib/generate/decoder_session.js';
import { Graph, type Value } from '../../lib/graph/graph.js';
import { IoBuffers } from '../../lib/graph/io.js';
import { planMemory } from '../../lib/graph/planner.js';
import { Program } from '../../lib/graph/program.js';
import { adaptersOf } from '../../lib/models/adapters.js';
import { FrozenWeights } from '../../lib/models/frozen_weights.js';
import { GraphWeights } from '../../lib/models/graph_weights.js';
import { type Grid, patchesOf } from '../../lib/models/grid.js';
import { ModelFolder } from '../../lib/models/model_folder.js';
import { type MediaRun, ropePositions, writeRopePositions } from '../../lib/models/rope_positions.js';
import { loraName, Trainables } from '../../lib/models/trainables.js';
import { VisionEncoder } from '../../lib/models/vision_encoder.js';
import { featureValues, visionDims, visionInputs, writeVisionInputs } from '../../lib/models/vision_io.js';
import { addon, type Device } from '../../lib/native.js';
import { attention } from '../../lib/ops/attention.js';
import { cast, selectRows } from '../../lib/ops/elementwise.js';
import { linear } from '../../lib/ops/linear.js';
import type { MicroBatch } from '../../lib/train/micro_batch.js';
import { OptimizerLayout } from '../../lib/train/optimizer.js';
import type { StepMedia } from '../../lib/train/passes.js';
import { TrainingStep } from '../../lib/train/training_step.js';
import { bf16ToF32 } from '../../lib/weights/float16.js';
import { readAdapter } from '../../lib/weights/lora.js';
import { distance, MODEL, PARITY, readFloats, readJson, relative } from './fixtures.js';

const GRADIENT_BOUND = 1e-4;
const LOSS_BOUND = 1e-5;
const FEATURE_BOUND = 1e-5;
/** Once weights have moved. */
const UPDATED_BOUND = 2e-5;
const LIMITS = { maxPatches: 512, maxFrames: 16 };
const MERGE = 2;

interface Medium {
  readonly kind: 'image' | 'video';
  readonly grid: Grid;
  readonly starts: readonly number[];
  readonly number: number;
}

export interface Row {
  readonly ids: readonly number[];
  /** Labels are the ids from here on. */
  readonly first: number;
  readonly media: readonly Medium[];
}

export interface Case {
  readonly rows: readonly Row[];
  /** Of each row, tokens whose logits are stored. */
  readonly logits_at: readonly (readonly [number, number])[];
  readonly rope: readonly { readonly positions: readonly (readonly number[])[]; readonly next: number }[];
  readonly loss: number;
}

export const CASES: Readonly<Record<string, Case>> = readJson<{ cases: Record<string, Case> }>('vision.json').cases;

/** The formula of `vision_parity.py`. */
function pixels(number: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => ((i * 7919 + number * 104729) % 2003) / 1001 - 1);
}

export function runsOf({ media }: Row): MediaRun[] {
  return media.flatMap(({ grid: [, h, w], starts }) => starts.map((start) => ({ start, height: h / MERGE, width: w / MERGE })));
}

/** Rows side by side. */
function packed(
  rows: readonly Row[],
  patchWidth: number,
): MicroBatch & { media: { patches: [Float32Array]; grids: Grid[]; rows: Int32Array } } {
  const total = rows.reduce((sum, row) => sum + row.ids.length, 0);
  const positions = new Int32Array(3 * total);
  const targets = new Int32Array(total).fill(-100);
  const bounds = [0];
  const mediaRows: number[] = [];
  for (const row of rows) {
    const at = bounds.at(-1)!;
    writeRopePositions({ positions, total }, at, row.ids.length, runsOf(row));
    for (let i = Math.max(row.first, 1); i < row.ids.length; i++) targets[at + i - 1] = row.ids[i]!;
    for (const { start, height, width } of runsOf(row)) for (let i = 0; i < height * width; i++) mediaRows.push(at + start + i);
    bounds.push(at + row.ids.length);
  }
  const media = rows.flatMap((row) => row.media);
  const patches = media.flatMap(({ number, grid }) => [...pixels(number, patchesOf([grid]) * patchWidth)]);
  return {
    ids: Int32Array.from(rows.flatMap((row) => row.ids)),
    targets,
    positions,
    bounds: Int32Array.from(bounds),
    media: { patches: [Float32Array.from(patches)], grids: media.map(({ grid }) => grid), rows: Int32Array.from(mediaRows) },
  };
}

function targetsOf({ targets }: MicroBatch): number {
  return targets.reduce((count, target) => count + (target === -100 ? 0 : 1), 0);
}

interface Setup {
  readonly folder: ModelFolder;
  readonly frozen: FrozenWeights;
  readonly trainables: Trainables;
  readonly batch: ReturnType<typeof packed>;
}

async function withModel<T>(
  device: Device,
  rows: readonly Row[],
  make: (folder: ModelFolder) => Promise<Trainables>,
  use: (setup: Setup) => Promise<T>,
  dtype: 'f32' | 'bf16' = 'f32',
): Promise<T> {
  const folder = await ModelFolder.open(MODEL);
  const trainables = await make(folder);
  const skip = (name: string) => trainables.layout.get(name) !== undefined;
  const frozen = new FrozenWeights(folder, { device, dtype, loadIn4bit: false, doubleQuant: false, vision: true, skip });
  try {
    await frozen.load();
    return await use({ folder, frozen, trainables, batch: packed(rows, folder.spec.vision!.shape.patchWidth) });
  } finally {
    frozen.release();
    folder.close();
  }
}

/** The adapters of tower and language model, or of the language model alone. */
async function adapted(folder: ModelFolder, vision: boolean): Promise<Trainables> {
  const adapter = await readAdapter(join(PARITY, 'adapter-vision'));
  const tensors = new Map([...adapter.tensors].filter(([module]) => vision || !module.startsWith('model.visual')));
  return adaptersOf(folder.spec, { ...adapter, tensors }, 0, { vision });
}

async function withStep<T>(
  { folder, frozen, trainables }: Setup,
  device: Device,
  media: StepMedia,
  gradientCheckpointing: boolean,
  use: (step: TrainingStep) => Promise<T>,
): Promise<T> {
  const step = new TrainingStep(folder.spec, frozen, trainables, new OptimizerLayout(trainables.layout, 'adamw_torch'), {
    dtype: 'f32',
    device,
    maxTokens: 256,
    maxSequences: 8,
    maxGradNorm: 1,
    gradientCheckpointing,
    media,
  });
  try {
    step.allocate();
    if (trainables.mode === 'lora') {
      for (const [module, { a, b }] of (await readAdapter(join(PARITY, 'adapter-vision'))).tensors) {
        if (!trainables.layout.get(loraName(module, 'A'))) continue;
        step.writeParameter(loraName(module, 'A'), a);
        step.writeParameter(loraName(module, 'B'), b);
      }
    } else {
      for (const [name, values] of await readFloats(join(MODEL, 'model.safetensors')))
        if (trainables.layout.get(name)) step.writeParameter(name, values);
    }
    return await use(step);
  } finally {
    step.release();
  }
}

interface Pass {
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

async function pass(step: TrainingStep, batch: MicroBatch, trainables: Trainables): Promise<Pass> {
  const scale = 1 / targetsOf(batch);
  const loss = await step.evaluate(batch, scale);
  await step.microStep(batch, scale, [0, 0]);
  return { loss, gradients: new Map(trainables.layout.parameters.map(({ name }) => [name, step.readGradient(name)])) };
}

/** Loss and all gradients of a case, the tower in the step. */
export function trainCase(name: string, device: Device, gradientCheckpointing = false): Promise<Pass> {
  return withModel(
    device,
    CASES[name]!.rows,
    (folder) => adapted(folder, true),
    (setup) =>
      withStep(setup, device, { from: 'patches', ...LIMITS }, gradientCheckpointing, (step) =>
        pass(step, setup.batch, setup.trainables),
      ),
  );
}

function checkGradients(t: ExecutionContext, got: Pass, expected: ReadonlyMap<string, Float32Array>): void {
  for (const [tensor, gradient] of expected) {
    const mine = got.gradients.get(tensor.replace('base_model.model.', ''));
    if (!tensor.startsWith('base_model.')) continue;
    t.truthy(mine, `${tensor} has no gradient`);
    const apart = distance(mine!, gradient);
    t.true(apart < GRADIENT_BOUND, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
  }
}

export async function checkTraining(t: ExecutionContext, name: string, device: Device): Promise<void> {
  const expected = await readFloats(join(PARITY, `vision-${name}.safetensors`));
  const got = await trainCase(name, device);
  const { loss } = CASES[name]!;
  t.true(relative(got.loss, loss) < LOSS_BOUND, `loss ${got.loss}, expected ${loss}`);
  checkGradients(t, got, expected);
  // Without pictures nothing arrives in the tower.
  for (const [tensor, gradient] of got.gradients)
    if (!expected.has(`base_model.model.${tensor}`))
      t.true(
        gradient.every((value) => value === 0),
        tensor,
      );
}

/** The tower's features and logits at some tokens. */
export async function checkForward(t: ExecutionContext, name: string, device: Device): Promise<void> {
  const { rows, logits_at } = CASES[name]!;
  const expected = await readFloats(join(PARITY, `vision-${name}.safetensors`));
  await withModel(
    device,
    rows,
    (folder) => adapted(folder, true),
    async ({ folder, frozen, trainables, batch }) => {
      const { text, vision, head } = folder.spec;
      const { shape } = vision!;
      const adapter = await readAdapter(join(PARITY, 'adapter-vision'));
      const bounds = [...batch.bounds];
      const places = Int32Array.from(logits_at.flatMap((pair, row) => pair.map((at) => bounds[row]! + at)));
      const graph = new Graph({
        tokens: batch.ids.length,
        bounds: bounds.length,
        picked: places.length,
        ...visionDims(shape, LIMITS),
      });
      const weights = new GraphWeights(graph, frozen, trainables, null);
      const input = (input: string, ...dims: (number | string)[]) => graph.value('io', input, 'i32', dims);
      const made = vision!.forward(graph, weights, visionInputs(graph, shape, 'f32'));
      const at = input('bounds', 'bounds');
      const heads = { heads: text.heads, kvHeads: text.kvHeads, headDim: text.headDim, causal: true };
      const hidden = folder.spec.forward(graph, weights, {
        ids: input('ids', 'tokens'),
        positions: input('positions', 3, 'tokens'),
        dtype: 'f32',
        attend: (_layer, q, k, v) => attention(graph, q, k, v, at, heads).o,
        media: { rows: input('media_rows', 'features'), ...made },
      });
      const logits = linear(graph, selectRows(graph, hidden, input('picked', 'picked')), { weight: weights.tensor(head) }).y;
      const kept = featureValues(graph, shape, 'f32');
      const results = new Map<string, readonly [from: Value, to: Value]>([
        ['features.embeddings', [made.embeddings, kept.embeddings]],
        ...made.deepstack.map((feature, i) => [`features.deepstack.${i}`, [feature, kept.deepstack[i]!]] as const),
        ['logits', [logits, graph.value('io', 'logits', 'f32', ['picked', text.vocabSize])]],
      ]);
      for (const [from, into] of results.values()) cast(graph, from, { into });

      const plan = planMemory(graph, device);
      const io = new IoBuffers([graph]);
      io.allocate(device);
      const arena = addon().allocate(plan.arenaBytes, device);
      const params = addon().allocate(trainables.layout.elements * 4, device);
      for (const [module, { a, b }] of adapter.tensors) {
        addon().write(params, trainables.layout.get(loraName(module, 'A'))!.offset * 4, a);
        addon().write(params, trainables.layout.get(loraName(module, 'B'))!.offset * 4, b);
      }
      const placeOf = (value: Value) =>
        value.kind === 'io'
          ? io.place(value)
          : value.kind === 'param'
            ? { storage: params, offset: trainables.layout.get(value.name)!.offset * 4 }
            : frozen.place(value.name);
      const outside = graph.values.filter((value) => value.kind !== 'arena');
      const program = Program.compile(graph, plan, arena, new Map(outside.map((value) => [value, placeOf(value)])));
      try {
        for (const key of ['ids', 'positions', 'bounds'] as const) io.write(key, batch[key]);
        io.write('media_rows', batch.media.rows);
        io.write('picked', places);
        const lengths = writeVisionInputs(io, shape, batch.media);
        io.flush();
        await program.run({ tokens: batch.ids.length, bounds: bounds.length, picked: places.length, ...lengths });
        for (const [result, [, into]] of results) {
          const wanted = expected.get(result);
          if (!wanted) continue; // features of no pictures
          const apart = distance(io.read(into.name, new Float32Array(wanted.length)), wanted);
          t.true(apart < FEATURE_BOUND, `${result}: ${apart.toExponential(2)} of its norm apart`);
        }
      } finally {
        program.release();
        io.release();
        for (const storage of [arena, params]) addon().release(storage);
      }
    },
  );
}

/** The language model on features that an encoder made by itself has the loss and gradients of the model as a whole. */
export async function checkSplit(t: ExecutionContext, name: string, device: Device): Promise<void> {
  const make = (folder: ModelFolder) => adapted(folder, false);
  await withModel(device, CASES[name]!.rows, make, async (setup) => {
    const { folder, frozen, trainables, batch } = setup;
    const frozenTower = (media: StepMedia, use: (step: TrainingStep) => Promise<Pass>) =>
      withStep(setup, device, media, false, use);
    const whole = await frozenTower({ from: 'patches', ...LIMITS }, (step) => pass(step, batch, trainables));
    const encoder = new VisionEncoder(folder.spec.vision!, frozen, { device, dtype: 'f32', ...LIMITS });
    try {
      encoder.allocate();
      const features = await encoder.encode(batch.media);
      const { rows, grids } = batch.media;
      const split = await frozenTower({ from: 'features', ...LIMITS }, (step) =>
        pass(step, { ...batch, media: { rows, grids, features } }, trainables),
      );
      t.is(split.loss, whole.loss);
      for (const [tensor, gradient] of whole.gradients) t.deepEqual(split.gradients.get(tensor), gradient, tensor);
    } finally {
      encoder.release();
    }
  });
}

/** The encoder with the adapters that a training step holds makes the features of transformers and PEFT. */
export async function checkEncoder(t: ExecutionContext, name: string, device: Device): Promise<void> {
  const expected = await readFloats(join(PARITY, `vision-${name}.safetensors`));
  const make = (folder: ModelFolder) => adapted(folder, true);
  await withModel(device, CASES[name]!.rows, make, (setup) =>
    withStep(setup, device, { from: 'patches', ...LIMITS }, false, async (step) => {
      const { folder, frozen, trainables, batch } = setup;
      const adapters = { trainables, place: (parameter: string) => step.parameterPlace(parameter) };
      const encoder = new VisionEncoder(folder.spec.vision!, frozen, { device, dtype: 'f32', ...LIMITS, adapters });
      try {
        encoder.allocate();
        const [embeddings, ...deepstack] = (await encoder.encode(batch.media)).map((bytes) => new Float32Array(bytes.buffer));
        t.true(distance(embeddings!, expected.get('features.embeddings')!) < FEATURE_BOUND);
        for (const [i, feature] of deepstack.entries())
          t.true(distance(feature, expected.get(`features.deepstack.${i}`)!) < FEATURE_BOUND, `deepstack ${i}`);
      } finally {
        encoder.release();
      }
    }),
  );
}

/** Full fine-tuning with the tower: gradients of positions, patches, norms and biases. */
export async function checkFull(t: ExecutionContext, device: Device): Promise<void> {
  const { full } = readJson<{ full: Pick<Case, 'rows' | 'loss'> }>('vision.json');
  const expected = await readFloats(join(PARITY, 'vision-full.safetensors'));
  const make = async (folder: ModelFolder) => Trainables.full(folder.spec, { vision: true });
  await withModel(device, full.rows, make, (setup) =>
    withStep(setup, device, { from: 'patches', ...LIMITS }, false, async (step) => {
      const got = await pass(step, setup.batch, setup.trainables);
      t.true(relative(got.loss, full.loss) < LOSS_BOUND, `loss ${got.loss}, expected ${full.loss}`);
      const { spec } = setup.folder;
      const everyRow = (name: string, width: number, every: number): Float32Array => {
        const all = got.gradients.get(name)!;
        const rows = Array.from({ length: all.length / width / every }, (_, i) => [
          ...all.subarray(i * every * width, (i * every + 1) * width),
        ]);
        return Float32Array.from(rows.flat());
      };
      for (const [tensor, gradient] of expected) {
        const mine =
          tensor === 'patch_embed.rows'
            ? everyRow('model.visual.patch_embed.proj.weight', spec.vision!.shape.patchWidth, 8)
            : tensor === 'embed_tokens.rows'
              ? everyRow(spec.embedding, spec.text.hiddenSize, 16)
              : got.gradients.get(tensor)!;
        const apart = distance(mine, gradient);
        t.true(apart < GRADIENT_BOUND, `${tensor}: ${apart.toExponential(2)} of its norm apart`);
      }
    }),
  );
}

interface Updates {
  readonly learning_rate: number;
  readonly weight_decay: number;
  readonly cases: readonly string[];
  readonly steps: readonly { readonly loss: number; readonly grad_norm: number }[];
}

/** Updates over the cases in turn: loss and gradient norm of each. */
export async function checkUpdates(t: ExecutionContext, device: Device): Promise<void> {
  const { updates } = readJson<{ updates: Updates }>('vision.json');
  const make = (folder: ModelFolder) => adapted(folder, true);
  await withModel(device, [], make, (setup) =>
    withStep(setup, device, { from: 'patches', ...LIMITS }, false, async (step) => {
      const { patchWidth } = setup.folder.spec.vision!.shape;
      const batches = updates.cases.map((name) => packed(CASES[name]!.rows, patchWidth));
      for (const [i, want] of updates.steps.entries()) {
        const batch = batches[i % batches.length]!;
        await step.microStep(batch, 1 / targetsOf(batch), [0, 0]);
        const got = await step.update({
          learningRate: updates.learning_rate,
          beta1: 0.9,
          beta2: 0.999,
          epsilon: 1e-8,
          weightDecay: updates.weight_decay,
          step: i + 1,
        });
        const bound = i === 0 ? LOSS_BOUND : UPDATED_BOUND;
        t.true(relative(got.loss, want.loss) < bound, `update ${i + 1}: loss ${got.loss}, expected ${want.loss}`);
        t.true(
          relative(got.gradNorm, want.grad_norm) < GRADIENT_BOUND,
          `update ${i + 1}: norm ${got.gradNorm}, expected ${want.grad_norm}`,
        );
      }
    }),
  );
}

/** A session that reads a row with its features says what transformers says after it: the best word each time, none twice. */
export async function checkGreedy(t: ExecutionContext, device: Device): Promise<void> {
  const { greedy } = readJson<{ greedy: Record<string, { row: Row; token_ids: number[] }> }>('vision.json');
  const make = (folder: ModelFolder) => adapted(folder, true);
  for (const [name, { row, token_ids }] of Object.entries(greedy)) {
    await withModel(device, [row], make, async ({ folder, frozen, trainables, batch }) => {
      const { spec } = folder;
      const params = addon().allocate(trainables.layout.elements * 4, device);
      const placeOf = (parameter: string) => ({ storage: params, offset: trainables.layout.get(parameter)!.offset * 4 });
      for (const [module, { a, b }] of (await readAdapter(join(PARITY, 'adapter-vision'))).tensors) {
        addon().write(params, placeOf(loraName(module, 'A')).offset, a);
        addon().write(params, placeOf(loraName(module, 'B')).offset, b);
      }
      const options = { device, dtype: 'f32' } as const;
      const encoder = new VisionEncoder(spec.vision!, frozen, {
        ...options,
        ...LIMITS,
        adapters: { trainables, place: placeOf },
      });
      const session = new DecoderSession(spec, frozen, trainables, params, { ...options, capacity: 640, media: true });
      try {
        encoder.allocate();
        const { positions, next } = ropePositions(row.ids.length, runsOf(row));
        const features = await encoder.encode(batch.media);
        await session.prefill(row.ids, undefined, { positions, next, rows: batch.media.rows, features });
        const said: number[] = [];
        while (said.length < token_ids.length) {
          const logits = session.logits();
          for (const token of said) logits[token] = Number.NEGATIVE_INFINITY;
          said.push(logits.indexOf(logits.reduce((most, value) => Math.max(most, value))));
          await session.prefill(said.slice(-1));
        }
        t.deepEqual(said, token_ids, name);
      } finally {
        session.release();
        encoder.release();
        addon().release(params);
      }
    });
  }
}

/** In bf16 the tower's features are no further from F32 than 1.25 times those of transformers. */
export async function checkBf16Features(t: ExecutionContext, device: Device): Promise<void> {
  const { bf16 } = readJson<{ bf16: { case: string; errors: Record<string, number> } }>('vision.json');
  const exact = await readFloats(join(PARITY, 'vision-bf16.safetensors'));
  const make = async () => Trainables.none();
  await withModel(
    device,
    CASES[bf16.case]!.rows,
    make,
    async ({ folder, frozen, batch }) => {
      const encoder = new VisionEncoder(folder.spec.vision!, frozen, { device, dtype: 'bf16', ...LIMITS });
      try {
        encoder.allocate();
        const encoded = await encoder.encode(batch.media);
        for (const [i, name] of ['features.embeddings', 'features.deepstack.0'].entries()) {
          const values = new Float32Array(exact.get(name)!.length);
          bf16ToF32(new Uint16Array(encoded[i]!.buffer), values);
          const [mine, reference] = [distance(values, exact.get(name)!), bf16.errors[name]!];
          t.log(`${name}: ${mine.toExponential(2)} of the norm apart, transformers ${reference.toExponential(2)}`);
          t.true(mine <= 1.25 * reference, name);
        }
      } finally {
        encoder.release();
      }
    },
    'bf16',
  );
}

export async function checkMisfits(t: ExecutionContext): Promise<void> {
  const make = (folder: ModelFolder) => adapted(folder, true);
  await withModel('cpu', CASES.one!.rows, make, (setup) =>
    withStep(setup, 'cpu', { from: 'patches', ...LIMITS }, false, async (step) => {
      const { batch } = setup;
      const { media } = batch;
      const refused = (part: Partial<typeof media>, message: RegExp) =>
        t.throwsAsync(step.evaluate({ ...batch, media: { ...media, ...part } }, 1), { code: 'ERR_SHAPE', message });
      await refused({ patches: [media.patches[0].subarray(1)] }, /call for 24 patches of 1536 numbers, got 36863 numbers/);
      await refused({ rows: media.rows.subarray(1) }, /5 tokens stand for pictures that have 6 features/);
    }),
  );
}
