import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { timestampText, VideoProcessor } from '../../../lib/data/media/video_processor.js';
import { type OpenedVideo, openVideo } from '../../../lib/data/media/video_source.js';
import { temporaryFolder, throwsCode } from '../fixtures.js';
import { MEDIA, type MediaFixtures, mediaFixtures, photo, sha, tiled } from './fixtures.js';

const { videoConfigs, videos } = mediaFixtures();
const FFMPEG = ['FFMPEG_PATH', 'FFPROBE_PATH'] as const;

/** The frames of a case of the fixtures, as a video that is open. */
async function walk({ frames, width, height, fps }: MediaFixtures['videos'][number]): Promise<OpenedVideo> {
  const picture = await photo();
  return {
    name: 'walk',
    width,
    height,
    frameCount: frames,
    fps,
    sampled: false,
    async *frames(indices) {
      for (const i of indices) yield tiled(picture, width, height, 3 * i, i);
    },
  };
}

for (const [name, config] of Object.entries(videoConfigs)) {
  test(`frames, times and patches are those of transformers' video processor: ${name}`, async (t) => {
    const processor = VideoProcessor.fromConfig(config);
    for (const expected of videos.filter((video) => video.config === name)) {
      const made = await processor.process(await walk(expected));
      const label = `${expected.frames} frames of ${expected.width}×${expected.height}`;
      t.deepEqual(made.indices, expected.indices, label);
      t.deepEqual(made.grid, expected.grid, label);
      t.deepEqual(made.timestamps, expected.timestamps, label);
      t.deepEqual(made.timestamps.map(timestampText), expected.texts, label);
      t.is(sha(made.patches), expected.patches, label);
    }
  });
}

test('a time that lies between two tenths is written as Python writes it', (t) => {
  const texts = [0.25, 0.75, 0.05, 1.25, 2.35, 12.449999].map(timestampText);
  t.deepEqual(texts, ['<0.2 seconds>', '<0.8 seconds>', '<0.1 seconds>', '<1.2 seconds>', '<2.4 seconds>', '<12.4 seconds>']);
});

/** A folder of pictures in which the tenth stands after the ninth. */
async function pictures(t: ExecutionContext, count: number): Promise<string> {
  const folder = join(temporaryFolder(t), 'frames');
  mkdirSync(folder);
  const picture = await photo();
  for (let i = 0; i < count; i++) {
    const { data, width, height } = tiled(picture, 64, 40, 3 * i, i);
    await sharp(data, { raw: { width, height, channels: 3 } })
      .png()
      .toFile(join(folder, `frame${i}.png`));
  }
  return folder;
}

test('a folder or list of pictures is a video whose frames are all used, in their order', async (t) => {
  const folder = await pictures(t, 11);
  const list = Array.from({ length: 11 }, (_, i) => `frame${i}.png`);
  const processor = VideoProcessor.fromConfig(videoConfigs.qwen3!);
  const ofFolder = await processor.process(await openVideo('frames', { folder: join(folder, '..') }));
  const ofList = await processor.process(await openVideo(list, { folder }, { fps: 2 }));
  t.deepEqual(ofFolder.patches, ofList.patches);
  t.deepEqual(ofFolder.indices, [...list.keys()]);
  t.is(ofFolder.grid[0], 6);
  t.deepEqual(ofList.timestamps, [0.25, 1.25, 2.25, 3.25, 4.25, 5]);
  t.is(ofFolder.timestamps[5], 10 / 24, 'transformers takes 24 a second where nothing is said');
});

test('a list is refused where it is empty, or a picture of it is missing or of another size, by name', async (t) => {
  const folder = await pictures(t, 3);
  const context = { folder, place: 'row 5' };
  copyFileSync(join(MEDIA, 'photo.png'), join(folder, 'frame10.png'));
  await throwsCode(t, () => openVideo([], context), 'ERR_BAD_DATA', /^row 5: a list of 0 pictures: there is no picture in it/);
  await throwsCode(t, () => openVideo(['frame0.png', 'x.png'], context), 'ERR_NOT_FOUND', /^row 5: x\.png: no such file/);
  await throwsCode(
    t,
    () => openVideo('.', context),
    'ERR_BAD_DATA',
    /frame10\.png: all frames .* this one is 130×85, the first is 64×40/,
  );
  const one = await openVideo(['frame0.png'], context);
  await throwsCode(
    t,
    async () => VideoProcessor.fromConfig(videoConfigs.qwen3!).plan(one),
    'ERR_BAD_DATA',
    /at least 2 frames, this one has 1/,
  );
});

