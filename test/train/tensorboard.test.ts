import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { lossChart } from '../../lib/report/loss_chart.js';
import { crc32c, EventFile } from '../../lib/train/tensorboard.js';

test('CRC-32C is the one of RFC 3720', (t) => {
  t.is(crc32c(Buffer.from('123456789')), 0xe3069283);
  t.is(crc32c(new Uint8Array(32)), 0x8a9136aa);
  t.is(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
});

/** Splits a file into its records, checking each length and both checksums. */
function records(bytes: Buffer): Buffer[] {
  const unmask = (value: number): number => {
    const rotated = (value - 0xa282ead8) >>> 0;
    return ((rotated << 15) | (rotated >>> 17)) >>> 0;
  };
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    if (unmask(bytes.readUInt32LE(at + 8)) !== crc32c(bytes.subarray(at, at + 8))) throw new Error('length checksum');
    const data = bytes.subarray(at + 12, at + 12 + length);
    if (unmask(bytes.readUInt32LE(at + 12 + length)) !== crc32c(data)) throw new Error('data checksum');
    found.push(data);
    at += 16 + length;
  }
  return found;
}

test('an event file is records of a version and of scalars, byte for byte as protobuf encodes them', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'vltune-events-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const file = await EventFile.create(join(folder, 'runs'));
  await file.scalars(300, { 'train/loss': 1.5, lr: 0 });
  await file.close();
  const [version, scalars, ...more] = records(await readFile(file.path));
  t.is(more.length, 0);
  t.is(version!.subarray(9).toString('latin1'), '\x1a\x0dbrain.Event:2');
  t.is(version![0], 0x09);
  const now = Date.now() / 1000;
  t.true(Math.abs(scalars!.readDoubleLE(1) - now) < 60);
  // step 300; a summary of {tag "train/loss", 1.5f} and {tag "lr", 0f}
  const expected = `10ac02${'2a20'}${'0a11'}0a0a${Buffer.from('train/loss').toString('hex')}150000c03f${'0a0b'.replace('0b', '09')}0a02${Buffer.from('lr').toString('hex')}1500000000`;
  t.is(scalars!.subarray(9).toString('hex'), expected.replace('2a20', '2a1e'));
});

test('the loss picture is an SVG with axis titles, both lines and no missing value', async (t) => {
  const points = Array.from({ length: 40 }, (_, i) => ({ step: i + 1, loss: 3 * Math.exp(-i / 10) + 0.1 * (i % 3) }));
  const svg = await lossChart(points, { title: 'A <title> & more', evaluation: [{ step: 20, loss: 1 }] });
  t.true(svg.startsWith('<svg'));
  for (const text of ['update', 'loss per target token', 'smoothed', 'each update', 'evaluation', 'A &lt;title&gt; &amp; more'])
    t.true(svg.includes(text), text);
  t.false(/NaN|undefined/.test(svg));
});

test('a run of a single update still gives a picture', async (t) => {
  t.true((await lossChart([{ step: 1, loss: 2 }])).includes('<svg'));
});
