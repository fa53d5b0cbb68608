import test from 'ava';
import { PACKAGE_ROOT } from '../../lib/native.js';
import { makeCorpus } from '../../scripts/tiny-model/corpus.js';
import { recipeTexts, recipeWords } from '../../scripts/tiny-model/recipe.js';

const words = recipeWords(PACKAGE_ROOT);
const corpus = makeCorpus({ seed: 3407, rows: 20_000, words });
const asked = new Set(
  corpus.rows.flatMap(({ messages }) => messages.filter(({ role }) => role === 'user').map(({ content }) => content)),
);

test('the same seed gives the same corpus, another seed other rows over the same questions', (t) => {
  t.deepEqual(makeCorpus({ seed: 3407, rows: 20_000, words }), corpus);
  const other = makeCorpus({ seed: 3408, rows: 20_000, words });
  t.deepEqual(other.heldOut, corpus.heldOut);
  t.notDeepEqual(other.rows, corpus.rows);
});

test('no held-out question is in training, with or without an opening', (t) => {
  const known = new Set(corpus.questions.map(({ question }) => question));
  for (const { question } of corpus.heldOut) {
    t.false(known.has(question), question);
    t.false(asked.has(question), question);
  }
});

test('a problem that is held out is held out in every phrasing and language', (t) => {
  const trained = new Set(corpus.questions.filter(({ heldOutBy }) => heldOutBy === 'problem').map(({ problem }) => problem));
  const problems = corpus.heldOut.filter(({ heldOutBy }) => heldOutBy === 'problem');
  t.true(problems.length > 1000);
  for (const { problem } of problems) t.false(trained.has(problem), problem);
  const sum = problems.find(({ category }) => category === 'sums')!.problem;
  t.true(problems.filter(({ problem }) => problem === sum).length >= 4);
});

test('a fact that is held out in one phrasing is trained in others', (t) => {
  const fact = (q: { category: string; language: string; problem: string }) => `${q.category} ${q.language} ${q.problem}`;
  const trained = new Map<string, number>();
  for (const question of corpus.questions) trained.set(fact(question), (trained.get(fact(question)) ?? 0) + 1);
  const facts = corpus.heldOut.filter(({ heldOutBy }) => heldOutBy === 'phrasing');
  t.true(facts.length > 200);
  for (const question of facts) t.true((trained.get(fact(question)) ?? 0) >= 2, question.question);
});

test('every row is a conversation that ends in an answer of the tables', (t) => {
  const answers = new Set(corpus.questions.map(({ answer }) => answer));
  for (const { messages } of corpus.rows) {
    const roles = messages.map(({ role }) => role).join(' ');
    t.regex(roles, /^(system )?(user assistant ?){1,2}$/);
    t.true(answers.has(messages.at(-1)!.content));
  }
  t.true(corpus.rows.some(({ messages }) => messages[0]!.role === 'system'));
});

test("the base model is not taught the recipe's answers", (t) => {
  const base = new Set([...corpus.questions, ...corpus.heldOut].map(({ answer }) => answer));
  const persona = recipeTexts(PACKAGE_ROOT).filter((text) => /\b(Ada|vltune|Nabla)\b/.test(text));
  t.true(persona.length > 150);
  for (const text of persona) t.false(base.has(text), text);
});
