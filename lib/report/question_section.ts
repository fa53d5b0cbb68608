/** Questions before and after training, side by side, with their pictures. */
import { formatCount } from '../format.js';
import { type Html, type HtmlValue, html } from './html.js';
import { type Accuracy, accuracies, type QuestionRecord } from './questions.js';

/** Undefined if nothing was asked. */
export function questionSection(questions: readonly QuestionRecord[]): Html | undefined {
  if (questions.length === 0) return undefined;
  return html`
${accuracyTable(accuracies(questions))}
${questionTables(questions)}`;
}

function accuracyTable(list: readonly Accuracy[]): Html | undefined {
  const all = list.at(-1);
  if (all === undefined) return undefined;
  const change = percent(all.after, all.asked) - percent(all.before, all.asked);
  const row = (accuracy: Accuracy, name: string): Html => html`
<tr><th scope="row">${name}</th><td class="number">${formatCount(accuracy.asked)}</td>${share(accuracy.before, accuracy.asked)}${share(accuracy.after, accuracy.asked)}<td class="number">${points(accuracy)}</td></tr>`;
  return html`
<div class="card">
<p><strong>${formatCount(all.before)} of ${formatCount(all.asked)}</strong> answers were right before, <strong>${formatCount(all.after)}</strong> after: ${
    change === 0 ? 'no change' : `${signed(change)} percentage points`
  }.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Right answers">
<table>
<caption>Right answers; the change is in percentage points</caption>
<thead><tr><th scope="col">questions</th><th scope="col" class="number">asked</th><th scope="col" class="number">before</th><th scope="col" class="number">after</th><th scope="col" class="number">change</th></tr></thead>
<tbody>${list.slice(0, -1).map((accuracy) => row(accuracy, accuracy.group!))}</tbody>
<tfoot>${row(all, 'all')}</tfoot>
</table>
</div>
</div>`;
}

function percent(part: number, whole: number): number {
  return (100 * part) / whole;
}

function signed(value: number): string {
  return `${value > 0 ? '+' : value < 0 ? '−' : ''}${Math.abs(value).toFixed(1)}`;
}

function points({ asked, before, after }: Accuracy): string {
  return signed(percent(after, asked) - percent(before, asked));
}

function share(right: number, asked: number): Html {
  const value = percent(right, asked);
  const bar = html`<span class="bar" aria-hidden="true"><span style="width:${value.toFixed(1)}%"></span></span>`;
  return html`<td class="number">${bar}<span class="percent">${value.toFixed(1)} %</span></td>`;
}

/** So many are seen at once; the others wait behind a click. */
const SHOWN = 12;

function questionTables(questions: readonly QuestionRecord[]): Html {
  const columns = columnsFor(questions);
  const numbered = questions.map((question, i) => ({ question, number: i + 1 }));
  const rest = numbered.slice(SHOWN);
  return html`
<div class="card questions">${table(numbered.slice(0, SHOWN), columns)}</div>${
    rest.length > 0 &&
    html`
<details class="card questions">
<summary>${rest.length === 1 ? 'One more question' : `The other ${formatCount(rest.length)} questions`}</summary>
${table(rest, columns)}
</details>`
  }`;
}

interface Numbered {
  readonly question: QuestionRecord;
  /** Its place in the file, from 1. */
  readonly number: number;
}

interface Column {
  readonly name: string;
  readonly style?: string;
  readonly content: (row: Numbered) => HtmlValue;
}

/** Pictures and expected answers have a column if there are any. */
function columnsFor(questions: readonly QuestionRecord[]): Column[] {
  const columns: (Column | false)[] = [
    questions.some(({ picture }) => picture !== undefined) && { name: 'picture', style: 'picture', content: pictureOf },
    {
      name: 'question',
      style: 'asked',
      content: ({ question: { question, group } }) => [
        question,
        group !== undefined && html`<span class="group" dir="auto">${group}</span>`,
      ],
    },
    questions.some(({ expected }) => expected !== undefined) && {
      name: 'expected',
      style: 'expected',
      content: ({ question }) => question.expected ?? '–',
    },
    { name: 'before', content: ({ question }) => answer(question.before, question.right?.before) },
    { name: 'after', content: ({ question }) => answer(question.after, question.right?.after) },
  ];
  return columns.filter((column) => column !== false);
}

/** The roles are said in words too: on a telephone a table is laid out as blocks, and browsers then forget that it is one. */
function table(rows: readonly Numbered[], columns: readonly Column[]): Html {
  const styleOf = ({ style }: Column): HtmlValue => style !== undefined && html` class="${style}"`;
  return html`
<table role="table" aria-label="Questions with their answers before and after">
<thead role="rowgroup"><tr role="row">${columns.map(
    (column) => html`<th role="columnheader" scope="col"${styleOf(column)}>${column.name}</th>`,
  )}</tr></thead>
<tbody role="rowgroup">${rows.map(
    (row) => html`
<tr role="row">${columns.map(
      (column) => html`<td role="cell"${styleOf(column)} dir="auto" data-label="${column.name}">${column.content(row)}</td>`,
    )}</tr>`,
  )}
</tbody>
</table>`;
}

function pictureOf({ question: { picture, alt }, number }: Numbered): Html | undefined {
  if (picture === undefined) return undefined;
  const { dataUrl, width, height } = picture;
  return html`<img src="${dataUrl}" width="${width}" height="${height}" alt="${alt ?? `The picture of question ${number}`}">`;
}

function answer(text: string, right: boolean | undefined): HtmlValue {
  if (right === undefined) return text === '' ? '–' : text;
  return [text, right ? html`<span class="mark right">✓ right</span>` : html`<span class="mark wrong">✗ wrong</span>`];
}
