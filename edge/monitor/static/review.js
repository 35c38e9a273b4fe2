// The review: one frame after the other that nobody has marked yet.

import { getJson } from "./live.js";
import { Marking } from "./marking.js";
import { KINDS, sentSymbol, sentWords } from "./marks.js";
import { Viewer, loadPicture } from "./viewer.js";
import { actOnPicture, clock, count, dateAndClock, keyOf, make, plural, rowWords, setShape, verdictOf, wordOf } from "./words.js";

const LOADED = 50;
/** Load more when so few are left. */
const FEW = 15;
const MARKS_LISTED = 8;
const HASH = "#review";

export class Review extends Viewer {
  #button = document.getElementById("open-review");
  #marking;
  #marks;
  #rows = [];
  #count = null;
  /** Pictures that could not be stored since the line started. */
  skipped = 0;
  #current = null;
  #pictures = new Map();
  #showing = 0;
  #regions = [];
  #timer = null;

  /** @param actions {opened(), heatmap()}: called when the review opens, and to show or hide the heatmap. */
  constructor(marks, { opened, heatmap }) {
    super(document.getElementById("review"), (sentence) => marks.say(sentence));
    this.#marks = marks;
    this.#marking = new Marking(this.find(".marking"), this.stage, marks, {
      marked: (row) => this.#leaveBehind(row),
      takenBack: (row) => this.#show(row),
    });
    marks.onChange((id) => id && this.#changed(id));
    this.#button.onclick = () => (location.hash = HASH);
    actOnPicture(this.find(".heatmap"), heatmap);
    actOnPicture(this.find(".zoom"), () => this.#magnify());
    addEventListener("hashchange", () => this.#followHash(opened));
    this.#followHash(opened);
  }

  open() {
    location.hash = HASH;
  }

  close() {
    history.replaceState(null, "", location.pathname + location.search);
    this.#followHash(() => {});
  }

  /** Handle a key; return whether it was for the review. */
  key(event) {
    if (this.#marking.key(event)) return true;
    const key = keyOf(event);
    if (key !== "z") return super.key(key);
    this.#magnify();
    return true;
  }

  /** Load the newest frames that nobody has reviewed. */
  async load() {
    const answer = await getJson(`/api/review?limit=${LOADED}`);
    const rows = answer.rows.filter((row) => this.#marks.openOf(row)?.state !== "sent");
    this.#count = answer.count - (answer.rows.length - rows.length);
    this.#rows = rows;
    this.#write();
    if (this.isOpen && !this.#current && rows.length) this.#show(rows[0]);
    else this.#prefetch();
  }

  #followHash(opened) {
    const isOpen = location.hash === HASH;
    if (isOpen === this.isOpen) return;
    this.#marks.hush();
    this.root.hidden = !isOpen;
    this.unzoom();
    for (const each of document.querySelectorAll("body > header, body > main")) each.inert = isOpen;
    if (!isOpen) {
      this.#marking.show(null);
      this.#current = null;
      this.#button.focus();
      return;
    }
    opened();
    this.root.focus();
    this.#show(this.#rows[0] ?? null);
    this.load().catch((error) => this.#say(`The frames to review cannot be loaded: ${error.message}.`));
  }

  /** Show a frame; null: there is none. */
  async #show(row) {
    const showing = ++this.#showing;
    this.#current = row;
    this.unzoom();
    this.find(".zoom").disabled = true;
    this.#marking.show(null);
    this.reference = null;
    this.#write();
    this.find(".none").hidden = row !== null;
    this.find(".stage").hidden = row === null;
    if (!row) return;
    this.#say(`${dateAndClock(row.at_ns)} · ${rowWords(row)}`);
    try {
      const { path, why, frame, heat } = await this.#picture(row);
      if (showing !== this.#showing) return;
      const { event, heatmap, review } = why;
      const seen = { hw: event.frame_hw, heatmap, regions: event.regions, foreign: event.foreign_areas };
      await this.stage.draw(frame, heat, seen, `${wordOf(row.verdict)} of ${row.camera}, frame ${row.frame_number}`);
      if (showing !== this.#showing) return;
      this.root.dataset.picture = row.id;
      this.#regions = event.regions;
      this.find(".zoom").disabled = false;
      this.#marking.show(row);
      this.reference = why.has_reference ? path : null;
      if (review) this.#marks.note(row.id, review);
    } catch (error) {
      if (showing !== this.#showing) return;
      this.find(".stage").hidden = true;
      this.#say(`Its picture cannot be shown: ${error.message}.`);
    }
    this.#prefetch();
  }

  /** Load what the next frame needs, so that it comes at once. */
  #prefetch() {
    const next = this.isOpen ? this.#rows[this.#placeOf(this.#current) + 1] : null;
    if (next) this.#picture(next).catch(() => {}); // it is shown as an error if it is still one then
  }

  #picture(row) {
    if (!this.#pictures.has(row.id)) {
      const loading = loadPicture(row.id);
      loading.catch(() => this.#pictures.delete(row.id));
      this.#pictures.set(row.id, loading);
      if (this.#pictures.size > 3) this.#pictures.delete(this.#pictures.keys().next().value);
    }
    return this.#pictures.get(row.id);
  }

  #placeOf(row) {
    if (!row) return -1;
    const place = this.#rows.findIndex(({ id }) => id === row.id);
    return place >= 0 ? place : this.#rows.filter(({ at_ns: at }) => at > row.at_ns).length - 1;
  }

  step(steps) {
    const isListed = this.#rows.some(({ id }) => id === this.#current?.id);
    const row = this.#rows[this.#placeOf(this.#current) + (isListed || steps > 0 ? steps : 0)];
    if (row) this.#show(row);
  }

  /** Go on to the next frame; that of the mark waits for the line's answer meanwhile. */
  #leaveBehind(row) {
    const place = this.#rows.findIndex(({ id }) => id === row.id);
    const next = this.#rows[place < 0 ? this.#placeOf(row) + 1 : place + 1] ?? this.#rows.find(({ id }) => id !== row.id);
    this.#remove(row.id);
    this.#show(next ?? null);
    if (this.#rows.length < Math.min(FEW, this.#count)) this.#reload();
  }

  #remove(id) {
    const rows = this.#rows.filter((row) => row.id !== id);
    this.#count -= this.#rows.length - rows.length;
    this.#rows = rows;
  }

  #changed(id) {
    const sent = this.#marks.sent.find((each) => each.row.id === id);
    const isListed = this.#rows.some((row) => row.id === id);
    const isMarked = sent?.state === "journalled" && sent.kind !== "withdrawn";
    if (isMarked || this.#marks.reviewOf(sent?.row ?? { id })) {
      this.#remove(id);
      if (!isListed && !sent) this.#reload(); // it is further down in the queue
    } else if (sent?.state === "failed" && sent.kind !== "withdrawn" && !isListed) {
      this.#putBack(sent.row);
    } else if (sent?.state !== "sent") {
      this.#reload(); // a mark was taken back
    }
    this.#write();
  }

  #putBack(row) {
    this.#rows = [...this.#rows, row].sort((a, b) => b.at_ns - a.at_ns);
    this.#count += 1;
    if (this.isOpen && !this.#current) this.#show(row);
  }

  #reload() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.load().catch(() => {}); // the page shows a lost connection where it shows the line's state
    }, 300);
  }

  #say(sentence) {
    this.find(".about").textContent = sentence;
  }

  #write() {
    const row = this.#current;
    const number = this.#count === null ? "" : count(Math.max(0, this.#count));
    this.#button.querySelector("b").textContent = number;
    this.#button.ariaLabel = `Review, ${number || "no"} frames to review`;
    if (!this.isOpen) return;
    this.find(".number").textContent = number;
    this.root.dataset.verdict = row?.verdict ?? "";
    setShape(this.find(".shape"), row?.verdict ?? "GOOD");
    this.find("h2").textContent = row ? `${verdictOf(row)}: ${row.camera}, frame ${row.frame_number}` : "Review";
    if (!row) this.#say("");
    this.find(".none").textContent = this.#nothingLeft();
    const place = this.#placeOf(row);
    this.find(".earlier").disabled = place < 1;
    this.find(".later").disabled = place + 1 >= this.#rows.length;
    this.find(".queue").replaceChildren(...this.#rows.map((each) => this.#queued(each)));
    this.find(".own").replaceChildren(...this.#marks.sent.slice(0, MARKS_LISTED).map((each) => this.#own(each)));
    this.find(".own-title").hidden = this.#marks.sent.length === 0;
    const current = this.find(".queue [aria-current]");
    if (current) this.find(".queue").scrollTop = current.offsetTop - this.find(".queue").clientHeight / 2;
  }

  #nothingLeft() {
    if (this.#count === null) return "Loading the frames to review …";
    const skipped = this.skipped
      ? ` ${plural(this.skipped, "picture")} could not be stored since the line started: nobody can review those frames.`
      : "";
    return `Nothing is left to review.${skipped}`;
  }

  #queued(row) {
    const open = this.#marks.openOf(row);
    const words = open ? [make("small", { "data-state": open.state }, sentWords(open))] : [];
    const of = { "data-id": row.id, "data-verdict": row.verdict, ariaCurrent: row.id === this.#current?.id || null };
    return this.#item(row, of, row.verdict[0], verdictOf(row), ...words);
  }

  #own(sent) {
    const { row, kind, state, words } = sent;
    const said = state === "journalled" ? `in the journal. ${words}` : state === "sent" ? "sent …" : "failed";
    const of = { title: state === "failed" ? words : "", "data-state": state };
    const sign = state === "journalled" ? KINDS[kind].symbol : sentSymbol(sent);
    return this.#item(row, of, sign, KINDS[kind].word, make("small", { "data-state": state }, said));
  }

  /** An item of a list, which shows its frame. */
  #item(row, properties, sign, word, ...words) {
    const button = make("button", { type: "button", tabIndex: -1, onclick: () => this.#show(row), ...properties },
      make("span", { className: "sign", ariaHidden: "true" }, sign), make("b", {}, word),
      ` ${row.camera} · ${clock(row.at_ns)}`, ...words);
    return make("li", {}, button);
  }

  /** Magnify the picture, at its first region if it has one, or show the whole of it again. */
  #magnify() {
    if (this.find(".zoom").disabled) return;
    const [height, width] = this.stage.hw;
    const contour = this.#regions[0]?.contour_xy ?? [[0, 0], [width, height]];
    const centre = [0, 1].map((axis) => contour.reduce((sum, at) => sum + at[axis], 0) / contour.length);
    this.switchZoom(centre, `/api/pictures/${this.#current.id}/frame.png`);
  }
}
