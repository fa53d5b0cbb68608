/** NCCL's sum, as one process alone can try it. Skipped where the GPU's machine has no NCCL. */
import type { ExecutionContext } from 'ava';
import { addon } from '../../lib/native.js';
import { cuda } from './support.js';

function hasNccl(t: ExecutionContext): boolean {
  const { found, reason } = addon().ncclInfo();
  if (!found) t.pass(`no NCCL: ${reason}`);
  return found;
}

cuda('a sum over one process is what it was, and comes after the work that was asked for before', async (t) => {
  if (!hasNccl(t)) return;
  const native = addon();
  const communicator = native.ncclCommunicator(native.ncclUniqueId(), 0, 1);
  const count = 1_000_003;
  const storage = native.allocate(count * 4, 'cuda');
  const numbers = Float32Array.from({ length: count }, (_, i) => i % 977);
  native.write(storage, 0, numbers);
  await native.ncclAllReduce(communicator, storage, 0, count);
  await native.ncclAllReduce(communicator, storage, 8, 5);
  const got = new Float32Array(count);
  native.read(storage, 0, got);
  t.deepEqual(got, numbers);
  t.throws(() => native.ncclAllReduce(communicator, storage, 0, count + 1), { code: 'ERR_ARGUMENT' });
  t.throws(() => native.ncclAllReduce(communicator, native.allocate(8, 'cpu'), 0, 2), {
    code: 'ERR_ARGUMENT',
    message: /on cuda/,
  });
  native.release(communicator);
  t.throws(() => native.ncclAllReduce(communicator, storage, 0, 1), { code: 'ERR_ARGUMENT', message: /released/ });
  native.release(storage);
});

cuda('a sum that waits for a process which never comes is given up', async (t) => {
  if (!hasNccl(t)) return;
  const native = addon();
  const communicator = native.ncclCommunicator(native.ncclUniqueId(), 0, 2);
  const storage = native.allocate(4096, 'cuda');
  const waiting = native.ncclAllReduce(communicator, storage, 0, 1024);
  setTimeout(() => native.ncclAbort(communicator), 500);
  await t.throwsAsync(waiting, { code: 'ERR_CANCELLED' });
  await t.throwsAsync(native.ncclAllReduce(communicator, storage, 0, 1024), { code: 'ERR_CANCELLED' });
  native.release(communicator);
  native.release(storage);
});

cuda("an id that is not NCCL's is refused", (t) => {
  t.throws(() => addon().ncclCommunicator(new Uint8Array(5), 0, 2), { code: 'ERR_ARGUMENT', message: /128 bytes .* got 5/ });
  t.throws(() => addon().ncclCommunicator(new Uint8Array(128), 2, 2), {
    code: 'ERR_ARGUMENT',
    message: /expected 0 to 1, got 2/,
  });
});
