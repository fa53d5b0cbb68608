/** The system's ffmpeg: what a video file holds, and chosen frames of it as RGB. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { VltuneError } from '../../errors.js';
import { printable } from '../../weights/json.js';
import { DecodeError, type Pixels } from './decode.js';
import type { Size } from './smart_resize.js';

export interface VideoInfo extends Size {
  /** Frames of the file, and how many there are a second on average. */
  readonly frameCount: number;
  readonly fps: number;
}

/** The programs, and what names another one. */
const PROGRAMS = { ffmpeg: 'FFMPEG_PATH', ffprobe: 'FFPROBE_PATH' } as const;

/** Of what a program says about an error, the end is enough. */
const ERROR_CHARACTERS = 2000;

/** Local files only: what a playlist or a container names elsewhere is not fetched. */
function input(path: string): string[] {
  return ['-protocol_whitelist', 'file', '-i', `file:${path}`];
}

interface Run {
  readonly child: ChildProcess;
  /** Resolves to the exit code; rejects with DecodeError where it is not installed. */
  readonly ended: Promise<number>;
  /** The last line that it wrote about an error. */
  reason(): string;
}

function start(program: keyof typeof PROGRAMS, args: readonly string[], signal: AbortSignal | undefined): Run {
  const child = spawn(process.env[PROGRAMS[program]] || program, ['-v', 'error', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(signal && { signal }),
  });
  let errors = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-ERROR_CHARACTERS);
  });
  const ended = once(child, 'close').then(
    ([code]) => (typeof code === 'number' ? code : -1),
    (cause: NodeJS.ErrnoException) => {
      if (signal?.aborted) throw new VltuneError('ERR_CANCELLED', 'cancelled', { cause });
      if (cause.code !== 'ENOENT' && cause.code !== 'EACCES') throw cause;
      throw new DecodeError(
        `videos are read through ${program}, which was not found: install ffmpeg, or name the program in ${PROGRAMS[program]}, or give the video as a list or folder of pictures`,
        true,
        { cause },
      );
    },
  );
  ended.catch(() => {}); // whoever waits for it gets it; nobody has to
  const reason = () => {
    const lines = errors.split(/[\r\n]+/).filter((line) => line.trim() !== '' && !line.includes('Last message repeated'));
    return printable(lines.at(-1)?.replace(/^file:.*?: /, '') ?? 'no reason given');
  };
  return { child, ended, reason };
}

async function probe(path: string, args: readonly string[], signal: AbortSignal | undefined): Promise<Record<string, unknown>> {
  const run = start('ffprobe', ['-select_streams', 'v:0', ...args, '-of', 'json', ...input(path)], signal);
  let text = '';
  run.child.stdout!.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  if ((await run.ended) !== 0) throw new DecodeError(`not a video that ffprobe can read: ${run.reason()}`);
  const streams = (JSON.parse(text) as { streams?: Record<string, unknown>[] }).streams;
  if (!streams?.[0]) throw new DecodeError('there is no video in the file');
  return streams[0];
}

const ratio = (text: unknown): number => {
  const [over, under = '1'] = String(text).split('/');
  return Number(over) / Number(under);
};

/** DecodeError if it is not a video, or (`unsupported`) if ffprobe is not installed. */
export async function probeVideo(path: string, signal: AbortSignal | undefined): Promise<VideoInfo> {
  const entries = 'stream=width,height,avg_frame_rate,nb_frames:stream_side_data=rotation:stream_tags=rotate';
  const stream = await probe(path, ['-show_entries', entries], signal);
  const { width, height } = stream as { width?: number; height?: number };
  const fps = ratio(stream.avg_frame_rate);
  let frameCount = Number(stream.nb_frames);
  if (!(frameCount > 0)) {
    // Some containers do not say; a packet of video holds one frame.
    const counted = await probe(path, ['-count_packets', '-show_entries', 'stream=nb_read_packets'], signal);
    frameCount = Number(counted.nb_read_packets);
  }
  if (!width || !height || !(fps > 0) || !(frameCount > 0))
    throw new DecodeError('ffprobe finds no size, no frame rate or no frames');
  const sideData = stream.side_data_list as readonly { rotation?: number }[] | undefined;
  const tags = stream.tags as { rotate?: string } | undefined;
  const rotation = sideData?.find((data) => data.rotation !== undefined)?.rotation ?? Number(tags?.rotate ?? 0);
  const upright = rotation % 180 === 0;
  return { width: upright ? width : height, height: upright ? height : width, fps, frameCount };
}

/**
 * The frames of these indices, which do not fall, one after the other, upright. DecodeError if the video ends before the last of them or
 * comes in another size. Stopping early ends ffmpeg.
 */
export async function* videoFrames(
  path: string,
  info: VideoInfo,
  indices: readonly number[],
  signal: AbortSignal | undefined,
): AsyncGenerator<Pixels> {
  const different = [...new Set(indices)];
  let decoded = 0;
  for await (const frame of differentFrames(path, info, different, signal)) {
    const index = different[decoded++];
    for (let i = indices.indexOf(index!); indices[i] === index; i++) yield frame;
  }
}

async function* differentFrames(
  path: string,
  { width, height }: Size,
  indices: readonly number[],
  signal: AbortSignal | undefined,
): AsyncGenerator<Pixels> {
  const chosen = indices.map((index) => `eq(n\\,${index})`).join('+');
  // One frame after the other at a fixed rate, which is also that of the output: none is repeated or left out by any version of ffmpeg.
  const filter = `select='${chosen}',setpts=N/25/TB`;
  const output = ['-frames:v', String(indices.length), '-r', '25', '-f', 'rawvideo', '-pix_fmt', 'rgb24', 'pipe:1'];
  const run = start('ffmpeg', ['-nostdin', ...input(path), '-map', '0:v:0', '-vf', filter, ...output], signal);
  let frames = 0;
  try {
    let data = new Uint8Array(width * height * 3);
    let filled = 0;
    for await (const chunk of run.child.stdout as AsyncIterable<Uint8Array>) {
      for (let at = 0; at < chunk.length; ) {
        const part = chunk.subarray(at, at + data.length - filled);
        data.set(part, filled);
        at += part.length;
        filled += part.length;
        if (filled < data.length) continue;
        yield { data, width, height };
        frames++;
        data = new Uint8Array(width * height * 3);
        filled = 0;
      }
    }
    const code = await run.ended;
    if (code !== 0) throw new DecodeError(`the video is broken or cut short: ${run.reason()}`);
    if (frames !== indices.length || filled > 0)
      throw new DecodeError(
        `of ${indices.length} frames of ${width}×${height} that were asked for, ffmpeg gave ${frames} (${run.reason()})`,
      );
  } finally {
    run.child.kill();
  }
}
