// The histogram of the last scores, with a threshold to try. It changes nothing on the line.

import { getJson } from "./live.js";
import { Part, clock, count, logit, make, makeSvg, number, plural } from "./words.js";

const BINS = 60;
const STEP = 0.05;
const LARGE_STEP = 0.5;

export class Scores extends Part {
  #answer = null;
  #camera = null;
  #low = 0;
  #high = 1;
  #tried = 0;
  /** Product that is active, whose table holds the threshold; null if the line has no products. */
  product = null;

  constructor() {
    super(document.getElementById("scores"));
    this.find(".newer").onclick = () => this.load();
    this.find(".count").onchange = () => this.load();
    this.find(".camera-choice").onchange = () => this.load();
    this.find(".reset").onclick = () => {
      this.#showTolerance();
      this.#try(this.#answer.score_threshold);
    };
    this.find(".copy").onclick = () => this.#copy();
    this.find(".below").oninput = () => this.#try(this.#tried);
    const handle = this.find(".handle");
    handle.addEventListener("keydown", (event) => this.#key(event));
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) this.#try(this.#at(event.clientX));
    });
    this.find(".bars").addEventListener("pointerdown", (event) => this.#try(this.#at(event.clientX)));
  }

  setCameras(names) {
    const choice = this.find(".camera-choice");
    if ([...choice.options].map((option) => option.value).join() === names.join()) return;
    choice.replaceChildren(...names.map((name) => make("option", {}, name)));
    this.find(".which").hidden = names.length < 2;
    if (names.length) this.load();
  }

  async load() {
    const camera = this.find(".camera-choice").value;
    if (!camera || this.find(".handle:active")) return;
    const query = new URLSearchParams({ camera, n: this.find(".count").value });
    const answer = await getJson(`/api/scores?${query}`);
    const isFirst = this.#answer?.score_threshold !== answer.score_threshold || this.#camera !== camera;
    const isNewTolerance = this.#answer?.ignore_below_mm !== answer.ignore_below_mm || this.#camera !== camera;
    this.#answer = { ...answer, judged: answer.scores.filter((score) => score !== null) };
    this.#camera = camera;
    this.root.hidden = this.#answer.judged.length === 0;
    if (this.root.hidden) {
      this.#answer = null; // nothing of it is shown: the next one is the first
      return;
    }
    this.#setRange();
    if (isNewTolerance) this.#showTolerance();
    this.#try(isFirst ? answer.score_threshold : this.#tried);
    const { missed, from_ns: from, to_ns: to } = answer;
    const judged = this.#answer.judged.length;
    const unjudged = answer.scores.length - judged;
    this.find(".missed").hidden = missed === null;
    this.find(".missed").textContent = missed ?? "";
    this.find(".period").textContent = `${plural(judged, "frame")} from ${clock(from)} to ${clock(to)}` +
      (unjudged ? `; ${plural(unjudged, "more has", "more have")} no verdict and no score.` : ".");
  }

  /** Show the camera's own tolerance, as the line's file has it. */
  #showTolerance() {
    const { ignore_below_mm: below, tolerated_above_mm: above } = this.#answer;
    this.find(".below").value = below ?? "";
    this.find(".tolerate").hidden = below === null && above.every((mm) => mm === null);
  }

  #setRange() {
    const { judged, score_threshold: threshold } = this.#answer;
    const values = [...judged, threshold];
    const [least, greatest] = [Math.min(...values), Math.max(...values)];
    const margin = Math.max(0.5, 0.05 * (greatest - least));
    this.#low = least - margin;
    this.#high = greatest + margin;
    const step = niceStep((this.#high - this.#low) / 8);
    const first = Math.ceil(this.#low / step);
    const ticks = Array.from({ length: Math.floor(this.#high / step) - first + 1 }, (_, i) => (first + i) * step);
    this.find(".axis").replaceChildren(
      ...ticks.map((value) => {
        const tick = make("span", {}, number(value, step < 1 ? 1 : 0));
        tick.style.left = `${100 * this.#share(value)}%`;
        return tick;
      }),
    );
    this.find(".mark").style.left = `${100 * this.#share(threshold)}%`;
  }

  #share(value) {
    return (value - this.#low) / (this.#high - this.#low);
  }

  /** The score under a position of the page. */
  #at(clientX) {
    const { left, width } = this.find(".bars").getBoundingClientRect();
    return this.#low + ((clientX - left) / width) * (this.#high - this.#low);
  }

  #key(event) {
    const steps = {
      ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -LARGE_STEP, PageUp: LARGE_STEP,
    };
    const value = { Home: this.#low, End: this.#high }[event.key] ?? this.#tried + steps[event.key];
    if (Number.isNaN(value)) return;
    event.preventDefault();
    this.#try(value);
  }

  #try(value) {
    const { judged, score_threshold: active, ignore_below_mm: present, cleared: isCleared } = this.#answer;
    const { value: typed, valueAsNumber: below, validity, max } = this.find(".below"); // NaN: the field is empty
    const isRefused = validity.badInput || below <= 0 || below > Number(max);
    const isPresent = !isRefused && (Number.isNaN(below) ? present === null : below === present);
    const isActive = Math.abs(value - active) < 0.005;
    // What is written is what is counted: two decimals, and the line's own value in full.
    this.#tried = isActive ? active : Math.round(100 * Math.min(Math.max(value, this.#low), this.#high)) / 100;
    const rejected = this.#rejected(this.#tried, isRefused ? present : below);
    const handle = this.find(".handle");
    handle.style.left = `${100 * this.#share(this.#tried)}%`;
    handle.classList.toggle("at-end", this.#share(this.#tried) > 0.8);
    handle.ariaValueMin = this.#low.toFixed(2);
    handle.ariaValueMax = this.#high.toFixed(2);
    handle.ariaValueNow = this.#tried.toFixed(2);
    handle.ariaValueText = `${logit(this.#tried)}: ${plural(rejected.length, "frame")} rejected`;
    handle.querySelector("output").textContent = logit(this.#tried);
    this.find(".outcome").classList.toggle("is-refused", isRefused);
    this.find(".outcome").replaceChildren(...(isRefused
      ? [`The tolerance is ${typed || "no number"}; expected more than 0 and at most ${count(max)} mm, or an empty field for none.`]
      : [
          `Of these ${plural(judged.length, "frame")}, ${isCleared && this.#tried < active ? "at least " : ""}`,
          make("strong", {}, count(rejected.length)),
          ` would have been rejected (now: ${count(this.#rejected(active, present).length)}).`,
        ]));
    const table = `the [[cameras]] table of ${JSON.stringify(this.#camera)}`;
    const tolerance = Number.isNaN(below) ? `# remove ignore_below_mm from ${table}\n` : `# in ${table}\nignore_below_mm = ${below}\n`;
    this.find(".lines").textContent = isRefused ? "" : (isPresent ? "" : tolerance) + (this.product === null
      ? `[thresholds]\nscore = ${this.#tried}\n`
      : `# in the [[products]] table of ${JSON.stringify(this.product)}\nthresholds = { score = ${this.#tried} }\n`);
    this.find(".copy").disabled = isRefused;
    this.find(".reset").disabled = isActive && isPresent;
    this.#draw(rejected);
  }

  /** The scores that a limit rejects, beside a tolerance of the camera in mm. */
  #rejected(threshold, below) {
    const { scores, tolerated_above_mm: above } = this.#answer; // 0: by zones, whatever the camera tolerates
    return scores.filter((score, at) => score !== null && score >= threshold && above[at] !== 0 && !(above[at] !== null && above[at] < below));
  }

  #draw(rejected) {
    const width = (this.#high - this.#low) / BINS;
    const binned = (scores) => {
      const bins = new Array(BINS).fill(0);
      for (const score of scores) bins[Math.min(BINS - 1, Math.floor((score - this.#low) / width))]++;
      return bins;
    };
    const [all, red] = [binned(this.#answer.judged), binned(rejected)];
    const tallest = Math.max(...all);
    const bars = this.find(".bars");
    bars.setAttribute("viewBox", `0 0 ${BINS} 100`);
    const bar = (i, height, name) => makeSvg("rect", { x: i + 0.08, width: 0.84, y: 100 - height, height, class: name });
    bars.replaceChildren(
      ...all.flatMap((frames, i) => {
        const height = 100 * Math.sqrt(frames / tallest);
        return [bar(i, height, ""), ...(red[i] ? [bar(i, (height * red[i]) / frames, "rejected")] : [])];
      }),
    );
  }

  async #copy() {
    const lines = this.find(".lines");
    getSelection().selectAllChildren(lines);
    // Browsers offer the clipboard only to https and loopback; elsewhere the lines are selected for Ctrl-C.
    if (navigator.clipboard) await navigator.clipboard.writeText(lines.textContent);
    this.find(".copy").textContent = navigator.clipboard ? "Copied" : "Selected: press Ctrl-C";
    setTimeout(() => (this.find(".copy").textContent = "Copy"), 2000);
  }
}

/** The smallest of 0.1, 0.2, 0.5, 1, 2, 5, ... that is at least this. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}
