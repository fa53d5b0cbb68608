/** Whole runs of the trainer on the CPU against transformers + PEFT: see `runs.ts`. */
import test from 'ava';
import { checkRun, RUNS } from './runs.js';

for (const name of Object.keys(RUNS)) {
  test(`each update of ${name}, and the weights at its end, are those of transformers and PEFT`, (t) => checkRun(t, name));
}
