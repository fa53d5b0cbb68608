/** Several processes on several GPUs. Which: VLTUNE_TEST_GPUS, the first two unless it says otherwise. */
import test, { type ExecutionContext } from 'ava';
import { addon } from '../../lib/native.js';
import {
  checkAgreement,
  checkLoss,
  checkSameBytes,
  checkShares,
  checkTrade,
  PICTURES,
  type Where,
} from '../distributed/together.js';

// Before the driver is first asked; the processes that are started inherit it.
const GPUS = process.env.VLTUNE_TEST_GPUS ?? '0,1';
process.env.CUDA_VISIBLE_DEVICES = GPUS;

const { available, devices, reason } = addon().cudaInfo();

type Check = (t: ExecutionContext, where: Where) => Promise<void>;

const gpus = (title: string, check: Check): void => {
  if (available && devices.length > 1) test.serial(title, (t) => check(t, { device: 'cuda' }));
  else test.serial.skip(`${title} (${available ? 'one GPU alone' : `no GPU: ${reason}`})`, () => {});
};

/** One GPU for both processes, which NCCL refuses: gradients go through the host's memory, as where there is no NCCL. */
const shared = (title: string, check: Check): void => {
  const env = { VLTUNE_NCCL: 'none', CUDA_VISIBLE_DEVICES: GPUS.split(',')[0] };
  if (available) test.serial(title, (t) => check(t, { device: 'cuda', env }));
  else test.serial.skip(`${title} (no GPU: ${reason})`, () => {});
};

shared('two processes on one GPU compute what one does with twice the accumulation', checkShares);
shared('runs of two processes on one GPU, stopped and resumed too, end in the same bytes', checkSameBytes);
shared('when one process on a GPU is killed the other ends too, and the last checkpoint is kept', checkLoss);

gpus('two GPUs compute what one does with twice the accumulation', checkShares);
gpus('and so with pictures and a tower that learns', (t, where) => checkShares(t, where, PICTURES));
gpus('runs on two GPUs, stopped and resumed too, end in the same bytes', checkSameBytes);
gpus('GPUs and accumulation steps trade with each other when a run goes on', checkTrade);
gpus('when one process is killed the other ends too, though it waits in NCCL, and the last checkpoint is kept', checkLoss);
gpus('processes on GPUs that were not started alike say so', checkAgreement);
