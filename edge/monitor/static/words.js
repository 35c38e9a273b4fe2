// What the parts of the page share: how they write numbers, times and states, make elements, and read keys.

export const LETTERS = { GOOD: "G", DEFECT: "D", NO_VERDICT: "N" };
export const wordOf = (verdict) => verdict.replace("_", " ");
/** A GOOD frame has regions only if all of them are tolerated. */
export const isTolerated = ({ verdict, regions }) => verdict === "GOOD" && (regions.length ?? regions) > 0;
/** The verdict of a row or an event in words. */
export const verdictOf = (row) => `${wordOf(row.verdict)}${isTolerated(row) ? ", tolerated" : ""}`;

const HANDSHAKES = {
  READY: "Ready for the next part.",
  BUSY: "The line is busy.",
  DEGRADED: "The line inspects, but not as it should.",
  NOT_READY: "Not ready: send no part.",
};

const CAMERAS = {
  OPENING: "is being opened",
  LIVE: "live",
  IDLE: "waits for a trigger",
  DEAD: "dead",
  ENDED: "ended",
  UNKNOWN: "not running",
};

export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

export const handshakeWords = ({ state, detail }) => sentence(detail) || HANDSHAKES[state] || "";
export const cameraWords = (state) => CAMERAS[state] ?? state.toLowerCase();

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (number) => whole.format(number);
/** The minus sign is as wide as a digit, so that columns stay aligned. */
export const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
export const logit = (value) => number(value, 2);

export function bytes(size) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = size < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(size) / 3));
  return `${number(size / 1000 ** power, power ? 1 : 0)} ${units[power]}`;
}

/** A span of time in words: "0.3 s", "14 s", "3 min", "5 h", "19 days". */
export function span(seconds) {
  if (seconds < 9.95) return `${number(Math.max(0, seconds), 1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function clock(atNs, withMs = false) {
  const at = new Date(atNs / 1e6);
  const time = at.toTimeString().slice(0, 8);
  return withMs ? `${time}.${String(at.getMilliseconds()).padStart(3, "0")}` : time;
}

/** As "2026-09-21 14:30:00.000"; Swedes write dates so. */
export const dateAndClock = (atNs, withMs = true) =>
  `${new Date(atNs / 1e6).toLocaleDateString("sv")} ${clock(atNs, withMs)}`;

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Why a frame has its verdict, in a few words. */
export function rowWords(row) {
  if (row.verdict === "NO_VERDICT") return sentence(row.detail) || row.reason || "";
  const against = `evidence ${logit(row.frame_score)}, limit ${logit(row.score_threshold)}`;
  if (!row.regions) return against;
  return `${isTolerated(row) ? "tolerated: " : ""}${plural(row.regions, "region")}; ${against}`;
}

/** Create an element with properties, attributes of `data-` and ARIA, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function makeSvg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Fill a table's body with rows of a heading and a value; rows without a value are left out. */
export function fillFacts(body, facts) {
  body.replaceChildren(
    ...facts
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))),
  );
}

export const setShape = (svg, shape) => svg.firstElementChild.setAttribute("href", `#shape-${shape}`);

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A part of the page, below one element. */
export class Part {
  constructor(root) {
    this.root = root;
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  all(selector) {
    return this.root.querySelectorAll(selector);
  }
}

/** Let a button act on a picture without taking the keyboard from it. */
export function actOnPicture(button, act) {
  button.onmousedown = (event) => event.preventDefault();
  button.onclick = act;
}

const isTyping = ({ target }) =>
  (["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName) && target.type !== "range") || target.closest("dialog");

/** The key that was pressed, as "z", or "Ctrl+z" if Ctrl or ⌘ is held, too; empty for what is typed. */
export function keyOf(event) {
  if (event.altKey || isTyping(event)) return "";
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return event.ctrlKey || event.metaKey ? `Ctrl+${key}` : key;
}
