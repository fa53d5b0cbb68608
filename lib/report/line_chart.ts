/** A value over the updates of a run as a picture: an SVG by vega-lite, with no browser and no DOM. */
import type { TopLevelSpec } from 'vega-lite';

export interface ChartPoint {
  readonly step: number;
  readonly value: number;
}

/** Colours and font, as SVG attributes take them. */
export interface ChartPalette {
  readonly background: string;
  readonly ink: string;
  readonly quiet: string;
  readonly grid: string;
  readonly axis: string;
  /** Every value, where a smoothed line lies over them. */
  readonly raw: string;
  readonly line: string;
  readonly evaluation: string;
  readonly font: string;
}

/** For a picture that stands alone, on white. */
export const PAPER: ChartPalette = {
  background: 'white',
  ink: '#1f2933',
  quiet: '#616e7c',
  grid: '#e8ecf0',
  axis: '#cbd2d9',
  raw: '#9ec5e8',
  line: '#1769aa',
  evaluation: '#d9480f',
  font: 'system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif',
};

export interface LineChartOptions {
  /** What the picture shows, in words, for who does not see it. */
  readonly description: string;
  readonly title?: string | undefined;
  readonly subtitle?: string | undefined;
  readonly valueTitle: string;
  /** d3-format of the values on the axis. */
  readonly valueFormat?: string;
  /** Whether the axis of the values begins at 0. Default: false. */
  readonly fromZero?: boolean;
  /** Draw the values thin and their smoothed course over them. Default: false. */
  readonly smoothed?: boolean;
  /** Drawn as points. */
  readonly evaluation?: readonly ChartPoint[];
  readonly width: number;
  readonly height: number;
  readonly palette?: ChartPalette;
}

/** More points than this are not told apart in a picture. */
const MOST_POINTS = 800;

/** Of each of so many stretches of the run the least and the greatest value: what the line looks like, in a fraction of its points. */
function thinned(points: readonly ChartPoint[]): readonly ChartPoint[] {
  if (points.length <= MOST_POINTS) return points;
  const kept: ChartPoint[] = [];
  for (const stretch of stretches(points, MOST_POINTS / 2)) {
    let low = stretch[0]!;
    let high = low;
    for (const point of stretch) {
      if (point.value < low.value) low = point;
      if (point.value > high.value) high = point;
    }
    kept.push(...(low === high ? [low] : low.step < high.step ? [low, high] : [high, low]));
  }
  return kept;
}

/** Of each of so many stretches of the run the mean. */
function averaged(points: readonly ChartPoint[]): readonly ChartPoint[] {
  if (points.length <= MOST_POINTS) return points;
  return stretches(points, MOST_POINTS).map((stretch) => ({
    step: stretch[stretch.length >> 1]!.step,
    value: stretch.reduce((sum, { value }) => sum + value, 0) / stretch.length,
  }));
}

function stretches(points: readonly ChartPoint[], count: number): (readonly ChartPoint[])[] {
  const edge = (i: number): number => Math.round((i * points.length) / count);
  return Array.from({ length: count }, (_, i) => points.slice(edge(i), edge(i + 1)));
}

/**
 * The values averaged with their neighbours under a Gaussian that spans a fortieth of the run: a line that neither lags behind
 * nor starts from a guess, as a running mean does.
 */
function smooth(points: readonly ChartPoint[]): ChartPoint[] {
  const sigma = Math.max(1, points.length / 40);
  const reach = Math.ceil(3 * sigma);
  return points.map(({ step }, i) => {
    let sum = 0;
    let weights = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(points.length - 1, i + reach); j++) {
      const weight = Math.exp(-0.5 * ((j - i) / sigma) ** 2);
      sum += weight * points[j]!.value;
      weights += weight;
    }
    return { step, value: sum / weights };
  });
}

/** Draws values against updates. Returns the SVG's text. */
export async function lineChart(points: readonly ChartPoint[], options: LineChartOptions): Promise<string> {
  const [vega, vegaLite] = await Promise.all([import('vega'), import('vega-lite')]);
  const palette = options.palette ?? PAPER;
  const series = [
    { name: 'each update', color: options.smoothed ? palette.raw : palette.line, points: thinned(points) },
    ...(options.smoothed ? [{ name: 'smoothed', color: palette.line, points: smooth(averaged(points)) }] : []),
    ...(options.evaluation?.length ? [{ name: 'evaluation', color: palette.evaluation, points: options.evaluation }] : []),
  ];
  const encoding = {
    x: {
      field: 'step',
      type: 'quantitative',
      title: 'update',
      axis: { format: 'd', tickMinStep: 1, grid: false, tickCount: Math.round(options.width / 70) },
      scale: { nice: false },
    },
    y: {
      field: 'value',
      type: 'quantitative',
      title: options.valueTitle,
      axis: { tickCount: Math.round(options.height / 45), ...(options.valueFormat && { format: options.valueFormat }) },
      scale: { zero: options.fromZero ?? false, nice: true },
    },
    color: {
      field: 'series',
      type: 'nominal',
      scale: { domain: series.map(({ name }) => name), range: series.map(({ color }) => color) },
      legend:
        series.length === 1 ? null : { title: null, orient: 'top-right', symbolType: 'stroke', symbolStrokeWidth: 3, offset: 4 },
    },
  };
  const mark = (name: string): object => {
    if (name === 'evaluation') return { type: 'point', filled: true, opacity: 1, size: 60 };
    if (name === 'smoothed') return { type: 'line', strokeWidth: 2.5, interpolate: 'monotone' };
    if (points.length === 1) return { type: 'point', filled: true, opacity: 1, size: 40 };
    return { type: 'line', strokeWidth: options.smoothed ? 1.25 : 1.75, interpolate: 'linear' };
  };
  const spec = {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    width: options.width,
    height: options.height,
    autosize: { type: 'fit', contains: 'padding' },
    padding: options.title === undefined ? 4 : 16,
    background: palette.background,
    ...(options.title !== undefined && {
      title: { text: options.title, ...(options.subtitle !== undefined && { subtitle: options.subtitle }) },
    }),
    data: { values: series.flatMap((one) => one.points.map((point) => ({ ...point, series: one.name }))) },
    layer: series.map(({ name }) => ({
      transform: [{ filter: { field: 'series', equal: name } }],
      mark: mark(name),
      encoding,
    })),
    config: {
      aria: false, // the picture is described as a whole
      font: palette.font,
      view: { stroke: null },
      title: {
        anchor: 'start',
        fontSize: 17,
        fontWeight: 600,
        color: palette.ink,
        subtitleColor: palette.quiet,
        subtitleFontSize: 12,
        subtitlePadding: 6,
        offset: 14,
      },
      axis: {
        labelColor: palette.quiet,
        titleColor: palette.ink,
        titleFontWeight: 500,
        titlePadding: 10,
        labelFontSize: 11,
        titleFontSize: 12,
        gridColor: palette.grid,
        domainColor: palette.axis,
        tickColor: palette.axis,
      },
      legend: { labelColor: palette.ink, labelFontSize: 11 },
    },
  };
  const view = new vega.View(vega.parse(vegaLite.compile(spec as unknown as TopLevelSpec).spec), { renderer: 'none' });
  try {
    const svg = await view.toSVG();
    return svg
      .replace('<svg ', `<svg role="img" aria-label="${escapeAttribute(options.description)}" `)
      .replace('<g ', '<g aria-hidden="true" ');
  } finally {
    view.finalize();
  }
}

function escapeAttribute(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}
