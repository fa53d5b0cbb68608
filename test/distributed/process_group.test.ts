import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';
import test from 'ava';
import { freePort } from '../../lib/distributed/free_port.js';
import type { Place } from '../../lib/distributed/place.js';
import { type Numbers, ProcessGroup } from '../../lib/distributed/process_group.js';
import { packageVersion } from '../../lib/version.js';

async function places(size: number): Promise<Place[]> {
  const port = await freePort();
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    localRank: rank,
    localSize: size,
    address: '127.0.0.1',
    port,
  }));
}

function numbersOf(array: Float32Array): Numbers {
  return {
    length: array.length,
    read: (at, into) => into.set(array.subarray(at, at + into.length)),
    write: (at, from) => array.set(from, at),
  };
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

const SOON = { timeoutMs: 20_000 };

/** Groups of this process with itself: what processes do, without their start. */
async function joined(size: number): Promise<ProcessGroup[]> {
  const all = await places(size);
  // The last one first: the first need not be there yet.
  return (await Promise.all([...all].reverse().map((place) => ProcessGroup.join(place, SOON)))).reverse();
}

test('all are given what each has, by rank', async (t) => {
  const groups = await joined(4);
  const seen = await Promise.all(groups.map((group) => group.gather({ of: group.place.rank })));
  for (const all of seen) t.deepEqual(all, [{ of: 0 }, { of: 1 }, { of: 2 }, { of: 3 }]);
  await Promise.all(groups.map((group) => group.leave()));
  for (const { lost } of groups) t.false(lost.aborted);
});

test('sums are the same bits everywhere, added in the order of ranks', async (t) => {
  const groups = await joined(3);
  const length = 3_000_001; // more pieces than are sent ahead
  const terms = groups.map((_, rank) =>
    Float32Array.from({ length }, (_, i) => Math.fround(Math.sin(i * (rank + 1)) * 10 ** rank)),
  );
  const expected = terms[0]!.map((first, i) => Math.fround(Math.fround(first + terms[1]![i]!) + terms[2]![i]!));
  const sums = terms.map((values) => values.slice());
  await Promise.all(groups.map((group, rank) => group.sum(numbersOf(sums[rank]!))));
  for (const sum of sums) t.true(bytesOf(sum).equals(bytesOf(expected)));
  await Promise.all(groups.map((group) => group.gather(null)));
  await Promise.all(groups.map((group) => group.leave()));
});

test('why one fails is told to all, whatever they are at', async (t) => {
  const groups = await joined(3);
  const waiting = [groups[0]!, groups[1]!].map((group) => group.gather(null));
  groups[2]!.fail(new Error('the disk is full'));
  for (const one of waiting) await t.throwsAsync(one, { code: 'ERR_PEER', message: 'process 2 failed: the disk is full' });
  for (const { lost } of groups) t.is((lost.reason as Error).message, 'process 2 failed: the disk is full');
});

test('one that goes without a word is noticed by all', async (t) => {
  const all = await places(3);
  const [first, second] = await Promise.all([
    ProcessGroup.join(all[0]!, SOON),
    ProcessGroup.join(all[1]!, SOON),
    // the third as a socket, which is then cut
    (async () => {
      for (;;) {
        const socket = createConnection({ host: '127.0.0.1', port: all[2]!.port });
        const up = await once(socket, 'connect').then(
          () => true,
          () => false,
        );
        if (!up) continue;
        for (const value of [{ vltune: packageVersion(), rank: 2, size: 3 }, null]) {
          const text = Buffer.from(JSON.stringify(value));
          const header = Buffer.alloc(5);
          header.writeUInt32LE(text.length, 1);
          socket.write(Buffer.concat([header, text]));
        }
        await once(socket, 'data');
        socket.destroy();
        return;
      }
    })(),
  ]);
  await t.throwsAsync(first!.gather(null), { code: 'ERR_PEER', message: 'process 2 has ended' });
  await t.throwsAsync(second!.gather(null), { code: 'ERR_PEER', message: 'process 2 has ended' });
});

test('who does not come is named', async (t) => {
  const [first, second] = await places(3);
  const waiting = ProcessGroup.join(first!, { timeoutMs: 2000 });
  const other = ProcessGroup.join(second!, SOON);
  await t.throwsAsync(waiting, {
    code: 'ERR_PEER',
    message: /^process 2 of 3 has not come to 127\.0\.0\.1:\d+, and --ddp-timeout is over$/,
  });
  await t.throwsAsync(other, { code: 'ERR_PEER', message: /process 2 of 3 has not come/ });
  await t.throwsAsync(ProcessGroup.join({ ...second!, port: await freePort() }, { timeoutMs: 1000 }), {
    code: 'ERR_PEER',
    message:
      /^process 0 is not at 127\.0\.0\.1:\d+ \(MASTER_ADDR and MASTER_PORT\): .*ECONNREFUSED.*, and --ddp-timeout is over$/,
  });
});

test('waiting ends when the caller gives up', async (t) => {
  const [first] = await places(2);
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 50);
  await t.throwsAsync(ProcessGroup.join(first!, { ...SOON, signal: stop.signal }), {
    code: 'ERR_CANCELLED',
    message: /process 1 of 2/,
  });
});

