/** Several processes on several GPUs. Which: VLTUNE_TEST_GPUS, the first two unless it says otherwise. */
import test, { type ExecutionContext } from 'ava';
import { addon } from '../../lib/native.js';
import { checkAgreement, checkLoss, checkSameBytes, checkShares, checkTrade, type Device } from '../distributed/together.js';

// Before the driver is first asked; the processes that are started inherit it.
process.env.CUDA_VISIBLE_DEVICES = process.env.VLTUNE_TEST_GPUS ?? '0,1';

const { available, devices, reason } = addon().cudaInfo();

const gpus = (title: string, check: (t: ExecutionContext, device: Device) => Promise<void>): void => {
  if (available && devices.length > 1) test.serial(title, (t) => check(t, 'cuda'));
  else test.serial.skip(`${title} (${available ? 'one GPU alone' : `no GPU: ${reason}`})`, (t) => check(t, 'cuda'));
};

gpus('two GPUs compute what one does with twice the accumulation', checkShares);
gpus('runs on two GPUs, stopped and resumed too, end in the same bytes', checkSameBytes);
gpus('GPUs and accumulation steps trade with each other when a run goes on', checkTrade);
gpus('when one process is killed the other ends too, though it waits in NCCL, and the last checkpoint is kept', checkLoss);
gpus('processes on GPUs that were not started alike say so', checkAgreement);
