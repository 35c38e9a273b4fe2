// The shadow bundle beside the line's own: what each rejects, the frames on which they differ, and their exchange.

import { getJson, postJson } from "./live.js";
import { Part, clock, count, make, number, plural, verdictOf, wordOf } from "./words.js";

export class Shadow extends Part {
  #marks;
  #open;
  #found = null;

  /** @param open is called with the row of a frame to be explained. */
  constructor(marks, open) {
    super(document.getElementById("shadow"));
    this.#marks = marks;
    this.#open = open;
    this.find(".activate").onclick = () => this.#exchange("activate", this.#found.shadow.bundle);
    this.find(".back").onclick = () => this.#exchange("back", this.#found.former);
  }

  /** Show the section if the line has a shadow, and why it judges nothing. */
  set state(state) {
    const isNew = this.root.hidden && state;
    this.root.hidden = !state;
    if (isNew) this.load();
    this.find(".fault").textContent = state?.fault ?? (state && !state.bundle ? "The shadow bundle is being started." : "");
  }

  async load() {
    if (this.root.hidden) return;
    try {
      this.#found = await getJson("/api/shadow");
      this.#show(this.#found);
    } catch (error) {
      this.#say(error.message);
    }
  }

  #show(found) {
    const { line, shadow, former, frames, dropped, differ, reviewed, rows } = found;
    const named = ({ name, version }) => `${name} ${version}`;
    const isFormer = former?.digest === shadow.bundle.digest;
    this.#label(".activate", !isFormer, `Activate ${named(shadow.bundle)}`);
    this.#label(".back", former !== null, former && `Back to ${named(former)}`);
    this.#say(`${plural(frames, "frame")} judged by both, ${count(dropped)} left out by the shadow. ` +
      `They differ on ${plural(differ, "frame")}.`);
    const row = (title, { bundle, rejected, right }) =>
      make("tr", {}, make("th", { scope: "row" }, title), make("td", {}, named(bundle)), make("td", {}, share(rejected)),
        make("td", {}, reviewed ? `${count(right)} of ${count(reviewed)}` : "–"));
    this.find("tbody").replaceChildren(row("Line", line), row("Shadow", shadow));
    this.find(".frames").replaceChildren(...rows.map((each) => this.#frame(each)));
  }

  #frame(row) {
    const { id, camera, verdict, shadow, at_ns: at, review } = row;
    const differs = verdict !== shadow.verdict;
    const said = review ? `reviewed: ${review.truth ?? "contradictory"}` : "";
    const words = `${verdictOf(row)} → ${wordOf(shadow.verdict)}`;
    const button = make("button", { type: "button", "data-id": id, "data-differs": String(differs) },
      make("b", {}, words), ` ${camera} · ${clock(at)}`, make("small", {}, said));
    button.onclick = () => this.#open(row);
    return make("li", {}, button);
  }

  /** Exchange the bundles; the server refuses if another one than this was offered meanwhile. */
  async #exchange(what, bundle) {
    if (!confirm(`Inspect with ${bundle.name} ${bundle.version} from the next frame on?`)) return;
    if (!this.#marks.reviewer) await this.#marks.askName();
    if (!this.#marks.reviewer) return;
    const buttons = this.all(".exchange button");
    buttons.forEach((each) => (each.disabled = true));
    try {
      const { bundle: active } = await postJson(`/api/${what}`, { bundle: bundle.digest, by: this.#marks.reviewer });
      this.#marks.say(`${active.name} ${active.version} is active.`);
    } catch (error) {
      this.#marks.say(`Nothing was changed: ${error.message}`, "failed");
    }
    buttons.forEach((each) => (each.disabled = false));
    await this.load();
  }

  #label(selector, isShown, words) {
    const button = this.find(selector);
    button.hidden = !isShown;
    button.textContent = words;
  }

  #say(sentence) {
    this.find(".summary").textContent = sentence;
  }
}

const percent = (value) => number(100 * value, value < 0.1 ? 2 : 1);

function share(rejected) {
  if (!rejected) return "–";
  const { count: rejects, share: part, low, high } = rejected;
  return `${percent(part)} % (${count(rejects)}; 95 % interval ${percent(low)} to ${percent(high)} %)`;
}
