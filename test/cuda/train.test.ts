/** Whole runs on a GPU: parity with transformers and PEFT, the same bytes each time, recomputation, kills. */
import { join } from 'node:path';
import { plan, train } from '../../lib/index.js';
import { addon } from '../../lib/native.js';
import { quantizeCheckpoint } from '../../lib/weights/quantize.js';
import { FIXTURES, readJson, type Trace } from '../parity/fixtures.js';
import { checkRun, MEDIA_RUNS, mediaRows, RUNS } from '../parity/runs.js';
import { checkKilled } from '../train/kill.js';
import { checkLimits } from '../train/limits.js';
import { checkOverflow } from '../train/overflow.js';
import { checkResumed, MODEL, shortRun, temporaryFolder, weightDigest } from '../train/support.js';
import { cuda } from './support.js';

for (const name of Object.keys(RUNS)) {
  cuda(`each update of ${name} on a GPU, and the weights at its end, are those of transformers and PEFT`, async (t) => {
    t.timeout(300_000);
    const { options } = readJson<Trace>(`${name}.json`);
    if (!options.loadIn4bit) return await checkRun(t, name, { device: 'cuda' });
    // The trace's scales were quantised on the CPU; a GPU finds some codes otherwise, as bitsandbytes does.
    const model = join(temporaryFolder(t), 'nf4');
    await quantizeCheckpoint({ model: MODEL, outputDir: model, device: 'cpu' });
    return await checkRun(t, name, { device: 'cuda', model });
  });
}

for (const name of Object.keys(MEDIA_RUNS)) {
  cuda(`each update of ${name} on a GPU, over rows with pictures and videos, is that of transformers and PEFT`, async (t) => {
    t.timeout(300_000);
    await checkRun(t, name, { device: 'cuda', ...mediaRows(t) });
  });
}

cuda('a run over pictures on a GPU is the same bytes with and without features kept', async (t) => {
  const folder = temporaryFolder(t);
  const run = (name: string, visionCache: number) =>
    train(shortRun(join(folder, name), { device: 'cuda', saveStrategy: 'no', maxLength: 200, visionCache, ...mediaRows(t) }));
  await run('kept', 2e9);
  await run('anew', 0);
  t.is(weightDigest(join(folder, 'anew')), weightDigest(join(folder, 'kept')));
});

for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
  cuda(`a run on a GPU, twice, and with everything recomputed, is the same bytes, ${dtype}`, async (t) => {
    const folder = temporaryFolder(t);
    const variants = { first: {}, second: {}, recomputed: { gradientCheckpointing: true } };
    for (const [name, more] of Object.entries(variants))
      await train(shortRun(join(folder, name), { device: 'cuda', dtype, maxSteps: 6, saveStrategy: 'no', ...more }));
    const expected = weightDigest(join(folder, 'first'));
    t.is(weightDigest(join(folder, 'second')), expected, 'second');
    t.is(weightDigest(join(folder, 'recomputed')), expected, 'recomputed');
  });
}

for (const dtype of ['bfloat16', 'float16'] as const)
  cuda(`a run on a GPU that was stopped goes on from its checkpoint to the same bytes, ${dtype}`, (t) =>
    checkResumed(t, { device: 'cuda', dtype }),
  );

cuda('losses in float16 are near those in F32, update by update', async (t) => {
  const folder = temporaryFolder(t);
  const losses = async (dtype: 'float32' | 'float16'): Promise<number[]> => {
    const seen: number[] = [];
    const options = { device: 'cuda', dtype, loadIn4bit: false, optim: 'adamw_torch', maxSteps: 20, saveStrategy: 'no' } as const;
    await train(shortRun(join(folder, dtype), options), {
      onEvent: (event) => event.event === 'step' && seen.push(event.loss),
    });
    return seen;
  };
  const [full, half] = [await losses('float32'), await losses('float16')];
  t.is(half.length, 20);
  for (const [i, loss] of full.entries()) t.true(Math.abs(half[i]! - loss) < 5e-3 * loss, `update ${i + 1}: ${half[i]}, ${loss}`);
});

cuda('in float16 an update whose gradient is too large changes nothing but the scale', (t) => checkOverflow(t, 'cuda'));

cuda('killed at random moments on a GPU and resumed, a run ends in the bytes of one that was left alone', (t) =>
  checkKilled(t, 'cuda'),
);

cuda('full fine-tuning on a GPU gives the losses of the CPU', async (t) => {
  const folder = temporaryFolder(t);
  const losses = async (device: 'cpu' | 'cuda'): Promise<number[]> => {
    const seen: number[] = [];
    await train(
      {
        ...shortRun(join(folder, device), { device, dtype: 'float32', fullFinetuning: true, maxSteps: 4, saveStrategy: 'no' }),
        loraR: undefined,
        loraDropout: undefined,
      },
      { onEvent: (event) => event.event === 'step' && seen.push(event.loss) },
    );
    return seen;
  };
  const [cpu, gpu] = [await losses('cpu'), await losses('cuda')];
  t.is(gpu.length, 4);
  for (const [i, loss] of cpu.entries()) t.true(Math.abs(gpu[i]! - loss) < 1e-3 * loss, `update ${i + 1}: ${gpu[i]}, ${loss}`);
});

cuda('a limit moves layers and the residual stream out of the card, and changes no bit of a gradient', (t) =>
  checkLimits(t, 'cuda'),
);

cuda('an embedding table on the host gives the bytes of one on the card', async (t) => {
  const folder = temporaryFolder(t);
  const untied = {
    device: 'cuda',
    model: join(FIXTURES, 'qwen3vl-tiny-variants', 'untied'),
    maxSteps: 4,
    saveStrategy: 'no',
  } as const;
  for (const embeddingOnHost of [false, true])
    await train(shortRun(join(folder, String(embeddingOnHost)), { ...untied, embeddingOnHost }));
  t.is(weightDigest(join(folder, 'true')), weightDigest(join(folder, 'false')));
});

cuda('what a run takes of the card is what was planned, and all of it is given back', async (t) => {
  const folder = temporaryFolder(t);
  const before = addon().memory('cuda').current;
  const options = shortRun(join(folder, 'run'), { device: 'cuda', maxSteps: 2, saveStrategy: 'no' });
  const { kinds } = await plan(options);
  addon().resetPeak('cuda');
  await train(options);
  const { current, peak } = addon().memory('cuda');
  t.is(current, before);
  t.true(peak - before <= 1.1 * kinds.total + 2 ** 28, `${peak - before} bytes at most, ${kinds.total} planned`);
});

cuda('a limit below what the card holds already says what can be done', async (t) => {
  const error = await t.throwsAsync(plan(shortRun(join(temporaryFolder(t), 'run'), { device: 'cuda', memory: '1MiB' })), {
    code: 'ERR_OUT_OF_MEMORY',
  });
  const said =
    /^--memory 1 MiB, of which the driver and other programs have (\d+) MiB: the least that trains this is (\d+) MiB .* or raise --memory to (\d+)MiB\.$/;
  t.regex(error!.message, said);
  const [held, least, enough] = said.exec(error!.message)!.slice(1).map(Number) as [number, number, number];
  t.true(Math.abs(enough - (held + least)) <= 1, error!.message);
});
