/** The report as a page: its sections from what the run folder says. */
import { formatBytes, formatCount, formatSeconds } from '../format.js';
import { snakeCase } from '../options.js';
import { TRAIN_OPTIONS } from '../train/args.js';
import { chartSection, formatNumber } from './charts.js';
import { type Html, type HtmlValue, html, trusted } from './html.js';
import { questionSection } from './question_section.js';
import type { QuestionRecord } from './questions.js';
import { modelName, type RunRecord } from './run_record.js';
import { STYLE } from './style.js';

/** Nothing is loaded and nothing runs, whatever text a run folder smuggles in. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/** The page's text: UTF-8, whole in itself. */
export async function renderPage(run: RunRecord, questions: readonly QuestionRecord[]): Promise<string> {
  const title = titleOf(run);
  const sections: Section[] = [
    { id: 'curves', title: 'How it went', content: [await chartSection(run), numbersTable(run)] },
    { id: 'questions', title: 'The same questions, before and after', content: questionSection(questions) },
    { id: 'about', title: 'Model, data and machine', content: aboutTable(run) },
    { id: 'checkpoints', title: 'Checkpoints', content: checkpointTable(run) },
    { id: 'options', title: 'Options', content: optionTables(run) },
  ].filter(({ content }) => content !== undefined);
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="vltune">
<title>${title}</title>
<style>${trusted(STYLE)}</style>
</head>
<body>
<header>
<h1>${title}</h1>
${stateLine(run)}
${figures(run)}
${navigation(sections)}
</header>
<main>${sections.map(
    ({ id, title: name, content }) => html`
<section aria-labelledby="${id}">
<h2 id="${id}">${name}</h2>${content}
</section>`,
  )}
</main>
<footer>Made by vltune from <code>${run.folder}</code>.</footer>
</body>
</html>
`;
  return page.text;
}

interface Section {
  readonly id: string;
  readonly title: string;
  /** Undefined: there is nothing to tell, and no such section. */
  readonly content: HtmlValue;
}

function navigation(sections: readonly Section[]): Html {
  return html`<nav aria-label="Sections">${sections.map(({ id, title }) => html`<a href="#${id}">${title}</a>`)}</nav>`;
}

function modelOf(run: RunRecord): string | undefined {
  const model = run.start?.model ?? run.options?.model;
  return typeof model === 'string' ? model : undefined;
}

function titleOf(run: RunRecord): string {
  const model = modelOf(run);
  return model === undefined ? 'Training run' : `Fine-tuning of ${modelName(model)}`;
}

/** `30 November 2026, 02:18 UTC`. */
function formatTime(time: Date): string {
  const date = time.toLocaleDateString('en-GB', { day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC' });
  return `${date}, ${time.toISOString().slice(11, 16)} UTC`;
}

function stateLine(run: RunRecord): Html {
  const time = run.lastTime && html`<time datetime="${run.lastTime.toISOString()}">${formatTime(run.lastTime)}</time>`;
  if (run.end !== undefined) return html`<p><span class="state done">finished</span> <span class="quiet">${time}</span></p>`;
  if (run.start !== undefined)
    return html`<p><span class="state open">not finished</span> <span class="quiet">last heard of ${time}</span></p>`;
  return html`<p class="quiet">From the newest checkpoint; there is no log of the run.</p>`;
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}

function figures(run: RunRecord): Html {
  const first = run.steps[0];
  const last = run.steps.at(-1);
  const evaluation = run.evaluations.at(-1);
  const rate = numberOf(run.end?.tokens_per_second);
  const peak = numberOf(run.end?.peak_memory_bytes);
  const parameters = numberOf(run.start?.trainable_parameters);
  const facts: [string, string | undefined][] = [
    [
      first && last && first !== last ? `training loss, from ${first.loss.toPrecision(3)}` : 'training loss',
      last?.loss.toPrecision(3),
    ],
    ['evaluation loss', evaluation?.loss.toPrecision(3)],
    ['updates', `${formatCount(last?.step ?? 0)}${run.totalSteps === undefined ? '' : ` of ${formatCount(run.totalSteps)}`}`],
    ['time', run.seconds === undefined ? undefined : formatSeconds(run.seconds)],
    ['tokens per second', rate === undefined ? undefined : formatCount(rate)],
    ['peak memory', peak === undefined ? undefined : formatBytes(peak)],
    ['trained parameters', parameters === undefined ? undefined : formatCount(parameters)],
  ];
  return html`<dl class="figures">${facts.map(
    ([name, value]) => value !== undefined && html`<div><dt>${name}</dt><dd>${value}</dd></div>`,
  )}</dl>`;
}

/** More rows than this nobody reads; the log has them all. */
const MOST_ROWS = 200;

function numbersTable(run: RunRecord): Html | undefined {
  const { steps } = run;
  if (steps.length === 0) return undefined;
  const every = Math.ceil(steps.length / MOST_ROWS);
  const shown = steps.filter((_, i) => i % every === 0 || i === steps.length - 1);
  const evaluations = new Map(run.evaluations.map(({ step, loss }) => [step, loss]));
  type Step = (typeof steps)[number];
  const optional = (show: (value: number) => string, value: number | undefined): string =>
    value === undefined ? '' : show(value);
  const columns: [string, (step: Step) => string][] = [
    ['epoch', ({ epoch }) => optional((value) => value.toFixed(2), epoch)],
    ['loss', ({ loss }) => formatNumber(loss)],
    ['evaluation loss', ({ step }) => optional(formatNumber, evaluations.get(step))],
    ['gradient norm', ({ gradNorm }) => optional(formatNumber, gradNorm)],
    ['learning rate', ({ learningRate }) => optional(formatNumber, learningRate)],
    ['tokens/s', ({ tokensPerSecond }) => optional(formatCount, tokensPerSecond)],
    ['memory', ({ memoryBytes }) => optional(formatBytes, memoryBytes)],
  ];
  const used = columns.filter(([, show]) => shown.some((step) => show(step) !== ''));
  const caption = every === 1 ? 'Every logged update' : `Every ${ordinal(every)} logged update`;
  return html`
<details class="card">
<summary>The numbers as a table</summary>
<div class="scroll" tabindex="0" role="region" aria-label="The numbers as a table">
<table>
<caption>${caption}</caption>
<thead><tr><th scope="col" class="number">update</th>${used.map(([name]) => html`<th scope="col" class="number">${name}</th>`)}</tr></thead>
<tbody>${shown.map(
    (step) => html`
<tr><th scope="row" class="number">${formatCount(step.step)}</th>${used.map(([, show]) => html`<td class="number">${show(step)}</td>`)}</tr>`,
  )}
</tbody>
</table>
</div>
</details>`;
}

function ordinal(n: number): string {
  const suffix = n % 100 >= 11 && n % 100 <= 13 ? 'th' : (['th', 'st', 'nd', 'rd'][n % 10] ?? 'th');
  return `${formatCount(n)}${suffix}`;
}

function aboutTable(run: RunRecord): Html | undefined {
  const { start, end, options } = run;
  const count = (field: string): string | undefined => {
    const value = numberOf(start?.[field]);
    return value === undefined ? undefined : formatCount(value);
  };
  const datasets = (value: unknown): string | undefined =>
    Array.isArray(value) && value.length > 0 ? value.map(String).join(', ') : undefined;
  const planned = numberOf(start?.planned_memory_bytes);
  const peak = numberOf(end?.peak_memory_bytes);
  const truncated = numberOf(start?.truncated_rows);
  const skipped = numberOf(start?.skipped_rows);
  const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
  const facts: [string, string | undefined][] = [
    ['model', modelOf(run)],
    ['training rows from', datasets(options?.dataset)],
    ['rows', count('rows')],
    ['tokens', count('tokens')],
    ['tokens to learn', count('target_tokens')],
    ['rows that lost their end', truncated ? formatCount(truncated) : undefined],
    ['rows left out', skipped ? formatCount(skipped) : undefined],
    ['evaluation rows from', datasets(options?.eval_dataset)],
    ['trained parameters', count('trainable_parameters')],
    ['machine', [text(start?.machine), text(start?.device)].filter(Boolean).join(', ') || undefined],
    // Of a run of one process it goes without saying.
    ['processes', numberOf(start?.processes) === 1 ? undefined : count('processes')],
    ['memory planned', planned === undefined ? undefined : formatBytes(planned)],
    ['memory at its peak', peak === undefined ? undefined : formatBytes(peak)],
    ['started', run.starts > 1 ? `${formatCount(run.starts)} times` : undefined],
    ['vltune', text(start?.version)],
  ];
  const known = facts.filter(([, value]) => value !== undefined);
  if (known.length === 0) return undefined;
  return html`
<div class="card">
<table class="facts">
<tbody>${known.map(
    ([name, value]) => html`
<tr><th scope="row">${name}</th><td dir="auto">${value}</td></tr>`,
  )}
</tbody>
</table>
</div>`;
}

function checkpointTable({ checkpoints }: RunRecord): Html | undefined {
  if (checkpoints.length === 0) return undefined;
  return html`
<div class="card">
<table>
<thead><tr><th scope="col">folder</th><th scope="col" class="number">update</th><th scope="col" class="number">size</th></tr></thead>
<tbody>${checkpoints.map(
    ({ name, step, bytes }) => html`
<tr><th scope="row"><code>${name}</code></th><td class="number">${formatCount(step)}</td><td class="number">${formatBytes(bytes)}</td></tr>`,
  )}
</tbody>
</table>
</div>`;
}

interface ShownOption {
  readonly name: string;
  readonly value: unknown;
  readonly isSet: boolean;
}

/** By the groups of `vltune train --help`; what that does not know comes last. */
function optionTables({ options }: RunRecord): Html | undefined {
  if (options === undefined) return undefined;
  const groups = new Map<string, ShownOption[]>();
  const specs = new Map(Object.entries(TRAIN_OPTIONS).map(([key, spec]) => [snakeCase(key), spec]));
  for (const [name, value] of Object.entries(options)) {
    const spec = specs.get(name);
    const group = spec?.group ?? 'Other';
    const isSet = spec?.fallback !== undefined && JSON.stringify(spec.fallback) !== JSON.stringify(value);
    groups.set(group, [...(groups.get(group) ?? []), { name, value, isSet }]);
  }
  return html`
<p class="quiet">Bold: another value than the default.</p>
<div class="options">${[...groups].map(
    ([group, list]) => html`
<div class="card">
<table>
<caption>${group}</caption>
<tbody>${list.map(
      ({ name, value, isSet }) => html`
<tr${isSet && trusted(' class="set"')}><th scope="row"><code>${name}</code></th><td dir="auto">${showOption(value)}</td></tr>`,
    )}
</tbody>
</table>
</div>`,
  )}
</div>`;
}

function showOption(value: unknown): string {
  if (value === null || (Array.isArray(value) && value.length === 0)) return '–';
  if (Array.isArray(value)) return value.map(showOption).join(', ');
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
