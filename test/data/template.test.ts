import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { Message } from '../../lib/data/message.js';
import { ChatTemplate, type TemplateTokens } from '../../lib/data/template.js';
import { Tokenizer } from '../../lib/data/tokenizer.js';
import { QWEN3, readJson, TINY, temporaryFolder, throwsCode } from './fixtures.js';

interface Case {
  readonly messages: Message[];
  readonly text: string;
  readonly prompt: string;
}

const TOKENS: TemplateTokens = { bosToken: '<s>', eosToken: '</s>', padToken: null, unkToken: null };
const HELLO: readonly Message[] = [{ role: 'user', content: 'hello' }];

for (const [name, folder] of [
  ['qwen3', QWEN3],
  ['tiny', TINY],
] as const) {
  test(`the template of ${name} renders as transformers renders it`, async (t) => {
    const template = await ChatTemplate.load(folder, await Tokenizer.load(folder));
    const cases = readJson<Record<string, Case[]>>('templates.json')[name]!;
    t.true(cases.length > 3);
    for (const { messages, text, prompt } of cases) {
      t.is(template.render(messages), text);
      t.is(template.render(messages, { addGenerationPrompt: true }), prompt);
    }
  });
}

test('chat_template.jinja goes before chat_template.json, and that before tokenizer_config.json', async (t) => {
  const folder = temporaryFolder(t);
  const load = async (): Promise<string> => (await ChatTemplate.load(folder, TOKENS)).source;
  await throwsCode(t, load, 'ERR_BAD_CHECKPOINT', /no chat template \(looked for chat_template\.jinja/);
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}');
  await throwsCode(t, load, 'ERR_BAD_CHECKPOINT', /no chat template/);
  writeFileSync(
    join(folder, 'tokenizer_config.json'),
    '{"chat_template":[{"name":"tool_use","template":"x"},{"name":"default","template":"config"}]}',
  );
  t.is(await load(), 'config');
  writeFileSync(join(folder, 'chat_template.json'), '{"chat_template":"json"}');
  t.is(await load(), 'json');
  writeFileSync(join(folder, 'chat_template.jinja'), 'jinja');
  t.is(await load(), 'jinja');
});

test('templates that are broken are refused with their file', async (t) => {
  const folder = temporaryFolder(t);
  const load = (): Promise<ChatTemplate> => ChatTemplate.load(folder, TOKENS);
  writeFileSync(join(folder, 'tokenizer_config.json'), '{"chat_template":[{"name":"tool_use","template":"x"}]}');
  await throwsCode(
    t,
    load,
    'ERR_BAD_CHECKPOINT',
    /tokenizer_config\.json: chat_template: expected a string, or a list that has a "default"/,
  );
  writeFileSync(join(folder, 'tokenizer_config.json'), '{"chat_template":');
  await throwsCode(t, load, 'ERR_BAD_CHECKPOINT', /tokenizer_config\.json: not a JSON object/);
  writeFileSync(join(folder, 'chat_template.jinja'), '{% for m in messages %}');
  await throwsCode(t, load, 'ERR_BAD_CHECKPOINT', /chat_template\.jinja: /);
});

test("templates get transformers' variables and functions", (t) => {
  const render = (source: string): string => new ChatTemplate(source, TOKENS).render(HELLO);
  t.is(render('{{ bos_token }}{{ messages[0].content }}{{ eos_token }}'), '<s>hello</s>');
  t.is(render('{% if pad_token is defined %}yes{% else %}no{% endif %}'), 'no');
  t.is(render('{% if tools is none and documents is none and not add_generation_prompt %}none{% endif %}'), 'none');
  t.regex(render('{{ strftime_now("%Y") }}'), /^\d{4}$/);
  t.is(render("{%- if true %}\n    {{- 'trimmed' }}\n{%- endif %}\n"), 'trimmed');
});

test('what a template raises is an error about the data', async (t) => {
  const template = new ChatTemplate("{{ raise_exception('roles must alternate') }}", TOKENS);
  await throwsCode(
    t,
    async () => template.render(HELLO),
    'ERR_BAD_DATA',
    /the chat template refuses the messages: .*roles must alternate/,
  );
});

test('the literals of a template are found wherever they stand', (t) => {
  const template = new ChatTemplate(
    `{% set x = ['a', {'b': 'c'}] %}{% if 'd' in messages[0].content and messages[0].content.startswith('e') %}{{ 'f' | replace('g', "h") }}{% endif %}`,
    TOKENS,
  );
  t.deepEqual([...template.literals()].sort(), ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']);
  t.true(new ChatTemplate(readFileSync(join(TINY, 'chat_template.jinja'), 'utf8'), TOKENS).literals().includes('<|im_start|>'));
});
