/** Rows with pictures and video on a GPU, held to transformers and PEFT as the CPU is. */
import {
  CASES,
  checkBf16Features,
  checkEncoder,
  checkForward,
  checkFull,
  checkGreedy,
  checkSplit,
  checkTraining,
  checkUpdates,
} from '../parity/vision_cases.js';
import { cuda } from './support.js';

for (const name of Object.keys(CASES)) {
  cuda(`features and logits are those of transformers: ${name}`, (t) => checkForward(t, name, 'cuda'));

  cuda(`loss and gradients of adapters in tower and language model are those of transformers and PEFT: ${name}`, (t) =>
    checkTraining(t, name, 'cuda'),
  );
}

cuda('a tower that runs by itself makes the features of transformers and PEFT', (t) => checkEncoder(t, 'video', 'cuda'));

cuda('features made beforehand train to the same bits', (t) => checkSplit(t, 'several', 'cuda'));

cuda('full fine-tuning has gradients in positions, patches and norms of the tower', (t) => checkFull(t, 'cuda'));

cuda('twelve updates with one, several, no pictures and video have the losses and norms of transformers and PEFT', (t) =>
  checkUpdates(t, 'cuda'),
);

cuda('words after pictures and video are those of transformers and PEFT', (t) => checkGreedy(t, 'cuda'));

cuda('in bf16, features are no further from F32 than 1.25 times those of transformers', (t) => checkBf16Features(t, 'cuda'));
