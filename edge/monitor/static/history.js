// Rate and latency of the last minutes, by uPlot.

import uPlot from "./uplot/uPlot.esm.js";
import { exceptUnreachable, getJson } from "./live.js";
import { count, number } from "./words.js";

const SECONDS = 600;
const STEP_SECONDS = 10;
const HEIGHT_PX = 150;
/** Cameras differ by their dashes, not by colours. */
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];

export class History {
  #plots = [...document.querySelectorAll("#history .plot")].map((place) => ({ place, plot: null, cameras: "" }));

  constructor() {
    new ResizeObserver(() => this.#resize()).observe(document.getElementById("history"));
  }

  load() {
    return this.#load().catch(exceptUnreachable);
  }

  async #load() {
    const history = await getJson(`/api/history?seconds=${SECONDS}`);
    for (const each of this.#plots) this.#show(each, history.t, history[each.place.dataset.series]);
  }

  /** Draw again, with the colours of a theme that has changed. */
  restyle() {
    for (const each of this.#plots) {
      if (each.plot) this.#make(each, each.plot.data);
    }
  }

  #show(each, times, series) {
    const names = Object.keys(series);
    const data = inSteps(times, names.map((name) => series[name]), each.place.dataset.series === "rate");
    if (each.cameras === names.join()) each.plot?.setData(data);
    else {
      each.cameras = names.join();
      this.#make(each, data);
    }
  }

  #make(each, data) {
    each.plot?.destroy();
    const style = getComputedStyle(each.place);
    const ink = style.color;
    const line = style.borderTopColor;
    const names = each.cameras.split(",");
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const options = {
      width: Math.max(200, each.place.clientWidth),
      height: HEIGHT_PX,
      legend: { show: names.length > 1, live: false },
      cursor: { show: false },
      axes: [
        { ...axis, values: "{HH}:{mm}", space: 80, size: 28 },
        { ...axis, size: 48, space: 28, values: (_, ticks) => ticks.map((tick) => tick % 1 ? number(tick, 1) : count(tick)) },
      ],
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(1, 1.15 * (high ?? 1))] } },
      series: [
        {},
        ...names.map((label, i) => ({ label, stroke: ink, width: 1.5, dash: DASHES[i % 4], spanGaps: true, points: { show: false } })),
      ],
    };
    each.plot = new uPlot(options, data, each.place);
  }

  #resize() {
    for (const { place, plot } of this.#plots) {
      const width = Math.max(200, place.clientWidth);
      if (plot && plot.width !== width) plot.setSize({ width, height: HEIGHT_PX });
    }
  }
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
