/** A run folder as one HTML file that needs nothing else: no network, no script, no second file. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../files.js';
import { renderPage } from './page.js';
import { type Accuracy, accuracies, QUESTIONS_FILE, readQuestions } from './questions.js';
import { readRun } from './run_record.js';

export interface ReportOptions {
  /** The output folder of a run. */
  readonly folder: string;
  /** The file to write. Default: `report.html` in the folder. */
  readonly output?: string | undefined;
  /** Questions asked before and after (see questions.ts for their form). Default: `questions.json` in the folder, if it is there. */
  readonly questions?: string | undefined;
}

export interface ReportResult {
  readonly output: string;
  readonly bytes: number;
  /** Updates that were done. */
  readonly steps: number;
  readonly questions: number;
  readonly accuracies: readonly Accuracy[];
}

/**
 * Writes the report of a run. The same folder gives the same bytes. Rejects with ERR_NOT_FOUND, ERR_USAGE if the folder holds no run,
 * ERR_BAD_DATA that names file and place, or ERR_IO.
 */
export async function writeReport(options: ReportOptions): Promise<ReportResult> {
  const run = await readRun(options.folder);
  const questionsPath = options.questions ?? (await ifThere(join(options.folder, QUESTIONS_FILE)));
  const questions = questionsPath === undefined ? [] : await readQuestions(questionsPath);
  const output = options.output ?? join(options.folder, 'report.html');
  const text = await renderPage(run, questions);
  await writeFileAtomic(output, text);
  return {
    output,
    bytes: Buffer.byteLength(text),
    steps: run.steps.at(-1)?.step ?? 0,
    questions: questions.length,
    accuracies: accuracies(questions),
  };
}

async function ifThere(path: string): Promise<string | undefined> {
  return await stat(path).then(
    () => path,
    () => undefined,
  );
}
