import { readFileSync } from 'node:fs';
import test from 'ava';
import { fromPythonRegex } from '../../lib/weights/python_regex.js';
import {
  inScope,
  type LayerScope,
  type ModulePattern,
  matchTargetModules,
  unmatchedTargets,
} from '../../lib/weights/target_modules.js';
import { fails, fixture } from './fixtures.js';

interface Case {
  readonly target_modules: ModulePattern;
  readonly exclude_modules: ModulePattern | null;
  readonly matched: readonly string[];
}
const { linears, cases } = JSON.parse(readFileSync(fixture('targets.json'), 'utf8')) as { linears: string[]; cases: Case[] };

for (const { target_modules: target, exclude_modules: exclude, matched } of cases) {
  test(`${JSON.stringify(target)} without ${JSON.stringify(exclude)} means the layers that PEFT adapts`, async (t) => {
    const options = exclude === null ? {} : { exclude };
    if (matched.length > 0) t.deepEqual(matchTargetModules(linears, target, options).sort(), [...matched].sort());
    else
      await fails(t, 'ERR_USAGE', ['--target-modules', 'matches no linear layer'], () =>
        matchTargetModules(linears, target, options),
      );
  });
}

test('nothing matched names the option, the target and what there is', async (t) => {
  await fails(t, 'ERR_USAGE', ['--target-modules', '"qproj"', 'q_proj, qkv, up_proj'], () =>
    matchTargetModules(linears, ['qproj']),
  );
  await fails(t, 'ERR_USAGE', ['--target-modules', 'excluded'], () =>
    matchTargetModules(linears, ['q_proj'], { exclude: ['q_proj'] }),
  );
  await fails(t, 'ERR_USAGE', ['--target-modules', 'got nothing'], () => matchTargetModules(linears, []));
});

test('entries of a list that match nothing are told', (t) => {
  t.deepEqual(unmatchedTargets(linears, ['q_proj', 'qproj', 'attn.qkv', 'mlp']), ['qproj', 'mlp']);
  t.deepEqual(unmatchedTargets(linears, '.*nothing'), []);
});

test('what JavaScript cannot express, and what Python refuses, is refused by name', async (t) => {
  for (const [pattern, what] of [
    ['a*+b', 'possessive'],
    ['(?>a)', '(?>a'],
    ['(?x) a', '(?x)'],
    ['(a)(?(1)b|c)', '(?(1'],
    ['(?i:a)', '(?i:'],
    ['a\\N{DASH}', '\\N'],
    ['\\q', '\\q'],
    ['a\\', 'lone backslash'],
    ['[a', 'not closed'],
    ['(a', 'nterminated group'],
    ['*a', 'othing to repeat'],
    ['a{3,1}', 'out of order'],
    ['(?P<a>x)(?P<a>y)', 'Duplicate'],
    ['\\x4', 'hexadecimal'],
  ] as const) {
    await fails(t, 'ERR_USAGE', ['--target-modules', what], () => fromPythonRegex(pattern, '--target-modules'));
  }
});

test('Python syntax that JavaScript reads otherwise keeps its meaning', (t) => {
  const matches = (pattern: string, name: string): boolean => fromPythonRegex(pattern, 'x').test(name);
  t.true(matches('a{,2}', 'aa'));
  t.false(matches('a{,2}', 'aaa'));
  t.true(matches('a{,}b{x}', 'a{,}b{x}'));
  t.true(matches('[^]]+', 'a.b'));
  t.true(matches('[]a[-]+', 'a][-'));
  t.true(matches('(?P<x>a)(?P=x)', 'aa'));
  t.true(matches('(a)(b)\\2\\1', 'abba'));
  t.true(matches('\\Aa\\Z', 'a'));
  t.true(matches('a|b', 'b'));
  t.false(matches('a|b', 'ab'), 'the whole name must match, whichever branch');
  t.true(matches('a\\_\\-\\/b/c', 'a_-/b/c'));
});

/** Unsloth's own expression for its `finetune_*` options over a list of names (unsloth_zoo's `get_peft_regex`). */
function unsloth({ vision = true, language = true, attention = true, mlp = true }: LayerScope, names: readonly string[]): RegExp {
  const parts = [...(vision ? ['vision', 'image', 'visual', 'patch'] : []), ...(language ? ['language', 'text'] : [])].join('|');
  const components = [
    ...(attention ? ['self_attn', 'attention', 'attn'] : []),
    ...(mlp ? ['mlp', 'feed_forward', 'ffn', 'dense'] : []),
  ].join('|');
  return new RegExp(`^.*?(?:${parts}).*?(?:${components}).*?(?:${names.join('|')}).*?$`);
}

test("a scope leaves the layers that Unsloth's expression matches", (t) => {
  const names = [
    'q_proj',
    'k_proj',
    'v_proj',
    'o_proj',
    'gate_proj',
    'up_proj',
    'down_proj',
    'qkv',
    'proj',
    'linear_fc1',
    'linear_fc2',
  ];
  for (let bits = 0; bits < 15; bits++) {
    const [vision, language, attention, mlp] = [1, 2, 4, 8].map((bit) => (bits & bit) !== 0);
    if (!(vision || language) || !(attention || mlp)) continue;
    const scope = { vision, language, attention, mlp };
    const expression = unsloth(scope, names);
    const targets = linears.filter((name) => names.some((end) => name.endsWith(`.${end}`)));
    t.deepEqual(
      inScope(targets, scope),
      targets.filter((name) => expression.test(name)),
      JSON.stringify(scope),
    );
  }
});

test('a scope that narrows nothing leaves every layer, mergers too', (t) => {
  t.deepEqual(inScope(linears, {}), linears);
  t.deepEqual(inScope(linears, { vision: true, mlp: true }), linears);
  const narrowed = inScope(linears, { language: false });
  t.true(narrowed.length > 0 && narrowed.every((name) => name.includes('visual.blocks.')));
});