test('bounds given by the user come before those of the config, and are checked', async (t) => {
  const video = { width: 64, height: 64, frameCount: 100, fps: 10, sampled: false };
  const plan = VideoProcessor.fromConfig(videoConfigs['eight frames']!, { fps: 1, maxFrames: 6, maxPixels: 16384 }).plan(video);
  t.deepEqual(plan.indices, [0, 20, 40, 59, 79, 99]);
  t.deepEqual(plan.grid, [3, 2, 2]);
  const bad = () => VideoProcessor.fromConfig(videoConfigs.qwen3!, { minFrames: 10, maxFrames: 5 });
  await throwsCode(t, async () => bad(), 'ERR_USAGE', /least number of frames \(10\) is above the largest \(5\)/);
  const both = async () => VideoProcessor.fromConfig({ ...videoConfigs.qwen3, fps: 2, num_frames: 8 }, {}, 'v.json');
  await throwsCode(t, both, 'ERR_BAD_CHECKPOINT', /^v\.json: num_frames must be absent where fps is there, got 8/);
});

/** Sets the programs for one test; these tests run one after the other. */
function programs(t: ExecutionContext, ffmpeg: string, ffprobe: string): void {
  const before = FFMPEG.map((name) => process.env[name]);
  t.teardown(() => {
    for (const [i, name] of FFMPEG.entries()) {
      if (before[i] === undefined) delete process.env[name];
      else process.env[name] = before[i];
    }
  });
  Object.assign(process.env, { FFMPEG_PATH: ffmpeg, FFPROBE_PATH: ffprobe });
}

const MP4 = Buffer.from('\0\0\0\x18ftypmp42\0\0\0\0mp42isom', 'latin1');

test.serial('without ffmpeg a video says what to install, and a file that is no video does not come so far', async (t) => {
  programs(t, '/nowhere/ffmpeg', '/nowhere/ffprobe');
  const context = { folder: MEDIA, place: 'row 2' };
  await throwsCode(
    t,
    () => openVideo(MP4, context),
    'ERR_UNSUPPORTED',
    /^row 2: a file of \d+ bytes: videos are read through ffprobe, which was not found: install ffmpeg, .*FFPROBE_PATH/,
  );
  await throwsCode(t, () => openVideo('photo.png', context), 'ERR_BAD_DATA', /photo\.png: the file is PNG: expected a video/);
  await throwsCode(t, () => openVideo('media.json', context), 'ERR_BAD_DATA', /media\.json: the file is of no known kind/);
});

/** A stand-in for both programs, that answers what it was told and notes what it was asked. */
function standIn(
  t: ExecutionContext,
  answers: {
    readonly probe?: object;
    readonly frames?: number;
    readonly error?: string;
    readonly code?: number;
    readonly wait?: number;
  },
): string {
  const folder = temporaryFolder(t);
  const path = join(folder, 'program.cjs');
  writeFileSync(
    path,
    `#!${process.execPath}
const answers = ${JSON.stringify(answers)};
require('node:fs').appendFileSync(__dirname + '/asked', JSON.stringify(process.argv.slice(2)) + '\\n');
if (process.argv.includes('json')) console.log(JSON.stringify({ streams: [answers.probe] }));
else for (let i = 0; i < answers.frames; i++) process.stdout.write(Buffer.alloc(4 * 2 * 3, i));
if (answers.error) console.error(answers.error);
if (answers.wait && !process.argv.includes('json')) setTimeout(() => {}, answers.wait);
process.exitCode = answers.code ?? 0;
`,
    { mode: 0o755 },
  );
  return path;
}