test('whoever has connected waits no longer than that, and hears the caller', async (t) => {
  const port = await freePort();
  const silent = createServer().listen(port, '127.0.0.1');
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  const [, second] = await places(2);
  const place = { ...second!, port };
  await t.throwsAsync(ProcessGroup.join(place, { timeoutMs: 500 }), {
    code: 'ERR_PEER',
    message: /^not all of 2 processes have come to 127\.0\.0\.1:\d+, and --ddp-timeout is over$/,
  });
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 300);
  await t.throwsAsync(ProcessGroup.join(place, { ...SOON, signal: stop.signal }), {
    code: 'ERR_CANCELLED',
    message: /^stopped while waiting: not all of 2 processes/,
  });
});

test('strangers at the port are sent away, and do no harm', async (t) => {
  const [first, second] = await places(2);
  const waiting = ProcessGroup.join(first!, SOON);
  for (const words of ['GET / HTTP/1.1\r\n\r\n', '\u0000\u0002\u0000\u0000\u0000{}', '\u0000\u0004\u0000\u0000\u0000null']) {
    const stranger = createConnection({ host: '127.0.0.1', port: first!.port });
    await once(stranger, 'connect');
    stranger.on('error', () => {});
    stranger.write(words);
    await once(stranger, 'close');
  }
  const silent = createConnection({ host: '127.0.0.1', port: first!.port });
  await once(silent, 'connect');
  const groups = await Promise.all([waiting, ProcessGroup.join(second!, SOON)]);
  await once(silent, 'close');
  t.deepEqual(await Promise.all(groups.map((group) => group.gather(group.place.rank))), [
    [0, 1],
    [0, 1],
  ]);
  await Promise.all(groups.map((group) => group.leave()));
});

test('processes of other counts or ranks are refused', async (t) => {
  const [first, second] = await places(2);
  const refused = { code: 'ERR_USAGE', message: 'process 1 counts 3 processes, process 0 2' };
  const waiting = ProcessGroup.join(first!, SOON);
  const other = ProcessGroup.join({ ...second!, size: 3 }, SOON);
  await t.throwsAsync(waiting, refused);
  await t.throwsAsync(other, { ...refused, code: 'ERR_PEER' });
  const taken = await freePort();
  const server = createServer().listen(taken, '127.0.0.1');
  await once(server, 'listening');
  await t.throwsAsync(ProcessGroup.join({ ...first!, port: taken }, SOON), {
    code: 'ERR_USAGE',
    message: /MASTER_PORT: process 0 can not listen on \d+: .*EADDRINUSE/,
  });
  server.close();
});
