// What people say of verdicts: the marks of all reviewers, and those that this page sends.

import { Unreachable, postJson } from "./live.js";
import { TOOLS } from "./pointing.js";
import { sentence, wordOf } from "./words.js";

export const KINDS = {
  right: { key: "r", word: "right", symbol: "✓" },
  false_alarm: { key: "f", word: "false alarm", symbol: "✕" },
  missed: { key: "m", word: "missed defect", symbol: "+" },
  withdrawn: { key: "u", word: "taken back", symbol: "" },
  good: { key: "g", word: "kept as good", symbol: "✓" },
  defective: { key: "d", word: "kept as defective", symbol: "✕" },
};
/** Kinds of marks while a line collects. */
export const LABELS = ["good", "defective"];
export const COLLECTING = "failed.collecting";
const CONTRADICTORY = "?";
const REMEMBERED = 50;
const SHOWN_MS = 5000;

/** @typedef {{row, kind, shapes, state: "sent" | "journalled" | "failed", words: string}} Sent */

export class Marks {
  /** What this page has sent, newest first. */
  sent = [];
  #reviews = new Map();
  #listeners = [];
  #dialog = document.getElementById("reviewer");
  #timer = null;
  #notices = document.querySelectorAll(".notice");

  constructor() {
    const form = this.#dialog.querySelector("form");
    form.onsubmit = () => (this.reviewer = form.elements.name.value.trim());
    form.querySelector(".cancel").onclick = () => this.#dialog.close();
    this.#dialog.addEventListener("keydown", (event) => event.stopPropagation());
  }

  get reviewer() {
    return localStorage.getItem("reviewer") ?? "";
  }

  set reviewer(name) {
    if (name) localStorage.setItem("reviewer", name);
    this.#show(null);
  }

  /** @param listener is called with the id of a picture whose marks have changed; null: the reviewer has. */
  onChange(listener) {
    this.#listeners.push(listener);
  }

