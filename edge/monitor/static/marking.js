// The buttons and keys that mark one verdict.

import { KINDS, reviewWords, sentWords, shapesOf } from "./marks.js";
import { Pointing, TOOLS } from "./pointing.js";
import { Part, actOnPicture, keyOf, plural } from "./words.js";

const HINTS = {
  at_xy: "Click where the missed defect is, or move the cross with the arrow keys and press Space.",
  boxes_xywh: "Drag a box around the missed defect, or press Space at one corner and, after the arrow keys, at the other.",
  strokes: "Paint over the missed defect, or press Space, lead the brush with the arrow keys, and press Space again.",
};
/** Kinds of marks, by their keys. */
export const KIND_OF_KEY = Object.fromEntries(Object.entries(KINDS).map(([kind, { key }]) => [key, kind]));

export class Marking extends Part {
  #stage;
  #marks;
  #actions;
  #pointing;
  #row = null;

  /** @param actions {marked(row), takenBack(row)}: called at once when a mark was sent, and when one was taken back. */
  constructor(place, stage, marks, actions) {
    place.append(document.getElementById("marking-template").content.cloneNode(true));
    super(place);
    this.#stage = stage;
    this.#marks = marks;
    this.#actions = actions;
    this.#pointing = new Pointing(place, stage);
    for (const button of this.all("[data-kind]")) button.onclick = () => this.mark(button.dataset.kind);
    this.find(".name").onclick = () => marks.askName();
    this.find(".confirm").onclick = () => this.#confirm();
    this.find(".leave").onclick = () => this.#leave();
    actOnPicture(this.find(".undo"), () => this.#pointing.undo());
    marks.onChange(() => this.#write());
    this.#write();
  }

  /** @param row a row of a verdict whose picture is drawn; null: none. */
  show(row) {
    this.#leave();
    this.#row = row;
    this.#write();
  }

  /** Handle a key; return whether it was one of these. */
  key(event) {
    const key = keyOf(event);
    if (this.#pointing.isOn) {
      const isOnButton = event.target.tagName === "BUTTON";
      if (key === "Ctrl+z") return this.#pointing.undo();
      if (key === "Escape") return this.#leave();
      if (key === "m" || (key === "Enter" && !isOnButton)) return this.#confirm();
      if (!isOnButton && this.#pointing.key(event)) return true;
    }
    const kind = KIND_OF_KEY[key];
    if (!kind || event.repeat) return false;
    this.mark(kind);
    return true;
  }

  /** Send a mark, or let the reviewer point at the missed defects first. */
  async mark(kind) {
    const row = this.#row;
    if (kind === "withdrawn") {
      this.#leave();
      const taken = await this.#marks.takeBack(row);
      if (taken) this.#actions.takenBack(taken);
    }
    if (!row || kind === "withdrawn") return undefined;
    const refusal = this.#marks.refusal(row, kind);
    if (refusal) return this.#marks.say(refusal);
    if (!this.#marks.reviewer) await this.#marks.askName();
    if (!this.#marks.reviewer || row !== this.#row) return undefined;
    return kind === "missed" ? this.#point() : this.#send(kind, []);
  }

  async #send(kind, shapes) {
    const row = this.#row;
    this.#leave();
    if (await this.#marks.send(row, kind, shapes)) this.#actions.marked(row);
  }

  #point() {
    if (this.#pointing.isOn) return;
    let [tool, told] = [null, 0];
    this.#pointing.start((shapes) => {
      const places = plural(shapes.length, "place");
      this.find(".confirm").disabled = this.find(".undo").disabled = shapes.length === 0;
      this.find(".confirm span").textContent = shapes.length ? `Mark ${places}` : "Mark";
      this.find(".hint").textContent = HINTS[this.#pointing.tool];
      const last = shapes.length ? `; the last is a ${inWords(shapes.at(-1))}` : "";
      if (tool !== this.#pointing.tool) this.#marks.say(HINTS[this.#pointing.tool], "quiet");
      else if (shapes.length !== told) this.#marks.say(`${places}${last}.`, "quiet");
      [tool, told] = [this.#pointing.tool, shapes.length];
    });
    this.#write();
  }

  #confirm() {
    if (this.#pointing.shapes.length) this.#send("missed", this.#pointing.shapes);
    else this.#marks.say("Show where the missed defect is first.");
    return true;
  }

  #leave() {
    if (this.#pointing.isOn) {
      this.#pointing.stop();
      this.#write();
    }
    return true;
  }

  #write() {
    const row = this.#row;
    const review = row && this.#marks.reviewOf(row);
    const open = row && this.#marks.openOf(row);
    this.find(".pointing").hidden = !this.#pointing.isOn;
    this.find(".kinds").hidden = this.find(".review-words").hidden = this.#pointing.isOn;
    this.find(".hint").hidden = !this.#pointing.isOn;
    for (const button of this.all("[data-kind]")) {
      const { kind } = button.dataset;
      if (kind === "withdrawn") continue;
      button.disabled = !row || this.#marks.refusal(row, kind) !== "";
      const own = review?.marks.find(({ by }) => by === this.#marks.reviewer);
      button.ariaPressed = String(own?.kind === kind);
    }
    this.find(".name").textContent = this.#marks.reviewer ? `Reviewer: ${this.#marks.reviewer}` : "Enter your name";
    const words = this.find(".review-words");
    words.dataset.state = open?.state ?? (review?.kind === null ? "contradictory" : "");
    const sentences = row ? [open && sentWords(open), review && reviewWords(review)] : [];
    words.textContent = sentences.filter(Boolean).map((each) => `${each}.`.replace("..", ".")).join(" ") ||
      (row && this.#marks.refusal(row, "right")) || "Nobody has reviewed this verdict.";
    if (!this.#pointing.isOn) this.#stage.showShapes(open?.state === "sent" ? open.shapes : shapesOf(review));
  }
}

function inWords([field, value]) {
  const [x, y] = field === "strokes" ? value.points_xy[0] : value;
  const size = field === "boxes_xywh" ? ` of ${value[2]} × ${value[3]} px` : "";
  return `${TOOLS[field].word}${size} at x ${x}, y ${y}`;
}
