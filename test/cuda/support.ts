/** What the tests of a GPU share. `CUDA_VISIBLE_DEVICES` hides it from all other tests, which are the CPU's. */
import test, { type ExecutionContext } from 'ava';
import { addon } from '../../lib/native.js';

// Before the driver is first asked. Which GPU: VLTUNE_TEST_GPU.
process.env.CUDA_VISIBLE_DEVICES = process.env.VLTUNE_TEST_GPU ?? '0';

const { available, reason } = addon().cudaInfo();

/** `test.serial` where there is a GPU; else a test that is skipped, its title saying why. */
export const cuda = (title: string, body: (t: ExecutionContext) => void | Promise<void>): void => {
  if (available) test.serial(title, body);
  else test.serial.skip(`${title} (no GPU: ${reason})`, body);
};
