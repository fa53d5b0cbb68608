import test from 'ava';
import { differentiate } from '../../lib/graph/gradient.js';
import { Graph, type Value } from '../../lib/graph/graph.js';
import { planMemory } from '../../lib/graph/planner.js';
import { type Place, Program } from '../../lib/graph/program.js';
import { RECOMPUTE_LEVELS, type RecomputeLevel, recompute } from '../../lib/graph/recompute.js';
import { addon, type Storage } from '../../lib/native.js';
import { attention } from '../../lib/ops/attention.js';
import { embedding } from '../../lib/ops/embedding.js';
import { GRADIENT_RULES } from '../../lib/ops/gradients.js';
import { linear } from '../../lib/ops/linear.js';
import { linearCrossEntropy } from '../../lib/ops/linear_cross_entropy.js';
import { qkNormRope, ropeTable } from '../../lib/ops/qk_norm_rope.js';
import { rmsNorm } from '../../lib/ops/rms_norm.js';
import { swiglu } from '../../lib/ops/swiglu.js';
import { MersenneTwister } from '../../lib/random.js';

const TOKENS = 12;
const HIDDEN = 32;
const HEADS = { heads: 4, kvHeads: 2, headDim: 8, causal: true };

/** Two decoder layers with every parameter trained: each op and each gradient rule takes part. */
class Tiny {
  readonly graph = new Graph({ tokens: 16, bounds: 4 });
  readonly parameters = new Map<string, Value>();
  readonly gradients = new Map<Value, Value>();