  /** Ask for the reviewer's name; the promise resolves when the dialog is closed. */
  askName() {
    const input = this.#dialog.querySelector("input");
    input.value = this.reviewer;
    this.#dialog.showModal();
    input.select();
    return new Promise((done) => this.#dialog.addEventListener("close", done, { once: true }));
  }

  /** Note what the server says of a picture's marks. */
  note(id, review) {
    if (!review && !this.#reviews.get(id)) return;
    this.#reviews.set(id, review);
    for (const each of this.sent) {
      const isThere = review?.marks.some(({ by, kind }) => by === each.by && kind === each.kind);
      if (each.row.id === id && each.state === "failed" && isThere) Object.assign(each, { state: "journalled", words: "" });
    }
    this.#show(id);
  }

  reviewOf(row) {
    return this.#reviews.has(row.id) ? this.#reviews.get(row.id) : row.review;
  }

  /** The last mark of this page for a picture that is not journalled, or undefined. */
  openOf(row) {
    const last = this.sent.find((each) => each.row.id === row.id);
    return last?.state === "journalled" ? undefined : last;
  }

  /** Why a verdict cannot be marked so, as a sentence; empty: it can be. */
  refusal(row, kind) {
    const isLabel = LABELS.includes(kind);
    if (row.reason === COLLECTING) return isLabel ? "" : "Press G if the part is good, D if it is defective.";
    if (isLabel) return "Only a line that collects keeps pictures so.";
    if (row.verdict === "NO_VERDICT") return "The frame has no verdict, so there is nothing to mark.";
    if (row.picture === null) return "No picture of it is stored, so it cannot be marked.";
    if (kind === "false_alarm" && row.verdict === "GOOD") {
      return "A GOOD verdict is not a false alarm. Press M if the line missed a defect.";
    }
    return "";
  }

  /** Speak a sentence, and show it unless its state is `quiet`: in the review if it is open, else on the page. */
  say(sentence, state = "") {
    this.hush();
    const place = [...this.#notices].findLast((each) => !each.closest("[hidden]"));
    place.textContent = sentence;
    place.dataset.state = state;
    this.#timer = setTimeout(() => this.hush(), state === "failed" ? 4 * SHOWN_MS : SHOWN_MS);
  }

  /** Take away what was said. */
  hush() {
    clearTimeout(this.#timer);
    this.#notices.forEach((each) => (each.textContent = ""));
  }

  /**
   * Send a mark.
   * @param shapes of missed defects, px of the frame: [field of a mark, value] each.
   * @returns {Promise<Sent | null>} at once, before the line has answered; null: there is no name.
   */
  async send(row, kind, shapes = []) {
    if (!this.reviewer) await this.askName();
    if (!this.reviewer) return null;
    const before = this.sent.find((each) => each.row.id === row.id)?.answered;
    const sent = { row, kind, shapes, by: this.reviewer, state: "sent", words: "" };
    this.sent.unshift(sent);
    this.sent.length = Math.min(this.sent.length, REMEMBERED);
    // Of two marks of a frame the later one counts, so it must not overtake the one before.
    sent.answered = before ? before.then(() => this.#post(sent)) : this.#post(sent);
    this.#show(row.id);
    return sent;
  }

  /** Take back the reviewer's mark of this row, else the last one; return its row, or null if there is none. */
  async takeBack(row) {
    const isMine = ({ by }) => by === this.reviewer;
    const own = row && (this.reviewOf(row)?.marks.some(isMine) || this.openOf(row)?.state === "sent");
    const taken = new Set();
    const last = this.sent.find((each) => {
      if (each.state === "failed" || taken.has(each.row.id)) return false;
      if (each.kind === "withdrawn") taken.add(each.row.id);
      return each.kind !== "withdrawn";
    });
    const wanted = own ? row : last?.row;
    if (!wanted) {
      this.say("You have no mark to take back.");
      return null;
    }
    await this.sent.find((each) => each.row.id === wanted.id)?.answered;
    const sent = await this.send(wanted, "withdrawn");
    await sent?.answered;
    return wanted;
  }

  async #post(sent) {
    const { row, kind, shapes, by } = sent;
    const places = Object.groupBy(shapes, ([field]) => field);
    for (const field in places) places[field] = places[field].map((each) => each[1]);
    const what = `${LABELS.includes(kind) ? "Picture" : wordOf(row.verdict)} of ${row.camera}, frame ${row.frame_number}`;
    try {
      const answer = await postJson("/api/marks", { picture: row.id, kind, by, ...places });
      Object.assign(sent, { state: "journalled", words: answer.detail ?? "" });
      this.say(`${what}: ${KINDS[kind].word}. It is in the journal as event ${answer.seq}. ${sent.words}`, sent.words || LABELS.includes(kind) ? "" : "quiet");
    } catch (error) {
      const unknown = "The connection was lost, so it is unknown whether the mark is in the journal.";
      Object.assign(sent, { state: "failed", words: error instanceof Unreachable ? unknown : sentence(error.message) });
      this.say(`${what}: ${KINDS[kind].word} failed. ${sent.words}`, "failed");
    }
    this.#show(row.id);
  }

  #show(id) {
    this.#listeners.forEach((listener) => listener(id));
  }
}

/** The sign of a review, as short as it can be. */
export const reviewSymbol = ({ kind }) => (kind ? KINDS[kind].symbol : CONTRADICTORY);

/** What all reviewers say, in words. */
export function reviewWords(review) {
  const each = review.marks.map(({ by, kind }) => `${KINDS[kind].word} by ${by}`);
  if (review.kind === null) return `Contradictory marks: ${each.join(", ")}`;
  const isSame = new Set(review.marks.map(({ kind }) => kind)).size === 1;
  return isSame ? `Marked ${KINDS[review.kind].word} by ${review.by.join(" and ")}` : `Marked ${each.join(", ")}`;
}

/** The state of a mark that is not journalled, in words. */
export const sentWords = ({ kind, state }) =>
  `${KINDS[kind].word}: ${state === "failed" ? "failed" : "sent, not in the journal yet"}`;

/** The sign of a mark that is not journalled. */
export const sentSymbol = ({ state }) => (state === "failed" ? "!" : "…");

/** What all reviewers drew, as the shapes of `Marks.send`. */
export const shapesOf = (review) =>
  (review?.marks ?? []).flatMap((mark) => Object.keys(TOOLS).flatMap((field) => mark[field].map((each) => [field, each])));
