/**
 * Whether an answer is right, by the words that it turns on: a model that has learned another tone ("Aye! It is red.") is judged by what it
 * says, not by how.
 */

/** In lower case; digits are words of their own. */
export interface AnswerWords {
  /** Any of them makes the answer right, the first is what is expected. */
  readonly right: readonly [string, ...string[]];
  /** Any of them makes it wrong: who says two colours does not know. */
  readonly wrong: readonly string[];
}

export function isRightAnswer(answer: string, { right, wrong }: AnswerWords): boolean {
  const said = new Set(answer.toLowerCase().match(/[a-z]+|\d+/g));
  return right.some((word) => said.has(word)) && !wrong.some((word) => said.has(word));
}