  constructor(level: RecomputeLevel) {
    const { graph } = this;
    const io = (name: string, dtype: 'i32' | 'f32', ...shape: (number | string)[]) => graph.value('io', name, dtype, shape);
    const bounds = io('bounds', 'i32', 'bounds');
    const rope = ropeTable(graph, io('positions', 'i32', 3, 'tokens'), {
      headDim: 8,
      theta: 10000,
      sections: [2, 1, 1],
      interleaved: true,
    });
    let delta = embedding(graph, io('ids', 'i32', 'tokens'), this.#parameter('embedding', 20, HIDDEN), 'f32');
    let residual: Value | null = null;
    const norm = (name: string): Value => {
      const { y, sum } = rmsNorm(graph, delta, this.#parameter(name, HIDDEN), 1e-6, residual);
      residual = sum ?? delta;
      return y;
    };
    const project = (x: Value, name: string, out: number, width: number): Value =>
      linear(graph, x, {
        weight: this.#parameter(name, out, width),
        bias: this.#parameter(`${name} bias`, out),
        lora: {
          a: this.#parameter(`${name} A`, 4, width),
          b: this.#parameter(`${name} B`, out, 4),
          scale: 2,
          dropout: 0,
          site: 0,
        },
      }).y;
    for (let layer = 0; layer < 2; layer++) {
      const x = norm(`norm 1 ${layer}`);
      const head = { headDim: 8, eps: 1e-6 };
      const q = qkNormRope(graph, project(x, `q ${layer}`, 32, HIDDEN), this.#parameter(`q norm ${layer}`, 8), rope, head).y;
      const k = qkNormRope(graph, project(x, `k ${layer}`, 16, HIDDEN), this.#parameter(`k norm ${layer}`, 8), rope, head).y;
      const o = attention(graph, q, k, project(x, `v ${layer}`, 16, HIDDEN), bounds, HEADS).o;
      delta = project(o, `o ${layer}`, HIDDEN, 32);
      const z = norm(`norm 2 ${layer}`);
      const mlp = swiglu(graph, project(z, `gate ${layer}`, 24, HIDDEN), project(z, `up ${layer}`, 24, HIDDEN));
      delta = project(mlp, `down ${layer}`, HIDDEN, 24);
    }
    const operands = {
      x: norm('last norm'),
      weight: this.parameters.get('embedding')!,
      targets: io('targets', 'i32', 'tokens'),
      lossScale: io('loss_scale', 'f32', 1),
    };
    linearCrossEntropy(graph, operands, { into: io('loss', 'f32', 1) });
    const forwardOps = graph.ops.length;
    for (const [name, value] of this.parameters) this.gradients.set(value, graph.value('grad', name, 'f32', value.shape));
    differentiate(graph, this.gradients, GRADIENT_RULES);
    recompute(graph, forwardOps, level);
  }

  #parameter(name: string, ...shape: number[]): Value {
    const value = this.graph.value('param', name, 'f32', shape);
    this.parameters.set(name, value);
    return value;
  }
}

class Running {
  readonly #tiny: Tiny;
  readonly #program: Program;
  readonly #storages = new Map<Value, Storage>();
  readonly #io = new Map<string, Storage>();
  readonly arenaBytes: number;

  constructor(level: RecomputeLevel) {
    this.#tiny = new Tiny(level);
    const { graph } = this.#tiny;
    const random = new MersenneTwister(7);
    const places = new Map<Value, Place>();
    for (const value of graph.values) {
      if (value.kind === 'arena') continue;
      const count = value.shape.reduce<number>((product, dim) => product * (typeof dim === 'number' ? dim : graph.dims[dim]!), 1);
      const storage = addon().allocate(count * 4, 'cpu');
      this.#storages.set(value, storage);
      places.set(value, { storage, offset: 0 });
      if (value.kind === 'io') this.#io.set(value.name, storage);
      if (value.kind === 'param') {
        const norm = value.name.includes('norm');
        this.set(
          value.name,
          Float32Array.from({ length: count }, () => (norm ? 1 : 0) + (random.uniform() - 0.5) * 0.4),
        );
      }
    }
    const plan = planMemory(graph);
    this.arenaBytes = plan.arenaBytes;
    this.#program = Program.compile(graph, plan, addon().allocate(plan.arenaBytes, 'cpu'), places);
    const write = (name: string, data: Int32Array | Float32Array) => addon().write(this.#io.get(name)!, 0, data);
    write(
      'ids',
      Int32Array.from({ length: TOKENS }, (_, i) => (i * 7) % 20),
    );
    write(
      'targets',
      Int32Array.from({ length: TOKENS }, (_, i) => (i % 5 === 4 ? -100 : (i * 3) % 20)),
    );
    write(
      'positions',
      Int32Array.from({ length: 3 * TOKENS }, (_, i) => (i % TOKENS < 7 ? i % TOKENS : (i % TOKENS) - 7)),
    );
    write('bounds', Int32Array.of(0, 7, TOKENS));
    write('loss_scale', Float32Array.of(0.1));
  }

  get(name: string): Float32Array {
    const value = this.#tiny.parameters.get(name)!;
    return this.#read(this.#storages.get(value)!, value);
  }

  set(name: string, data: Float32Array): void {
    addon().write(this.#storages.get(this.#tiny.parameters.get(name)!)!, 0, data);
  }

  gradient(name: string): Float32Array {
    const value = this.#tiny.gradients.get(this.#tiny.parameters.get(name)!)!;
    return this.#read(this.#storages.get(value)!, value);
  }

  get names(): string[] {
    return [...this.#tiny.parameters.keys()];
  }

  /** The loss; gradients are cleared first. */
  async run(): Promise<number> {
    addon().write(this.#io.get('loss')!, 0, new Float32Array(1));
    for (const name of this.names) {
      const value = this.#tiny.gradients.get(this.#tiny.parameters.get(name)!)!;
      addon().write(this.#storages.get(value)!, 0, new Float32Array(this.gradient(name).length));
    }
    await this.#program.run({ tokens: TOKENS, bounds: 3 });
    const loss = new Float32Array(1);
    addon().read(this.#io.get('loss')!, 0, loss);
    return loss[0]!;
  }

  #read(storage: Storage, value: Value): Float32Array {
    const data = new Float32Array(value.shape.reduce<number>((product, dim) => product * (dim as number), 1));
    addon().read(storage, 0, data);
    return data;
  }
}

test('the gradient of every parameter is that of finite differences', async (t) => {
  const model = new Running('none');
  await model.run();
  const gradients = new Map(model.names.map((name) => [name, model.gradient(name)]));
  const random = new MersenneTwister(11);
  for (const name of model.names) {
    const gradient = gradients.get(name)!;
    const start = model.get(name);
    // Along one random direction for each tensor: every element takes part.
    const direction = Float32Array.from(start, () => random.uniform() - 0.5);
    const expected = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0);
    const h = 0.01;
    const at = async (sign: number) => {
      model.set(
        name,
        start.map((p, i) => p + sign * h * direction[i]!),
      );
      return model.run();
    };
    const measured = ((await at(1)) - (await at(-1))) / (2 * h);
    model.set(name, start);
    const size = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0)) * Math.sqrt(direction.reduce((sum, d) => sum + d * d, 0));
    t.true(Math.abs(measured - expected) <= 0.01 * size + 1e-4, `${name}: ${measured} measured, ${expected} computed`);
    t.true(
      gradient.some((g) => g !== 0),
      `${name} has no gradient at all`,
    );
  }
});

test('recomputation changes memory, and not one bit of a gradient', async (t) => {
  const kept = new Running('none');
  const loss = await kept.run();
  let last = kept.arenaBytes;
  for (const level of RECOMPUTE_LEVELS.slice(1)) {
    const again = new Running(level);
    t.is(await again.run(), loss);
    for (const name of kept.names) t.deepEqual(again.gradient(name), kept.gradient(name), `${level}: ${name}`);
    t.true(again.arenaBytes <= last, `${level} takes ${again.arenaBytes} bytes, the level before ${last}`);
    last = again.arenaBytes;
  }
});

test('a run that is aborted rejects with ERR_CANCELLED', async (t) => {
  const controller = new AbortController();
  controller.abort();
  const graph = new Graph({});
  const program = Program.compile(graph, planMemory(graph), addon().allocate(64, 'cpu'), new Map());
  await t.throwsAsync(program.run({}, controller.signal), { code: 'ERR_CANCELLED' });
});
