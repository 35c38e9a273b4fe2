// Tells screen readers of verdicts, in one sentence per ten seconds at most.

import { plural, wordOf } from "./words.js";

const QUIET_MS = 10_000;

export class Announcer {
  #place = document.getElementById("announcer");
  #counts = new Map();
  #timer = null;
  #spokeAt = -Infinity;

  /** Count a verdict; only those that are not GOOD are announced. */
  add({ camera, verdict }) {
    if (verdict === "GOOD") return;
    const key = `${camera}\n${verdict}`;
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
    const wait = Math.max(0, this.#spokeAt + QUIET_MS - performance.now());
    this.#timer ??= setTimeout(() => this.#speak(), wait);
  }

  #speak() {
    this.#place.textContent = [...this.#counts].map(([key, frames]) => {
      const [camera, verdict] = key.split("\n");
      return `Camera ${camera}: ${wordOf(verdict)} of ${plural(frames, "frame")}.`;
    }).join(" ");
    this.#counts.clear();
    this.#timer = null;
    this.#spokeAt = performance.now();
  }
}
