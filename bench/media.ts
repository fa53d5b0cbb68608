/**
 * Pictures to patches beside transformers' torchvision processor, on the same cores: from pixels, and from files. The two are sampled in
 * turn, with a Python process that waits in between.
 *
 *     node dist/bench/media.js --python PATH [--threads N] [--time S] [--json]
 *
 * PATH is a Python with torch, torchvision, transformers and Pillow.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { compare, type Timed } from '../lib/bench/harness.js';
import { formatTable } from '../lib/cli/output.js';
import { ImageProcessor } from '../lib/data/media/image_processor.js';
import { PatchArrays } from '../lib/data/media/patch_arrays.js';
import { openImage } from '../lib/data/media/source.js';
import { patchesOf } from '../lib/models/grid.js';
import { addon, PACKAGE_ROOT } from '../lib/native.js';
import { PeerProcess } from './peers/peer_process.js';

const { values: options } = parseArgs({
  options: {
    python: { type: 'string', default: '' },
    threads: { type: 'string', default: String(addon().cpuInfo().threads) },
    time: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
});
if (!existsSync(options.python)) {
  process.stderr.write(`bench/media: --python: expected a Python with torchvision and transformers, got "${options.python}"\n`);
  process.exit(2);
}
const threads = Number(options.threads);

const SIZES = [
  [224, 224],
  [500, 375],
  [640, 480],
  [1024, 768],
  [1920, 1080],
  [4000, 3000],
] as const;
const SOURCES = ['pixels', 'jpeg', 'png', 'webp'] as const;
/** Pictures of one call, and how many of them are under way at a time: as a batch asks for them. */
const PICTURES = 8;
const AT_ONCE = 4;
/** torch's idle threads spin for some milliseconds. */
const SETTLE_SECONDS = 0.02;

const config = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'test/fixtures/qwen3vl-tiny/preprocessor_config.json'), 'utf8'));
delete config.processor_class;
delete config.image_processor_type;
const processor = ImageProcessor.fromConfig(config);
/** As training has them. */
const arrays = new PatchArrays();

/** Calls `work` for each item, a few at a time. */
async function each<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  const left = items.values();
  const take = async () => {
    for (const item of left) await work(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, take));
}

function timed(work: () => Promise<void>): Timed {
  return {
    repeat: (calls) => ({
      async run() {
        const start = performance.now();
        for (let i = 0; i < calls; i++) await work();
        return (performance.now() - start) / 1000;
      },
      release() {},
    }),
  };
}

/** The fixtures' photograph at another size, with the grain of a camera. */
async function write(folder: string, width: number, height: number, kind: 'jpeg' | 'png' | 'webp'): Promise<string> {
  const file = join(folder, `${width}x${height}.${kind}`);
  const noise = {
    create: { width, height, channels: 3, background: '#808080', noise: { type: 'gaussian', mean: 128, sigma: 8 } },
  } as const;
  const grain = await sharp(noise).png().toBuffer();
  await sharp(join(PACKAGE_ROOT, 'test/fixtures/media/photo.png'))
    .resize(width, height, { fit: 'fill', kernel: 'cubic' })
    .composite([{ input: grain, blend: 'soft-light' }])
    .removeAlpha()
    .toFormat(kind, kind === 'png' ? {} : { quality: 90 })
    .toFile(file);
  return file;
}

const folder = mkdtempSync(join(tmpdir(), 'vltune-bench-media-'));
const peer = new PeerProcess(options.python, 'peer_media.py', threads);
addon().setThreads(threads);
const rows: string[][] = [];
try {
  for (const source of SOURCES) {
    for (const [width, height] of SIZES) {
      const file = await write(folder, width, height, source === 'pixels' ? 'png' : source);
      const count = width * height > 2_500_000 ? 2 : PICTURES;
      const files = Array.from({ length: count }, () => file);
      const context = { folder };
      const decoded = await (await openImage(file, context)).decode();
      const numbers = patchesOf([processor.gridOf(width, height)]) * processor.patchLength;
      const kernel = timed(() =>
        each(files, async () => {
          const pixels = source === 'pixels' ? decoded : await (await openImage(file, context)).decode();
          arrays.give((await processor.process(pixels, arrays.take(numbers))).patches);
        }),
      );
      await peer.ask({ case: { files, decode: source !== 'pixels', config } });
      const result = await compare(kernel, peer.timed, { seconds: Number(options.time), settleSeconds: SETTLE_SECONDS });
      const milliseconds = (seconds: number) => (seconds * 1000) / count;
      const [ours, theirs] = [milliseconds(result.kernel.seconds), milliseconds(result.baseline.seconds)];
      const row = {
        event: 'media',
        source,
        width,
        height,
        threads,
        milliseconds: ours,
        peer_milliseconds: theirs,
        ratio: result.timeRatio,
      };
      if (options.json) console.log(JSON.stringify(row));
      rows.push([source, `${width}×${height}`, ours.toFixed(2), theirs.toFixed(2), result.timeRatio.toFixed(2)]);
      process.stderr.write(`${rows.at(-1)!.join('  ')}\n`);
    }
  }
} finally {
  await peer.end();
  rmSync(folder, { recursive: true, force: true });
}
if (!options.json) console.log(formatTable(['from', 'size', 'vltune ms', 'transformers ms', 'times'], rows, [2, 3, 4]));
