// A line without a bundle: keeps its pictures as good or defective, and says what a training still lacks.

import { getJson } from "./live.js";
import { LABELS } from "./marks.js";
import { Part, count, make, plural } from "./words.js";

const DAYS = 7;
const COLUMNS = ["good", "defective", "unlabelled"];

export class Collecting extends Part {
  #marks;
  #cameras;
  #loaded = "";

  /** @param cameras by name. */
  constructor(marks, cameras) {
    super(document.getElementById("collecting"));
    this.#marks = marks;
    this.#cameras = cameras;
    marks.onChange((id) => id && this.load());
  }

  get isOn() {
    return !this.root.hidden;
  }

  /** Take note of the line's state. */
  show({ collecting, line }) {
    const isNew = collecting && !this.isOn;
    this.root.hidden = !collecting;
    document.body.classList.toggle("is-collecting", collecting);
    this.find(".reload").textContent = `heatline reload ${line} --bundle NAME.bundle`;
    if (isNew) this.load();
  }

  /**
   * Keep the newest picture of the camera that the mouse or the keyboard is on, or of the only one, or take back the
   * last mark; return whether the kind of mark is one of these.
   */
  keep(kind) {
    if (kind === "withdrawn") this.#marks.takeBack(null);
    if (!LABELS.includes(kind)) return kind === "withdrawn";
    const all = [...this.#cameras.values()];
    const camera = all.length === 1 ? all[0] : all.findLast(({ root }) => root.matches(":focus-within, :hover"));
    if (camera) this.keepOf(camera, kind);
    else this.#marks.say("Point at a camera first: its newest picture is kept.");
    return true;
  }

  keepOf(camera, kind) {
    const row = camera.shown;
    const refusal = row ? this.#marks.refusal(row, kind) : "There is no picture to keep yet.";
    if (refusal) this.#marks.say(refusal);
    else this.#marks.send(row, kind);
  }

  async load() {
    if (!this.isOn) return;
    const answer = await getJson("/api/collected").catch((error) => ({ error: error.message }));
    const loaded = JSON.stringify(answer);
    if (loaded === this.#loaded) return;
    this.#loaded = loaded;
    this.find(".fault").textContent = answer.error ?? "";
    if (answer.error) return;
    const { labels, parts, days, missing, folder } = answer;
    const row = (name, counts) => make("tr", {}, make("th", { scope: "row" }, name),
      ...COLUMNS.map((label) => make("td", { "data-label": label }, count(counts[label]))));
    this.find("tbody").replaceChildren(
      row("pictures", labels), row("parts", parts), ...Object.entries(days).slice(0, DAYS).map((day) => row(...day)),
    );
    this.find(".missing").replaceChildren(...missing.map((each) => make("li", {}, each)));
    this.find(".missing-title").textContent = missing.length ? "Still missing" : "Nothing is missing for a training.";
    this.find(".to-label").textContent = labels.unlabelled ? `Label ${plural(labels.unlabelled, "picture")}` : "Look at the labels";
    this.find(".train").textContent = `heatline train ${/^[\w./~-]+$/.test(folder) ? folder : JSON.stringify(folder)}`;
  }
}
