import test from 'ava';
import fc from 'fast-check';
import type { Message, Role } from '../../lib/data/message.js';
import { Renderer, type RendererOptions, type Segment } from '../../lib/data/render.js';
import { ChatTemplate } from '../../lib/data/template.js';
import { Tokenizer } from '../../lib/data/tokenizer.js';
import { QWEN3, TINY, throwsCode } from './fixtures.js';

const tokenizer = await Tokenizer.load(TINY);
const tiny = await ChatTemplate.load(TINY, tokenizer);
const qwen3 = await ChatTemplate.load(QWEN3, tokenizer);

function renderer(template: ChatTemplate | string | undefined, more: Partial<RendererOptions> = {}): Renderer {
  return new Renderer({
    template: typeof template === 'string' ? new ChatTemplate(template, tokenizer) : template,
    textFormat: 'chat',
    assistantOnlyLoss: true,
    appendEos: true,
    eosToken: '<|im_end|>',
    specialTokens: ['<|im_end|>', '<|endoftext|>', ''],
    ...more,
  });
}

function turn(role: Role, content: Message['content']): Message {
  return { role, content };
}

function joined(segments: readonly Segment[]): string {
  return segments.map(({ text, learn }) => (learn ? `⟦${text}⟧` : text)).join('');
}

const CHAT: readonly Message[] = [
  turn('system', 'S'),
  turn('user', 'u1'),
  turn('assistant', 'a1'),
  turn('user', [{ type: 'text', text: 'u2' }]),
  turn('assistant', 'a2'),
];

test("each assistant's content and its end are learnt, and nothing else", (t) => {
  t.is(
    joined(renderer(tiny).segments(CHAT)),
    '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n⟦a1<|im_end|>⟧\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n⟦a2<|im_end|>⟧\n',
  );
});

test('without assistant-only loss all of the same text is learnt', (t) => {
  const segments = renderer(tiny, { assistantOnlyLoss: false }).segments(CHAT);
  t.is(joined(segments), `⟦${tiny.render(CHAT)}⟧`);
});

test('a question left open is context, not a target', (t) => {
  t.is(joined(renderer(tiny).segments([...CHAT.slice(1, 4)])).split('⟦').length, 2);
  t.true(joined(renderer(tiny).segments([...CHAT.slice(1, 4)])).endsWith('⟧\n<|im_start|>user\nu2<|im_end|>\n'));
});

test('the text is that of the template, whatever is learnt', (t) => {
  for (const template of [tiny, qwen3]) {
    const messages = template === tiny ? CHAT : CHAT.slice(0, 3);
    t.is(
      renderer(template)
        .segments(messages)
        .map(({ text }) => text)
        .join(''),
      template.render(messages),
    );
  }
});

test("what a template writes into the assistant's turn itself is learnt: the model must write it", (t) => {
  t.is(
    joined(renderer(qwen3).segments(CHAT.slice(1, 3))),
    '<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\na1<|im_end|>⟧\n',
  );
});

