/**
 * TensorBoard event files: TFRecords of hand-encoded `Event` protobufs with scalar summaries.
 *
 *   record  = length U64LE, crc(length), data, crc(data)      crc: CRC-32C, rotated right by 15 bits, plus 0xa282ead8
 *   Event   = 1: wall_time double, 2: step int64, 3: file_version string | 5: Summary
 *   Summary = 1: repeated Value { 1: tag string, 2: simple_value float }
 */
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { ioError } from '../files.js';

const CRC_TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli) of the bytes. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function record(data: Uint8Array): Buffer {
  const out = Buffer.alloc(8 + 4 + data.byteLength + 4);
  out.writeBigUInt64LE(BigInt(data.byteLength));
  out.writeUInt32LE(maskedCrc(out.subarray(0, 8)), 8);
  out.set(data, 12);
  out.writeUInt32LE(maskedCrc(data), 12 + data.byteLength);
  return out;
}

const WIRE_VARINT = 0;
const WIRE_64BIT = 1;
const WIRE_BYTES = 2;
const WIRE_32BIT = 5;

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

function field(number: number, wire: number, content: Uint8Array): Buffer {
  const key = varint(number * 8 + wire);
  return Buffer.concat(wire === WIRE_BYTES ? [key, varint(content.byteLength), content] : [key, content]);
}

function double(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return bytes;
}

function float(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

function summary(scalars: Readonly<Record<string, number>>): Buffer {
  const values = Object.entries(scalars).map(([tag, value]) => {
    const body = [field(1, WIRE_BYTES, Buffer.from(tag, 'utf8')), field(2, WIRE_32BIT, float(value))];
    return field(1, WIRE_BYTES, Buffer.concat(body));
  });
  return Buffer.concat(values);
}

/** One event file, appended to as the run goes; each call leaves whole records on the disk. */
export class EventFile {
  readonly path: string;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  /** Makes the folder and a new event file in it. Rejects with ERR_IO. */
  static async create(folder: string): Promise<EventFile> {
    const seconds = Date.now() / 1000;
    const path = join(folder, `events.out.tfevents.${Math.floor(seconds)}.${hostname()}.${process.pid}.0`);
    try {
      await mkdir(folder, { recursive: true });
      const file = new EventFile(path, await open(path, 'a'));
      await file.#append(field(3, WIRE_BYTES, Buffer.from('brain.Event:2')), seconds);
      return file;
    } catch (error) {
      throw ioError(error, 'write', path);
    }
  }

  /** Adds values at a step: tags such as `train/loss`. Rejects with ERR_IO. */
  async scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    const body = [field(2, WIRE_VARINT, varint(step)), field(5, WIRE_BYTES, summary(values))];
    await this.#append(Buffer.concat(body), Date.now() / 1000);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #append(content: Uint8Array, seconds: number): Promise<void> {
    try {
      await this.#handle.appendFile(record(Buffer.concat([field(1, WIRE_64BIT, double(seconds)), content])));
    } catch (error) {
      throw ioError(error, 'write', this.path);
    }
  }
}
