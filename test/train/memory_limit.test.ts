import test from 'ava';
import { addon } from '../../lib/native.js';
import { memoryBudget } from '../../lib/train/memory_limit.js';
import { fakeGpu } from '../fake_gpu.js';

const MIB = 2 ** 20;

fakeGpu();

/** A card of 64 GiB of which so much is taken. */
function taken(bytes: number): void {
  addon().deviceMemory = () => ({ free: 2 ** 36 - bytes, total: 2 ** 36 });
}

test.serial("a limit is the card's, and what the driver will take is counted before it has taken it", (t) => {
  taken(300 * MIB);
  t.is(memoryBudget('cuda', 4000 * MIB, true).limit?.bytes, 3616 * MIB);
  taken(500 * MIB); // another program's
  t.is(memoryBudget('cuda', 4000 * MIB, true).limit?.bytes, 3500 * MIB);
});

test.serial('so it is beside what NCCL has taken', (t) => {
  taken((300 + 790) * MIB);
  const { baseBytes, limit } = memoryBudget('cuda', 4000 * MIB, true, 790 * MIB);
  t.is(baseBytes, (384 + 790) * MIB);
  t.is(limit?.bytes, (4000 - 384 - 790) * MIB);
});

test.serial('without a limit what is free may be used, but for a reserve', (t) => {
  taken(2 ** 35);
  t.is(memoryBudget('cuda', undefined, true).limit?.bytes, Math.floor(2 ** 35 * 0.95));
  t.is(memoryBudget('cuda', undefined, false).limit, undefined);
});
