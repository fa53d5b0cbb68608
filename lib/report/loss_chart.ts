/** The loss of a run as a picture that stands alone. */
import { lineChart } from './line_chart.js';

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

/** Draws loss against update: every value thin, a smoothed line over it, evaluations as points. Returns the SVG's text. */
export async function lossChart(points: readonly LossPoint[], options: LossChartOptions = {}): Promise<string> {
  const chartPoint = ({ step, loss }: LossPoint): { step: number; value: number } => ({ step, value: loss });
  const title = options.title ?? 'Training loss';
  return await lineChart(points.map(chartPoint), {
    description: options.subtitle === undefined ? title : `${title}: ${options.subtitle}`,
    title,
    subtitle: options.subtitle,
    valueTitle: 'loss per target token (nats)',
    smoothed: true,
    evaluation: (options.evaluation ?? []).map(chartPoint),
    width: 820,
    height: 460,
  });
}
