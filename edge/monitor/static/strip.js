// The last verdicts of a camera, the newest at the right.

import { LETTERS, Part, clock, isTolerated, make, rowWords, verdictOf } from "./words.js";

const LENGTH = 50;

export class Strip extends Part {
  rows = new Map();

  /** @param onOpen is called with the row that a click or the Enter key chose. */
  constructor(place, camera, onOpen) {
    super(place);
    place.ariaLabel = `Last verdicts of ${camera}, the newest at the end`;
    place.addEventListener("click", ({ target }) => {
      const cell = target.closest("button");
      if (cell) onOpen(this.rows.get(cell.dataset.id));
    });
    place.addEventListener("keydown", (event) => this.#move(event));
    place.addEventListener("focusin", ({ target }) => this.#makeReachable(target));
  }

  add(row) {
    if (this.rows.has(row.id)) return;
    const wasAtEnd = this.root.lastElementChild?.tabIndex === 0;
    const cell = make("button", { type: "button", "data-id": row.id, "data-verdict": row.verdict, tabIndex: -1, "data-tolerated": isTolerated(row) },
      make("span", {}, LETTERS[row.verdict]));
    this.#describe(cell, row, "");
    this.rows.set(row.id, row);
    this.root.append(cell);
    // The Tab key reaches the newest cell, unless the keyboard is on another one.
    if (!this.find('[tabindex="0"]') || (wasAtEnd && !this.#hasFocus)) this.#makeReachable(cell);
    while (this.root.children.length > LENGTH) this.#dropOldest();
  }

  clear() {
    this.rows.clear();
    this.root.replaceChildren();
  }

  /** The row so many places after this one, or undefined. */
  neighbour(id, steps) {
    const ids = [...this.rows.keys()];
    const place = ids.indexOf(id);
    return place < 0 ? undefined : this.rows.get(ids[place + steps]);
  }

  /** Mark the row that the panel explains, or none. */
  mark(id) {
    for (const cell of this.root.children) cell.ariaPressed = String(cell.dataset.id === id);
  }

  /** The row that the keyboard is on, or undefined. */
  get focused() {
    return this.#hasFocus ? this.rows.get(document.activeElement.dataset.id) : undefined;
  }

  /** Show what people say of a verdict: a sign, and words. */
  setReview(id, sign, state, words) {
    const cell = this.#cell(id);
    const row = this.rows.get(id);
    if (!cell || !row) return;
    cell.dataset.review = sign;
    cell.dataset.state = state;
    this.#describe(cell, row, words);
  }

  focus(id) {
    (this.#cell(id) ?? this.root.lastElementChild)?.focus();
  }

  get #hasFocus() {
    return this.root.contains(document.activeElement);
  }

  #cell(id) {
    return this.find(`[data-id="${CSS.escape(id)}"]`);
  }

  #describe(cell, row, words) {
    const parts = [verdictOf(row), clock(row.at_ns, true), `frame ${row.frame_number}`];
    cell.ariaLabel = [...parts, words].filter(Boolean).join(", ");
    cell.title = [parts.join(" · "), rowWords(row), words].filter(Boolean).join("\n");
  }

  #dropOldest() {
    const oldest = this.root.firstElementChild;
    const next = oldest.nextElementSibling;
    if (oldest === document.activeElement) next.focus();
    else if (oldest.tabIndex === 0) this.#makeReachable(next);
    this.rows.delete(oldest.dataset.id);
    oldest.remove();
  }

  #makeReachable(cell) {
    this.all('[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    cell.tabIndex = 0;
  }

  #move(event) {
    const at = document.activeElement;
    const next = {
      ArrowLeft: at.previousElementSibling,
      ArrowRight: at.nextElementSibling,
      Home: this.root.firstElementChild,
      End: this.root.lastElementChild,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    next?.focus();
  }
}