const PROBED = { width: 2, height: 4, avg_frame_rate: '10/1', nb_frames: '50', side_data_list: [{ rotation: -90 }] };

test.serial('a file is asked for its length, turned upright, and for chosen frames alone', async (t) => {
  const program = standIn(t, { probe: PROBED, frames: 3 });
  programs(t, program, program);
  const video = await openVideo(MP4, { folder: '/' });
  t.deepEqual([video.width, video.height, video.frameCount, video.fps], [4, 2, 50, 10]);
  const frames: Uint8Array[] = [];
  for await (const frame of video.frames([0, 7, 7, 20])) frames.push(frame.data);
  t.deepEqual(
    frames.map((data) => data[0]),
    [0, 1, 1, 2],
    'a frame that is wanted twice is decoded once',
  );
  const asked = readFileSync(join(program, '..', 'asked'), 'utf8');
  t.regex(asked, /"-protocol_whitelist","file"/);
  t.regex(asked, /select='eq\(n\\\\,0\)\+eq\(n\\\\,7\)\+eq\(n\\\\,20\)'/);
});

test.serial('a video that breaks, ends early or holds nothing is an error that names it', async (t) => {
  const context = { folder: '/', place: 'row 1' };
  const opens = async (answers: Parameters<typeof standIn>[1]) => {
    const program = standIn(t, answers);
    programs(t, program, program);
    for await (const _ of (await openVideo(MP4, context)).frames([0, 1, 2]));
  };
  const named = (text: string) => new RegExp(`^row 1: a file of 24 bytes: .*${text}`);
  await throwsCode(
    t,
    () => opens({ code: 1, error: 'first\nmoov atom not found' }),
    'ERR_BAD_DATA',
    named('moov atom not found'),
  );
  await throwsCode(t, () => opens({ probe: { ...PROBED, avg_frame_rate: '0/0' } }), 'ERR_BAD_DATA', named('no frame rate'));
  await throwsCode(t, () => opens({ probe: PROBED, frames: 2 }), 'ERR_BAD_DATA', named('of 3 frames of 4×2 .* ffmpeg gave 2'));
});

test.serial('a signal ends ffmpeg and the reading', async (t) => {
  const abort = new AbortController();
  const program = standIn(t, { probe: PROBED, frames: 1, wait: 60_000 });
  programs(t, program, program);
  const video = await openVideo(MP4, { folder: '/', signal: abort.signal });
  const read = async () => {
    for await (const _ of video.frames([0, 1, 2])) abort.abort();
  };
  await throwsCode(t, read, 'ERR_CANCELLED', /cancelled/);
});

let real = true;
try {
  execFileSync(process.env.FFMPEG_PATH ?? 'ffmpeg', ['-version'], { stdio: 'ignore' });
  execFileSync(process.env.FFPROBE_PATH ?? 'ffprobe', ['-version'], { stdio: 'ignore' });
} catch {
  real = false;
}

(real ? test.serial : test.skip)(
  'frames of a lossless file, read by the ffmpeg of this machine, are the pictures it was made of',
  async (t) => {
    const folder = await pictures(t, 12);
    const path = join(folder, '..', 'a.mkv');
    const codec = ['-c:v', 'ffv1', '-pix_fmt', 'bgr0'];
    const frames = join(folder, 'frame%d.png');
    execFileSync(process.env.FFMPEG_PATH ?? 'ffmpeg', [
      '-v',
      'error',
      '-framerate',
      '6',
      '-start_number',
      '0',
      '-i',
      frames,
      ...codec,
      path,
    ]);
    const video = await openVideo(path, { folder: '/' });
    t.deepEqual([video.width, video.height, video.frameCount, video.fps], [64, 40, 12, 6]);
    const processor = VideoProcessor.fromConfig(videoConfigs.qwen3!);
    const made = await processor.process(video);
    t.deepEqual(made.indices, [0, 4, 7, 11]);
    const chosen = await openVideo(
      made.indices.map((i) => join(folder, `frame${i}.png`)),
      { folder: '/' },
    );
    t.deepEqual(made.patches, (await processor.process(chosen)).patches);
  },
);
