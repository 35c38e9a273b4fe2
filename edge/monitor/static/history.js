// Rate and latency of the last minutes, by uPlot.

import uPlot from "./uplot/uPlot.esm.js";
import { getJson } from "./live.js";
import { count, number } from "./words.js";

const SECONDS = 600;
const STEP_SECONDS = 10;
const HEIGHT_PX = 150;
/** Cameras differ by their dashes, not by colours. */
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];

export class History {
  #places = [...document.querySelectorAll("#history .plot")];
  #plots = [];
  #found = null;

  constructor() {
    new ResizeObserver(() => this.draw()).observe(document.getElementById("history"));
  }

  async load() {
    this.#found = await getJson(`/api/history?seconds=${SECONDS}`);
    this.draw();
  }

  /** Draw anew, in the width and the colours that the page has now. */
  draw() {
    if (!this.#found) return;
    this.#plots.forEach((plot) => plot.destroy());
    this.#plots = this.#places.map((place) => plotOf(place, this.#found));
  }
}

function plotOf(place, found) {
  const { color: ink, borderTopColor: line } = getComputedStyle(place);
  const { series: quantity } = place.dataset;
  const names = Object.keys(found[quantity]);
  const data = inSteps(found.t, Object.values(found[quantity]), quantity === "rate");
  const font = "12px system-ui, sans-serif";
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font };
  const written = (_, ticks) => ticks.map((tick) => (tick % 1 ? number(tick, 1) : count(tick)));
  const series = { stroke: ink, width: 1.5, spanGaps: true, points: { show: false } };
  const options = {
    width: Math.max(200, place.clientWidth),
    height: HEIGHT_PX,
    legend: { show: names.length > 1, live: false },
    cursor: { show: false },
    axes: [
      { ...axis, values: "{HH}:{mm}", space: 80, size: 28 },
      { ...axis, size: 48, space: 28, values: written },
    ],
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(1, 1.15 * (high ?? 1))] } },
    series: [{}, ...names.map((label, i) => ({ ...series, label, dash: DASHES[i % 4] }))],
  };
  return new uPlot(options, data, place);
}

/** Sum up values per second over steps: a rate counts seconds without a frame, a latency leaves them out. */
function inSteps(times, series, isRate) {
  const first = times.findIndex((time) => time % STEP_SECONDS === 0);
  const starts = [];
  for (let at = first; at + STEP_SECONDS <= times.length; at += STEP_SECONDS) starts.push(at);
  const mean = (values) => {
    const known = values.filter((value) => value !== null);
    if (known.length === 0) return isRate ? 0 : null;
    return known.reduce((a, b) => a + b) / (isRate ? STEP_SECONDS : known.length);
  };
  return [
    starts.map((at) => times[at]),
    ...series.map((values) => starts.map((at) => mean(values.slice(at, at + STEP_SECONDS)))),
  ];
}
