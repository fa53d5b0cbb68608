/** The pictures of a report: what a run's log tells of every update, in colours that follow the page's. */
import { formatBytes, formatCount } from '../format.js';
import { type Html, html, trusted } from './html.js';
import { type ChartPalette, type ChartPoint, lineChart } from './line_chart.js';
import type { RunRecord, StepRecord } from './run_record.js';

/** The page's own colours (style.ts), so that a picture is light or dark with it. */
const PAGE: ChartPalette = {
  background: 'transparent',
  ink: 'var(--ink)',
  quiet: 'var(--quiet)',
  grid: 'var(--line)',
  axis: 'var(--axis)',
  raw: 'var(--chart-raw)',
  line: 'var(--chart-line)',
  evaluation: 'var(--chart-evaluation)',
  font: 'inherit',
};

/** Four significant digits, without zeros that say nothing: `0.1234`, `12.3`, `3e-5`. */
export function formatNumber(value: number): string {
  if (value === 0) return '0';
  const magnitude = Math.abs(value);
  if (magnitude < 1e-3 || magnitude >= 1e6)
    return value
      .toExponential(2)
      .replace(/\.?0+e/, 'e')
      .replace('e+', 'e');
  return String(Number(value.toPrecision(4)));
}

interface Curve {
  readonly title: string;
  readonly value: (step: StepRecord) => number | undefined;
  readonly valueTitle: string;
  readonly valueFormat?: string;
  readonly fromZero: boolean;
  readonly show: (value: number) => string;
}

/** Bytes on an axis are counted in the unit of the greatest. */
function memoryCurve(run: RunRecord): Curve {
  const most = Math.max(0, ...run.steps.map(({ memoryBytes }) => memoryBytes ?? 0));
  const [unit, size] = most >= 1e9 ? ['GB', 1e9] : ['MB', 1e6];
  return {
    title: run.start?.device === 'cuda' ? 'Memory in use on the GPU' : 'Memory in use',
    value: ({ memoryBytes }) => memoryBytes && memoryBytes / size,
    valueTitle: unit as string,
    fromZero: true,
    show: (value) => formatBytes(Math.round(value * (size as number))),
  };
}

function curves(run: RunRecord): Curve[] {
  return [
    {
      title: 'Learning rate',
      value: ({ learningRate }) => learningRate,
      valueTitle: 'learning rate',
      valueFormat: '.3~g',
      fromZero: true,
      show: formatNumber,
    },
    {
      title: 'Gradient norm',
      value: ({ gradNorm }) => gradNorm,
      valueTitle: 'norm, before clipping',
      fromZero: true,
      show: formatNumber,
    },
    {
      title: 'Throughput',
      value: ({ tokensPerSecond }) => tokensPerSecond,
      valueTitle: 'tokens per second',
      valueFormat: '~s',
      fromZero: true,
      show: formatCount,
    },
    memoryCurve(run),
  ];
}

const SMALL = { width: 380, height: 210 };
const WIDE = { width: 820, height: 320 };
const NARROW = { width: 360, height: 270 };

/** The loss, large, then what else the log tells; a curve that it says nothing of is left out. */
export async function chartSection(run: RunRecord): Promise<Html> {
  if (run.steps.length === 0) return html`<p>No update has been logged yet.</p>`;
  const losses = run.steps.map(({ step, loss }) => ({ step, value: loss }));
  const evaluation = run.evaluations.map(({ step, loss }) => ({ step, value: loss }));
  const summary = summaryOf(losses, formatNumber) + evaluationSummary(evaluation);
  const loss = {
    description: `Training loss. ${summary}`,
    valueTitle: 'loss per target token (nats)',
    smoothed: losses.length > 2,
    evaluation,
    palette: PAGE,
  };
  // A wide picture shrunk to a telephone has letters that nobody reads: there is a second one for it, and the page shows one of them.
  const [wide, narrow] = await Promise.all([WIDE, NARROW].map((size) => lineChart(losses, { ...loss, ...size })));
  return html`
<figure class="chart">
<h3>Training loss</h3>
<div class="wide">${trusted(wide!)}</div>
<div class="narrow">${trusted(narrow!)}</div>
<figcaption>${summary}</figcaption>
</figure>
<div class="charts">${await Promise.all(curves(run).map((curve) => smallChart(run, curve)))}</div>`;
}

async function smallChart(run: RunRecord, curve: Curve): Promise<Html | undefined> {
  const points = run.steps.flatMap((step): ChartPoint[] => {
    const value = curve.value(step);
    return value === undefined ? [] : [{ step: step.step, value }];
  });
  if (points.length === 0) return undefined;
  const summary = summaryOf(points, curve.show);
  const { title, valueTitle, valueFormat, fromZero } = curve;
  const svg = await lineChart(points, {
    description: `${title}. ${summary}`,
    valueTitle,
    ...(valueFormat !== undefined && { valueFormat }),
    fromZero,
    palette: PAGE,
    ...SMALL,
  });
  return html`
<figure class="chart">
<h3>${title}</h3>
${trusted(svg)}
<figcaption>${summary}</figcaption>
</figure>`;
}

/** What a curve shows, in words. */
function summaryOf(points: readonly ChartPoint[], show: (value: number) => string): string {
  const first = points[0]!;
  if (points.length === 1) return `${show(first.value)} at update ${formatCount(first.step)}.`;
  const last = points.at(-1)!;
  const extreme = (sign: 1 | -1): ChartPoint => points.reduce((a, b) => (sign * b.value > sign * a.value ? b : a));
  const at = (name: string, { step, value }: ChartPoint): string => `${name} ${show(value)} at update ${formatCount(step)}`;
  return `From ${show(first.value)} to ${show(last.value)}; ${at('least', extreme(-1))}, ${at('greatest', extreme(1))}.`;
}

function evaluationSummary(points: readonly ChartPoint[]): string {
  return points.length === 0 ? '' : ` On the evaluation rows: ${summaryOf(points, formatNumber).replace(/^F/, 'f')}`;
}
