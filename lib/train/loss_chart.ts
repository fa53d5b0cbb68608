/** The loss of a run as a picture: an SVG by vega-lite, with no browser and no DOM. */
import type { TopLevelSpec } from 'vega-lite';

export interface LossPoint {
  readonly step: number;
  /** Mean over the update's target tokens, in nats. */
  readonly loss: number;
}

export interface LossChartOptions {
  readonly title?: string;
  readonly subtitle?: string;
  /** Losses on the evaluation rows, drawn as points. */
  readonly evaluation?: readonly LossPoint[];
}

/**
 * The losses averaged with their neighbours under a Gaussian that spans a fortieth of the run: a line that neither lags behind
 * nor starts from a guess, as a running mean does.
 */
function smooth(points: readonly LossPoint[]): LossPoint[] {
  const sigma = Math.max(1, points.length / 40);
  const reach = Math.ceil(3 * sigma);
  return points.map(({ step }, i) => {
    let sum = 0;
    let weights = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(points.length - 1, i + reach); j++) {
      const weight = Math.exp(-0.5 * ((j - i) / sigma) ** 2);
      sum += weight * points[j]!.loss;
      weights += weight;
    }
    return { step, loss: sum / weights };
  });
}

const INK = '#1f2933';
const QUIET = '#7b8794';
const GRID = '#e8ecf0';
const RAW = '#9ec5e8';
const LINE = '#1769aa';
const EVALUATION = '#d9480f';

/** Draws loss against update: every value thin, a smoothed line over it, evaluations as points. Returns the SVG's text. */
export async function lossChart(points: readonly LossPoint[], options: LossChartOptions = {}): Promise<string> {
  const [vega, vegaLite] = await Promise.all([import('vega'), import('vega-lite')]);
  const rows = [
    ...points.map((point) => ({ ...point, series: 'each update' })),
    ...smooth(points).map((point) => ({ ...point, series: 'smoothed' })),
    ...(options.evaluation ?? []).map((point) => ({ ...point, series: 'evaluation' })),
  ];
  const series = options.evaluation?.length ? ['each update', 'smoothed', 'evaluation'] : ['each update', 'smoothed'];
  const x = {
    field: 'step',
    type: 'quantitative',
    title: 'update',
    axis: { format: 'd', tickMinStep: 1, grid: false },
    scale: { nice: false },
  };
  const y = { field: 'loss', type: 'quantitative', title: 'loss per target token (nats)', scale: { zero: false, nice: true } };
  const color = {
    field: 'series',
    type: 'nominal',
    scale: { domain: series, range: [RAW, LINE, EVALUATION].slice(0, series.length) },
    legend: { title: null, orient: 'top-right', symbolType: 'stroke', symbolStrokeWidth: 3, offset: 4 },
  };
  const encoding = { x, y, color };
  const only = (name: string): object => ({ filter: { field: 'series', equal: name } });
  const spec = {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    width: 720,
    height: 320,
    padding: 16,
    background: 'white',
    title: { text: options.title ?? 'Training loss', ...(options.subtitle === undefined ? {} : { subtitle: options.subtitle }) },
    data: { values: rows },
    layer: [
      { transform: [only('each update')], mark: { type: 'line', strokeWidth: 1.25, interpolate: 'linear' }, encoding },
      { transform: [only('smoothed')], mark: { type: 'line', strokeWidth: 2.5, interpolate: 'monotone' }, encoding },
      { transform: [only('evaluation')], mark: { type: 'point', filled: true, size: 60 }, encoding },
    ],
    config: {
      font: 'system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif',
      view: { stroke: null },
      title: {
        anchor: 'start',
        fontSize: 17,
        fontWeight: 600,
        color: INK,
        subtitleColor: QUIET,
        subtitleFontSize: 12,
        subtitlePadding: 6,
        offset: 14,
      },
      axis: {
        labelColor: QUIET,
        titleColor: INK,
        titleFontWeight: 500,
        titlePadding: 10,
        labelFontSize: 11,
        titleFontSize: 12,
        gridColor: GRID,
        domainColor: '#cbd2d9',
        tickColor: '#cbd2d9',
      },
      legend: { labelColor: INK, labelFontSize: 11 },
    },
  };
  const view = new vega.View(vega.parse(vegaLite.compile(spec as unknown as TopLevelSpec).spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
