// What the pictures are: as the server says it, with what this page has sent and may undo.

import { Unreachable, getJson, postJson } from "./live.js";

const API = "/label/api";
const collator = new Intl.Collator("en", { numeric: true });

export const urlOf = (kind, name) => `${API}/${kind}?picture=${encodeURIComponent(name)}`;

/** @typedef {{label, places, seen: [label, places], sent: number, storedAt: number}} Row `seen` is what is stored. */

export class Labels {
  /** Names of all pictures, sorted. */
  names = [];
  folder = "";
  /** The training whose scores are known, or null. */
  run = null;
  isLost = false;
  /** Evidence of pictures beyond the limit of the model, by their names. */
  above = {};
  /** Steps that may be undone. */
  undone = [];
  #rows = new Map();
  #version = 0;
  /** Counts what is asked and what is stored. */
  #clock = 0;
  #queue = Promise.resolve();
  #changed;
  #say;

  /** @param hooks {changed(): after each change; say(sentence): of what failed} */
  constructor({ changed, say }) {
    this.#changed = changed;
    this.#say = say;
  }

  /** @returns {Row | undefined} */
  get(name) {
    return this.#rows.get(name);
  }

  /** By how much the model contradicts the label of a picture, in units of evidence; null: it was not trained on it. */
  doubt(name) {
    const above = this.above[name];
    if (above === undefined) return null;
    return { good: above, defective: -above, unlabelled: -Math.abs(above) }[this.get(name).label];
  }

  async readScores() {
    const found = await getJson(`${API}/scores`).catch((error) => this.#failed(error));
    if (!found) return;
    this.run = found.run;
    this.above = found.above;
    this.#changed();
  }

  /** Take what others changed. */
  async poll() {
    const begun = ++this.#clock;
    const found = await getJson(`${API}/pictures?since=${this.#version}`).catch((error) => {
      this.isLost = error instanceof Unreachable;
      if (!this.isLost) this.#say(error.message);
      this.#changed();
    });
    if (!found) return;
    const isNew = this.isLost || this.#version === 0;
    this.isLost = false;
    // What this page stored meanwhile may be newer than the answer: then the answer is asked for again.
    const isOwn = (row) => row && (row.sent > 0 || row.storedAt > begun);
    if (!found.rows.some(([name]) => isOwn(this.#rows.get(name)))) this.#version = found.version;
    this.folder = found.folder;
    const before = this.#rows.size;
    if (found.all) this.#rows = new Map(found.rows.map(([name]) => [name, this.#rows.get(name)]).filter(([, row]) => row));
    for (const [name, label, places] of found.rows) {
      const row = this.#rows.get(name);
      if (label === null) this.#rows.delete(name);
      else if (!row) this.#rows.set(name, { label, places, seen: [label, places], sent: 0, storedAt: 0 });
      else if (!isOwn(row)) Object.assign(row, { label, places, seen: [label, places] });
    }
    const isResorted = found.all || this.#rows.size !== before || found.rows.some(([, label]) => label === null);
    if (isResorted) this.names = [...this.#rows.keys()].sort(collator.compare);
    if (isNew || found.rows.length) this.#changed();
  }

  /** Label pictures; each is stored by itself. */
  label(names, label) {
    const changes = names.map((name) => ({ name, label: this.get(name).label })).filter((each) => each.label !== label);
    if (!changes.length) return;
    this.undone.push(changes);
    for (const change of changes) this.#send(change.name, label, undefined, () => this.#forget(changes, change));
  }

  /**
   * Store the places of a picture's defects; it is defective then.
   * @param before those that it had, as `areas`.
   */
  draw(name, areas, before) {
    const changes = [{ name, label: this.get(name).label, areas: before }];
    this.undone.push(changes);
    return this.#send(name, "defective", areas, () => this.#forget(changes, changes[0]));
  }

  /** Take back the last step; return the name of a picture that it changed, or nothing. */
  undo() {
    const changes = this.undone.pop();
    for (const { name, label, areas } of changes ?? []) {
      if (areas) this.#send(name, "defective", areas);
      if (!areas || label !== "defective") this.#send(name, label);
    }
    return changes?.[0].name;
  }

  #send(name, label, areas, failed = () => {}) {
    const row = this.get(name);
    if (!row) return this.#queue;
    row.label = label;
    row.sent++;
    this.#queue = this.#queue.then(() => this.#post(name, row, label, areas).catch((error) => {
      failed();
      this.#failed(error);
      return false;
    })).finally(() => {
      row.sent--;
      if (row.sent === 0) [row.label, row.places] = row.seen;
      this.#changed();
    });
    this.#changed();
    return this.#queue;
  }

  async #post(name, row, label, areas) {
    const { now } = await postJson(`${API}/label`, { picture: name, label, seen: row.seen, by: localStorage.getItem("reviewer") || null, ...(areas ? { areas } : {}) });
    row.seen = now;
    row.storedAt = ++this.#clock;
    return true;
  }

  #forget(changes, change) {
    changes.splice(changes.indexOf(change), 1);
    if (!changes.length) this.undone = this.undone.filter((each) => each !== changes);
  }

  #failed(error) {
    this.isLost = error instanceof Unreachable;
    this.#say(this.isLost ? "The server cannot be reached, so this is not stored." : error.message);
    if (!this.isLost) this.#version = 0; // what others did comes with the next answer
  }
}
