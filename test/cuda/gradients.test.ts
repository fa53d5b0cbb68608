/** Loss and gradients of a first update on a GPU, against transformers + PEFT, as `test/parity/gradients.test.ts` holds the CPU's. */
import { checkBf16Gradients, checkBf16Losses, checkF16FirstUpdate, checkFirstUpdate } from '../parity/first_update.js';
import { cuda } from './support.js';

for (const name of ['lora-chat', 'lora-long', 'lora-micro-batches', 'lora-rslora', 'full', 'full-untied', 'full-bias']) {
  cuda(`loss and gradients of the first update of ${name} on a GPU are those of transformers and PEFT`, (t) =>
    checkFirstUpdate(t, name, { device: 'cuda' }),
  );
}

cuda('in bf16 on a GPU, losses are no further from F32 than 1.25 times those of transformers', (t) => checkBf16Losses(t, 'cuda'));

cuda('in bf16 on a GPU, gradients are no further from F32 than 1.25 times those of transformers', (t) =>
  checkBf16Gradients(t, 'cuda'),
);

for (const name of ['lora-chat', 'lora-micro-batches', 'full', 'full-bias'])
  cuda(`in float16 on a GPU, loss and gradients of the first update of ${name} are near those in F32`, (t) =>
    checkF16FirstUpdate(t, name, 'cuda'),
  );
