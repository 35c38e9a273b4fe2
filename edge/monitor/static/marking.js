// The buttons and keys that mark one verdict.

import { KINDS, pointsOf, reviewWords, sentWords } from "./marks.js";
import { Pointing } from "./pointing.js";
import { plural } from "./words.js";

const KIND_OF_KEY = Object.fromEntries(Object.entries(KINDS).map(([kind, { key }]) => [key, kind]));

export const isTyping = ({ target }) =>
  (["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName) && target.type !== "range") || target.closest("dialog");

/** The kind of mark that a key means, or undefined. */
export const kindOf = (event) =>
  event.ctrlKey || event.metaKey || event.altKey || isTyping(event) ? undefined : KIND_OF_KEY[event.key.toLowerCase()];

export class Marking {
  #root;
  #stage;
  #marks;
  #actions;
  #pointing;
  #row = null;

  /** @param actions {marked(row), takenBack(row)}: called at once when a mark was sent, and when one was taken back. */
  constructor(place, stage, marks, actions) {
    place.append(document.getElementById("marking-template").content.cloneNode(true));
    this.#root = place;
    this.#stage = stage;
    this.#marks = marks;
    this.#actions = actions;
    this.#pointing = new Pointing(stage);
    for (const button of place.querySelectorAll("[data-kind]")) button.onclick = () => this.mark(button.dataset.kind);
    this.#find(".name").onclick = () => marks.askName();
    this.#find(".confirm").onclick = () => this.#confirm();
    this.#find(".leave").onclick = () => this.#leave();
    marks.onChange(() => this.#write());
    this.#write();
  }

  /** @param row a row of a verdict whose picture is drawn; null: none. */
  show(row) {
    this.#leave();
    this.#row = row;
    this.#write();
  }

  get isPointing() {
    return this.#pointing.isOn;
  }

  /** Handle a key; return whether it was one of these. */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return false;
    if (this.isPointing) {
      const isOnButton = event.target.tagName === "BUTTON";
      if (event.key === "Escape") return this.#leave();
      if (event.key.toLowerCase() === "m" || (event.key === "Enter" && !isOnButton)) return this.#confirm();
      if (!isOnButton && this.#pointing.key(event)) return true;
    }
    const kind = kindOf(event);
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
      return;
    }
    if (!row) return;
    const refusal = this.#marks.refusal(row, kind);
    if (refusal) {
      this.#marks.say(refusal);
      return;
    }
    if (!this.#marks.reviewer) await this.#marks.askName();
    if (!this.#marks.reviewer || row !== this.#row) return;
    if (kind === "missed") this.#point();
    else await this.#send(kind, []);
  }

  async #send(kind, points) {
    const row = this.#row;
    this.#leave();
    if (await this.#marks.send(row, kind, points)) this.#actions.marked(row);
  }

  #point() {
    if (this.isPointing) return;
    this.#pointing.start((points) => {
      this.#find(".confirm").disabled = points.length === 0;
      const places = plural(points.length, "place");
      this.#find(".confirm span").textContent = points.length ? `Mark ${places}` : "Mark";
      if (points.length) this.#marks.say(`${places}; the last at x ${points.at(-1)[0]}, y ${points.at(-1)[1]}.`, "quiet");
    });
    this.#marks.say(this.#find(".hint").textContent, "quiet");
    this.#write();
  }

  #confirm() {
    if (this.#pointing.points.length) this.#send("missed", this.#pointing.points);
    else this.#marks.say("Click where the missed defect is first.");
    return true;
  }

  #leave() {
    if (this.isPointing) {
      this.#pointing.stop();
      this.#write();
    }
    return true;
  }

  #write() {
    const row = this.#row;
    const review = row && this.#marks.reviewOf(row);
    const open = row && this.#marks.openOf(row);
    this.#find(".pointing").hidden = !this.isPointing;
    this.#find(".kinds").hidden = this.isPointing;
    for (const button of this.#root.querySelectorAll("[data-kind]")) {
      const { kind } = button.dataset;
      if (kind === "withdrawn") continue;
      button.disabled = !row || this.#marks.refusal(row, kind) !== "";
      const own = review?.marks.find(({ by }) => by === this.#marks.reviewer);
      button.ariaPressed = String(own?.kind === kind);
    }
    this.#find(".name").textContent = this.#marks.reviewer ? `Reviewer: ${this.#marks.reviewer}` : "Enter your name";
    const words = this.#find(".review-words");
    words.dataset.state = open?.state ?? (review?.kind === null ? "contradictory" : "");
    const sentences = row ? [open && sentWords(open), review && reviewWords(review)] : [];
    words.textContent = sentences.filter(Boolean).map((each) => `${each}.`.replace("..", ".")).join(" ") ||
      (row && this.#marks.refusal(row, "right")) || "Nobody has reviewed this verdict.";
    if (!this.isPointing) this.#stage.points = open?.state === "sent" ? open.points : pointsOf(review);
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }
}
