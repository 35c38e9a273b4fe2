// The state of the line: the handshake in the header, tables for the engineer, and sentences for screen readers.

import { bytes, cameraWords, count, handshakeWords, make, number, plural, setShape, span, wordOf } from "./words.js";

const HANDSHAKE_SHAPES = { READY: "GOOD", BUSY: "NONE", DEGRADED: "NO_VERDICT", NOT_READY: "DEAD" };

export class Status {
  #place = document.getElementById("status");
  #parts = new Map();
  #title = document.title;

  show(state) {
    showHandshake(state);
    this.#title = `${state.line} · ${state.handshake.state.replace("_", " ")}`;
    document.getElementById("line").textContent = state.line;
    document.getElementById("trial").hidden = state.acting !== false;
    this.#sentences(state);
    const names = Object.keys(state.cameras);
    this.#table("Cameras", names, cameraRows(Object.values(state.cameras)));
    if (state.parts) this.#table("Parts", [], partRows(state));
    this.#table("Journal", [], journalRows(state));
    const consumers = Object.entries(state.consumers ?? {});
    if (consumers.length) this.#table("Consumers", ["state", "behind"], consumers.map((each) => consumerRow(each, state)));
    this.#table("Evidence", [], evidenceRows(state));
    this.#table("Bundle", [], bundleRows(state));
  }

  /** Name the line and its state in the browser's tab; a lost connection has no state. */
  writeTitle(isLost) {
    const title = isLost ? "NO CONNECTION" : this.#title;
    if (document.title !== title) document.title = title;
  }

  /** The server's sentences, but not the one that the header shows. */
  #sentences({ words, handshake }) {
    const shown = words.filter((each) => !each.startsWith(`${handshake.state}: `));
    const list = this.#part("words", () => make("ul", { className: "words" }));
    update(list, shown, () => shown.map((each) => make("li", {}, each)));
  }

  /** Show a table; rows are a heading and one value per column, and rows without a value are left out. */
  #table(title, columns, rows) {
    const table = this.#part(title, () => make("table"));
    update(table, [columns, rows], () => [
      make("caption", {}, title),
      ...(columns.length > 0
        ? [make("thead", {}, make("tr", {}, make("td"), ...columns.map((each) => make("th", { scope: "col" }, each))))]
        : []),
      make("tbody", {}, ...rows
        .filter(([, ...values]) => values.some((value) => value !== null))
        .map(([name, ...values]) =>
          make("tr", {}, make("th", { scope: "row" }, name), ...values.map((value) => make("td", {}, value ?? "–"))))),
    ]);
  }

  #part(name, makePart) {
    if (!this.#parts.has(name)) {
      this.#parts.set(name, makePart());
      this.#place.append(this.#parts.get(name));
    }
    return this.#parts.get(name);
  }
}

/** Replace an element's content if what it shows has changed. */
function update(element, shown, makeChildren) {
  const key = JSON.stringify(shown);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...makeChildren());
}

function showHandshake({ handshake }) {
  const place = document.getElementById("handshake");
  place.dataset.state = handshake.state;
  setShape(place.querySelector("svg"), HANDSHAKE_SHAPES[handshake.state] ?? "NONE");
  place.querySelector("strong").textContent = handshake.state.replace("_", " ");
  place.querySelector("span").textContent = handshakeWords(handshake);
}

const milliseconds = (value) => (value === undefined ? "–" : count(value));

function cameraRows(cameras) {
  const row = (name, value) => [name, ...cameras.map(value)];
  const bins = (bin) =>
    [...new Set(cameras.flatMap(({ ledger }) => Object.keys(ledger?.[bin] ?? {})))].map((reason) =>
      row(`${bin}: ${reason.replaceAll("_", " ")}`, ({ ledger }) => count(ledger?.[bin][reason] ?? 0)));
  return [
    row("state", ({ state }) => cameraWords(state)),
    row("frames/s", ({ rate_fps: rate }) => number(rate, 1)),
    row("latency, ms", ({ latency_ms: latency }) => milliseconds(latency?.median)),
    row("95th percentile, ms", ({ latency_ms: latency }) => milliseconds(latency?.p95)),
    row("captured", ({ ledger }) => (ledger ? count(ledger.captured) : null)),
    row("inspected", ({ ledger }) => (ledger ? count(ledger.inspected) : null)),
    ...bins("dropped"),
    ...bins("failed"),
    row("in flight", ({ ledger }) => (ledger ? count(ledger.in_flight) : null)),
  ];
}

function partRows({ parts, part }) {
  return [
    ["last", part && `${part.subject} ${part.what.replace("part ", "")}: ${part.detail}`],
    ["announced", count(parts.announced)],
    ["judged", count(parts.judged)],
    ["without verdict", count(parts.no_verdict)],
    ["open", count(parts.open)],
  ];
}

/** What a part of the line does; a line that does not report does nothing that is known. */
const doing = (running, words) => (running ? words : "unknown");

function journalRows({ journal, running }) {
  if (!journal) return [["state", doing(running, "this line has none")]];
  return [
    ["state", doing(running, journal.live_only ? "does not store events" : "stores every event")],
    ["events", `${count(journal.first_seq)} to ${count(journal.last_seq)}`],
    ["size", bytes(journal.size_bytes)],
    ["not stored", journal.unjournalled ? plural(journal.unjournalled, "event") : null],
    ["discarded", journal.discarded ? plural(journal.discarded, "event") : null],
  ];
}

function consumerRow([name, { acked_seq: acked, connected, seen_at_ns: seen }], { journal, now_ns: now, running }) {
  const away = seen ? `away for ${span((now - seen) / 1e9)}` : "away";
  const behind = journal ? journal.last_seq - Math.max(acked, journal.first_seq - 1) : 0;
  return [name, doing(running, connected ? "connected" : away), count(Math.max(0, behind))];
}

function evidenceRows({ evidence, running, now_ns: now }) {
  if (!evidence) return [["state", doing(running, "this line stores none")]];
  return [
    ["state", doing(running, evidence.fault ? "does not store pictures" : "stores pictures")],
    ["stored", `${plural(evidence.stored, "picture")}, ${bytes(evidence.size_bytes)}`],
    ["since start", plural(evidence.kept, "picture")],
    ["skipped", count(evidence.skipped)],
    ["oldest", evidence.oldest_at_ns ? span((now - evidence.oldest_at_ns) / 1e9) : null],
  ];
}

function bundleRows({ bundle, collecting, precision, product, thresholds }) {
  return [
    ["name", collecting ? "none" : bundle && `${bundle.name} ${bundle.version}`],
    ["digest", bundle && `${bundle.digest.slice(0, 12)}…`],
    ["precision", precision],
    ["product", product],
    ["score threshold", thresholds && number(thresholds.score)],
    ["evidence threshold", thresholds && number(thresholds.evidence)],
  ];
}

const QUIET_MS = 10_000;
const unspoken = new Map();
let spoken = null;

/** Tell screen readers of a verdict that is not GOOD, in one sentence per ten seconds at most. */
export function announce({ camera, verdict }) {
  if (verdict === "GOOD") return;
  const of = `Camera ${camera}: ${wordOf(verdict)} of`;
  unspoken.set(of, (unspoken.get(of) ?? 0) + 1);
  spoken ??= setTimeout(speak);
}

function speak() {
  spoken = unspoken.size ? setTimeout(speak, QUIET_MS) : null;
  if (!spoken) return;
  const sentences = [...unspoken].map(([of, frames]) => `${of} ${plural(frames, "frame")}.`);
  document.getElementById("announcer").textContent = sentences.join(" ");
  unspoken.clear();
}