test('a template that rewrites earlier turns cannot be split and says so', async (t) => {
  const chat = [turn('user', 'u1'), turn('assistant', 'a1'), turn('user', 'u2'), turn('assistant', 'a2')];
  await throwsCode(t, async () => renderer(qwen3).segments(chat), 'ERR_BAD_DATA', /cannot be split at the assistant's turn 1/);
  t.notThrows(() => renderer(qwen3, { assistantOnlyLoss: false }).segments(chat));
});

test('a template that ignores the generation prompt cannot be split and says so', async (t) => {
  const source =
    '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}';
  await throwsCode(t, async () => renderer(source).segments(CHAT.slice(1, 3)), 'ERR_BAD_DATA', /cannot be split/);
});

const OPEN_ENDED =
  '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}';

test('the eos token is appended in chat only where no special token closes the turn', (t) => {
  const chat = CHAT.slice(1, 3);
  t.is(joined(renderer(OPEN_ENDED).segments(chat)), 'user: u1\nassistant: ⟦a1\n⟧⟦<|im_end|>⟧');
  t.is(joined(renderer(OPEN_ENDED, { appendEos: false }).segments(chat)), 'user: u1\nassistant: ⟦a1\n⟧');
  t.is(joined(renderer(OPEN_ENDED).segments([...chat, turn('user', 'q')])), 'user: u1\nassistant: ⟦a1\n⟧user: q\n');
  t.is(joined(renderer(OPEN_ENDED, { assistantOnlyLoss: false }).segments(chat)), '⟦user: u1\nassistant: a1\n⟧⟦<|im_end|>⟧');
  t.is(renderer(tiny).segments(chat).at(-1)!.text, '\n');
});

test("the plain form is the seed's", (t) => {
  const plain = (messages: readonly Message[], appendEos = false): string =>
    joined(renderer(undefined, { textFormat: 'plain', appendEos }).segments(messages));
  t.is(plain(CHAT), '⟦SYSTEM: S\nUSER: u1\nASSISTANT: a1\nUSER: u2\nASSISTANT: a2⟧');
  t.is(
    plain([
      turn('user', [
        { type: 'text', text: 'a' },
        { type: 'text', text: 'b' },
      ]),
      turn('assistant', ' c \n\x1c'),
    ]),
    '⟦USER: ab\nASSISTANT:  c⟧',
  );
  t.is(plain(CHAT.slice(1, 3), true), '⟦USER: u1\nASSISTANT: a1⟧⟦<|im_end|>⟧');
});

test('options that cannot be met are refused', async (t) => {
  await throwsCode(t, async () => renderer(undefined), 'ERR_USAGE', /"chat" needs a chat template/);
  await throwsCode(
    t,
    async () => renderer(undefined, { textFormat: 'plain', eosToken: null }),
    'ERR_BAD_CHECKPOINT',
    /--no-append-eos/,
  );
});

/** Templates that treat texts by their looks, which a shortcut must notice. */
const TRICKY: Readonly<Record<string, string>> = {
  trims:
    '{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}',
  'looks for a word':
    "{% for m in messages %}<{{ m.role }}>{% if 'secret' in m.content %}X{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
  'looks for two words':
    "{% for m in messages %}<{{ m.role }}>{% if 'salt' in m.content and 'pepper' in m.content %}X{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
  splits:
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('###')[-1] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
  'compares a text':
    "{% for m in messages %}<{{ m.role }}>{% if m.content == 'ping' %}pong{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
  'marks empty texts':
    "{% for m in messages %}<{{ m.role }}>{{ m.content or 'nothing' }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
  'changes case':
    '{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}',
  'repeats a text':
    '{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}',
  'quotes a text':
    '{% for m in messages %}<{{ m.role }}>{{ m.content | tojson }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}',
};

const content = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        'secret',
        'salt',
        'pepper',
        '###',
        'ping',
        'nothing',
        'user',
        'text',
        'image',
        '<think>',
        '</think>',
        '<tool_response>',
        '</tool_response>',
        '<|im_end|>',
        '\n',
        ' ',
        '\ue0000\ue001',
        "'",
        '{{ x }}',
      ),
      fc.string({ unit: 'grapheme' }),
    ),
    { maxLength: 6 },
  )
  .map((parts) => parts.join(''));

for (const [name, template] of Object.entries({ ...TRICKY, tiny: tiny.source, qwen3: qwen3.source })) {
  test(`the shortcut agrees with the template: ${name}`, (t) => {
    for (const assistantOnlyLoss of [true, false]) {
      const shared = renderer(template, { assistantOnlyLoss });
      fc.assert(
        fc.property(fc.array(content, { minLength: 2, maxLength: 5 }), fc.boolean(), (texts, asList) => {
          const system = texts.length % 2 === 1;
          const messages = texts.map((text, i): Message => {
            const role = system && i === 0 ? 'system' : i % 2 === (system ? 1 : 0) ? 'user' : 'assistant';
            return turn(
              role,
              asList && name === 'tiny'
                ? [
                    { type: 'text', text },
                    { type: 'text', text: `${text}!` },
                  ]
                : text,
            );
          });
          const attempt = (work: () => Segment[]): Segment[] | string => {
            try {
              return work();
            } catch (error) {
              return (error as Error).message;
            }
          };
          t.deepEqual(
            attempt(() => shared.segments(messages)),
            attempt(() => shared.rendered(messages)),
          );
        }),
        { numRuns: 150 },
      );
    }
  });
}

test("Qwen3-VL's template takes the shortcut for ordinary text, and not for what it looks for", (t) => {
  let rendered = 0;
  class Counting extends Renderer {
    override rendered(messages: readonly Message[]): Segment[] {
      rendered++;
      return super.rendered(messages);
    }
  }
  const options: RendererOptions = {
    template: tiny,
    textFormat: 'chat',
    assistantOnlyLoss: true,
    appendEos: true,
    eosToken: '<|im_end|>',
    specialTokens: ['<|im_end|>'],
  };
  const counting = new Counting(options);
  const ask = (text: string): Segment[] => counting.segments([turn('user', [{ type: 'text', text }]), turn('assistant', 'ok')]);
  ask('first');
  const probes = rendered;
  for (const text of ['the user and the image of the system', 'x <|im_end|> y', 'a\n\nb', 'text']) ask(text);
  t.is(rendered, probes, 'no further rendering');
  ask(' white space at an end');
  t.is(rendered, probes + 1);
});

test('what a template looks for at both ends of a text together is not passed through', (t) => {
  const shared = renderer(qwen3.source, { assistantOnlyLoss: false });
  for (const response of ['<tool_response>x</tool_response>', '<tool_response>x</tool_response> y </tool_response>']) {
    const messages = [turn('user', response), turn('assistant', 'done')];
    t.deepEqual(shared.segments(messages), shared.rendered(messages));
    t.notRegex(joined(shared.segments(messages)), /<think>/);
  }
});
