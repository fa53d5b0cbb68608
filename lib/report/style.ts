/**
 * How a report looks: light or dark as the reader's system is, one column on a telephone, fit for paper. Every pair of text and ground
 * has a contrast of at least 4.5 to 1 (WCAG AA), lines of charts at least 3 to 1.
 */

export const STYLE: string = `
:root {
  color-scheme: light dark;
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b2530; --quiet: #566371; --line: #e4e8ed; --axis: #b4bec8;
  --accent: #1769aa; --chart-line: #12507f; --chart-raw: #5594cb; --chart-evaluation: #c2410c;
  --right: #1a7340; --right-ground: #e5f5eb; --wrong: #b3261e; --wrong-ground: #fcebea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12171d; --card: #1a2129; --ink: #e6ebf0; --quiet: #9dabb9; --line: #2b3540; --axis: #4b5966;
    --accent: #6cb4ee; --chart-line: #8cc8f8; --chart-raw: #4478a5; --chart-evaluation: #fb923c;
    --right: #6fd79a; --right-ground: #173523; --wrong: #ff9b92; --wrong-ground: #45201d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main, header, footer { max-width: 68rem; margin-inline: auto; padding-inline: clamp(1rem, 4vw, 2rem); }
header { padding-block: 2.5rem 0.5rem; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.25rem); line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.4rem; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin-top: 1.25rem; font-size: 0.925rem; }
a { color: var(--accent); text-underline-offset: 0.2em; }
h2 { font-size: 1.3rem; line-height: 1.3; letter-spacing: -0.01em; margin: 3rem 0 1rem; }
h3 { font-size: 1rem; margin: 0 0 0.75rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
.quiet, figcaption, caption, footer { color: var(--quiet); }
.state { display: inline-block; padding: 0.1rem 0.65rem; border-radius: 1rem; font-weight: 600; font-size: 0.875rem; border: 1px solid currentColor; }
.state.done { color: var(--right); }
.state.open { color: var(--chart-evaluation); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1px; margin: 1.5rem 0 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 0.75rem; overflow: hidden; }
.figures > div { background: var(--card); padding: 0.9rem 1.1rem; display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dt { color: var(--quiet); font-size: 0.85rem; }
.figures dd { margin: 0; font-size: 1.2rem; font-weight: 600; letter-spacing: -0.01em; line-height: 1.45; }
.card, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 0.75rem; padding: 1.1rem 1.25rem; margin: 0 0 1rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart figcaption { font-size: 0.875rem; margin-top: 0.6rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; margin-bottom: 1rem; }
.charts .chart { margin: 0; }
.narrow { display: none; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.925rem; }
caption { text-align: start; padding-bottom: 0.6rem; font-size: 0.9rem; }
th, td { text-align: start; vertical-align: top; padding: 0.5rem 1rem 0.5rem 0; border-top: 1px solid var(--line); }
td, .options th { overflow-wrap: anywhere; }
thead th { border-top: 0; color: var(--quiet); font-weight: 600; font-size: 0.85rem; }
tbody th { font-weight: 500; }
th.number, td.number { text-align: end; white-space: nowrap; overflow-wrap: normal; }
tfoot th, tfoot td { border-top: 2px solid var(--axis); font-weight: 600; }
.facts th { width: 32%; color: var(--quiet); }
.facts tr:first-child > * { border-top: 0; }
.options { columns: 2 24rem; column-gap: 1rem; }
.options .card { break-inside: avoid; }
.options th { width: 55%; font-weight: 400; }
.options td { text-align: end; padding-inline-end: 0; }
.options .set :is(th, td) { font-weight: 650; }
code { font: 0.875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
.bar { display: inline-block; vertical-align: middle; width: 7rem; height: 0.55rem; border-radius: 0.3rem; background: var(--line); overflow: hidden; margin-inline-end: 0.6rem; }
.bar > span { display: block; height: 100%; background: var(--accent); border-radius: inherit; }
.questions table { table-layout: fixed; }
.questions .picture { width: 8rem; }
.questions img { display: block; width: 7rem; height: auto; border-radius: 0.4rem; border: 1px solid var(--line); }
.questions .asked { width: 27%; }
.questions .expected { width: 14%; }
.mark { display: block; width: fit-content; margin-top: 0.3rem; padding: 0 0.5rem; border-radius: 0.3rem; font-size: 0.8rem; font-weight: 600; }
.mark.right { color: var(--right); background: var(--right-ground); }
.mark.wrong { color: var(--wrong); background: var(--wrong-ground); }
.group { display: block; color: var(--quiet); font-size: 0.8rem; font-weight: 400; }
.percent { display: inline-block; min-width: 4.2rem; }
summary { cursor: pointer; font-weight: 600; }
details[open] summary { margin-bottom: 1rem; }
footer { padding-block: 3rem; font-size: 0.875rem; }
@media (max-width: 44rem) {
  .wide { display: none; }
  .narrow { display: block; }
  .card, .chart { padding: 0.8rem 0.75rem; }
  .bar { display: none; }
  .percent { min-width: 0; }
  th, td { padding-inline-end: 0.6rem; }
  .questions thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .questions :is(table, tbody, tr, td) { display: block; }
  .questions tr { padding-block: 0.9rem; border-top: 1px solid var(--line); }
  .questions tr:first-child { border-top: 0; padding-top: 0; }
  .questions td { border: 0; padding: 0.15rem 0; width: auto; }
  .questions :is(.picture, .asked, .expected) { width: auto; }
  .questions .asked { font-weight: 600; }
  .questions td:empty { display: none; }
  .questions td:is([data-label=before], [data-label=after], [data-label=expected])::before { content: attr(data-label); display: block; color: var(--quiet); font-size: 0.8rem; }
}
@media print {
  :root { --ground: #fff; }
  .card, .chart, .questions tr { break-inside: avoid; }
  .card:has(.scroll) { break-inside: auto; }
}
`.trim();
