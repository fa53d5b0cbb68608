/**
 * The Alpaca file that the shipped model is fine-tuned with first, as it was when the tokenizer was trained: its texts train the tokenizer, its
 * words are among those the model can say. A copy, so that examples/data/identity.json can change without another model.
 */
import { readFileSync } from 'node:fs';
import type { Corpus } from './corpus.js';
import type { AskedPicture } from './pictures.js';

/** Instructions, inputs and outputs; `root` is the repository's. */
export function recipeTexts(root: string): string[] {
  const rows = JSON.parse(readFileSync(`${root}/scripts/tiny-model/recipe.json`, 'utf8')) as {
    instruction: string;
    input: string;
    output: string;
  }[];
  return rows.flatMap((row) => [row.instruction, row.input, row.output]);
}

/** Its words, each once and sorted, so without what the recipe says with them: a model is not quickly taught to say what it has never said. */
export function recipeWords(root: string): string[] {
  return [...new Set(recipeTexts(root).flatMap((text) => text.match(/[\p{L}\p{M}']+/gu) ?? []))].sort();
}

/**
 * What the tokenizer is trained on: the rows with their roles, what is asked and answered about pictures, and the recipe's texts so often
 * that its words become tokens.
 */
export function* tokenizerTexts(corpus: Corpus, pictures: Iterable<AskedPicture>, root: string): Generator<string> {
  for (const { messages } of corpus.rows) for (const { role, content } of messages) yield* [role, content];
  for (const { questions } of pictures) for (const { question, answer } of questions) yield* [question, answer];
  for (let i = 0; i < 10; i++) yield* recipeTexts(root);
}
