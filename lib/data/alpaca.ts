/**
 * Alpaca rows, in every spelling that the seed's converter takes, as a user's and an assistant's text.
 *
 * instruction: first non-blank string among instruction, prompt, text, question, query; input: among input, context, source, examples;
 * output: among output, response, completion, answer, reply, else label, labels, gold, target (a string, or a list's first string).
 * All are trimmed. The image is the value of `image`, else `img`, else `image_path`, as it is.
 */
import { pythonStrip } from './text.js';

export const INSTRUCTION_FIELDS: readonly string[] = ['instruction', 'prompt', 'text', 'question', 'query'];
export const INPUT_FIELDS: readonly string[] = ['input', 'context', 'source', 'examples'];
export const OUTPUT_FIELDS: readonly string[] = ['output', 'response', 'completion', 'answer', 'reply'];
export const LABEL_FIELDS: readonly string[] = ['label', 'labels', 'gold', 'target'];
const IMAGE_FIELDS: readonly string[] = ['image', 'img', 'image_path'];

export interface AlpacaTexts {
  /** Instruction, blank line, `Input:` and the input; '' where the row has neither. */
  readonly user: string;
  /** '' where the row has none. */
  readonly assistant: string;
  /** The field that holds the image; undefined where the row has none, or null in it. */
  readonly imageField: string | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/** The first of `fields` that holds a non-blank string, trimmed; '' if none does. */
function firstText(row: Fields, fields: readonly string[]): string {
  for (const field of fields) {
    const value = row[field];
    if (typeof value === 'string') {
      const text = pythonStrip(value);
      if (text !== '') return text;
    }
  }
  return '';
}

function labelText(row: Fields): string {
  for (const field of LABEL_FIELDS) {
    const value = row[field];
    if (typeof value === 'string') {
      const text = pythonStrip(value);
      if (text !== '') return text;
    }
    // A list of labels ends the search even where its first string is blank.
    if (Array.isArray(value) && typeof value[0] === 'string') return pythonStrip(value[0]);
  }
  return '';
}

/** Reads a row by the rules above. Never fails: what is missing comes back empty. */
export function alpacaTexts(row: Fields): AlpacaTexts {
  const instruction = firstText(row, INSTRUCTION_FIELDS);
  const input = firstText(row, INPUT_FIELDS);
  let user = instruction;
  if (input !== '') user = instruction === '' ? `Input:\n${input}` : `${instruction}\n\nInput:\n${input}`;
  const imageField = IMAGE_FIELDS.find((field) => Object.hasOwn(row, field));
  return {
    user,
    assistant: firstText(row, OUTPUT_FIELDS) || labelText(row),
    imageField: imageField !== undefined && row[imageField] !== null ? imageField : undefined,
  };
}
