// Joins the parts of the page.

import { Camera } from "./camera.js";
import { Collecting } from "./collecting.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { KIND_OF_KEY } from "./marking.js";
import { Marks, reviewSymbol, reviewWords, sentSymbol, sentWords } from "./marks.js";
import { Review } from "./review.js";
import { Scores } from "./scores.js";
import { Shadow } from "./shadow.js";
import { Status, announce } from "./status.js";
import { Why } from "./why.js";
import { keyOf } from "./words.js";

const REFRESH_MS = 200;
const HISTORY_MS = 5000;
const SCORES_MS = 10_000;
const QUEUE_MS = 10_000;

const cameras = new Map();
const history = new History();
const scores = new Scores();
const status = new Status();
const marks = new Marks();
const collecting = new Collecting(marks, cameras);
const why = new Why(marks, {
  neighbour: (row, steps) => cameras.get(row.camera)?.strip.neighbour(row.id, steps),
  open: (row) => why.open(row),
  opened: (row) => cameras.forEach((camera) => camera.strip.mark(row.id)),
  closed: (row) => {
    cameras.forEach((camera) => camera.strip.mark(null));
    cameras.get(row.camera)?.strip.focus(row.id);
  },
});

const shadow = new Shadow(marks, (row) => why.open(row));
const review = new Review(marks, { opened: () => why.close(), heatmap: switchHeatmap });

let opacity = Number(localStorage.getItem("opacity") ?? 75);
let opacityBefore = opacity || 75;
setOpacity(opacity);

function switchHeatmap() {
  setOpacity(opacity > 0 ? 0 : opacityBefore);
}

function setOpacity(percent) {
  if (percent > 0) opacityBefore = percent;
  opacity = percent;
  localStorage.setItem("opacity", percent);
  document.documentElement.style.setProperty("--heat", percent / 100);
  document.querySelector("#review .heatmap").ariaPressed = String(percent > 0);
  cameras.forEach((camera) => (camera.opacity = percent));
}

function cameraOf(name) {
  if (!cameras.has(name)) {
    const camera = new Camera(name, (row) => why.open(row));
    cameras.set(name, camera);
    document.getElementById("cameras").append(camera.root);
    camera.opacity = opacity;
    for (const button of camera.root.querySelectorAll(".keep button")) {
      button.onclick = () => collecting.keepOf(camera, button.dataset.label);
    }
    camera.opacityInput.oninput = ({ target }) => setOpacity(Number(target.value));
  }
  return cameras.get(name);
}

/** Show what people say of a row where the row is in a strip. */
function showReview(row) {
  const { strip } = cameraOf(row.camera);
  const open = marks.openOf(row);
  const found = marks.reviewOf(row);
  if (open) strip.setReview(row.id, sentSymbol(open), open.state, `${sentWords(open)}. ${open.words}`.trim());
  else if (found) strip.setReview(row.id, reviewSymbol(found), found.kind ?? "contradictory", reviewWords(found));
  else strip.setReview(row.id, "", "", "");
}

marks.onChange((id) => {
  const rows = [...cameras.values()].map((camera) => camera.strip.rows.get(id));
  rows.filter(Boolean).forEach(showReview);
});

/** Mark the verdict of the strip that the keyboard is on; return whether there is one. */
function markFocused(kind) {
  const row = [...cameras.values()].map((camera) => camera.strip.focused).find(Boolean);
  if (!row) return collecting.isOn && collecting.keep(kind);
  const refusal = kind === "withdrawn" ? "" : marks.refusal(row, kind);
  if (refusal) marks.say(refusal);
  else if (kind === "withdrawn") marks.takeBack(row);
  else if (kind === "missed") why.open(row).then(() => why.point());
  else marks.send(row, kind);
  return true;
}

const live = new Live({
  state(state) {
    for (const [name, camera] of cameras) {
      if (name in state.cameras) continue; // the line was started again without it
      camera.root.remove();
      cameras.delete(name);
    }
    const place = document.getElementById("cameras");
    Object.entries(state.cameras).forEach(([name, camera], index) => {
      const each = cameraOf(name);
      each.setState(camera, state.sentAt);
      if (place.children[index] !== each.root) place.insertBefore(each.root, place.children[index]);
    });
    review.skipped = state.evidence?.skipped ?? 0;
    scores.product = state.product;
    scores.setCameras(Object.keys(state.cameras));
    status.show(state);
    collecting.show(state);
    shadow.state = state.shadow;
  },
  verdict(row) {
    cameraOf(row.camera).setVerdict(row);
    if (!collecting.isOn) announce(row);
    if (row.review) showReview(row);
  },
  verdicts({ rows }) {
    cameras.forEach((camera) => camera.strip.clear());
    for (const row of rows) {
      cameraOf(row.camera).setVerdict(row);
      marks.note(row.id, row.review);
    }
  },
  review: ({ id, review: found }) => marks.note(id, found),
  picture: (message, frame, heat) => cameraOf(message.camera).draw(message, frame, heat),
});

setInterval(() => {
  const { lostFor } = live;
  document.body.classList.toggle("is-lost", lostFor > 0);
  status.writeTitle(lostFor > 0);
  cameras.forEach((camera) => camera.refresh(lostFor));
}, REFRESH_MS);

const every = (ms, load) => setInterval(() => live.lostFor === 0 && load(), ms);
history.load();
every(HISTORY_MS, () => history.load());
every(SCORES_MS, () => scores.load());
every(HISTORY_MS, () => collecting.load());
every(HISTORY_MS, () => document.hidden || shadow.load());
review.load();
every(QUEUE_MS, () => document.hidden || review.load());

/** Handle a key of the page; return whether it was one. */
function pressed(event) {
  if (review.isOpen ? review.key(event) : why.isOpen && why.key(event)) return true;
  const key = keyOf(event);
  const kind = KIND_OF_KEY[key];
  if (kind && !event.repeat && !review.isOpen && !why.isOpen) return markFocused(kind);
  if (key === "h") switchHeatmap();
  else if (key === "v" && !review.isOpen) review.open();
  else return false;
  return true;
}

// It comes before the parts of the page, of which a key might close one.
document.addEventListener(
  "keydown",
  (event) => {
    if (event.target.closest?.("dialog") || !pressed(event)) return;
    event.preventDefault();
    event.stopPropagation();
  },
  { capture: true },
);

document.getElementById("theme").addEventListener("change", () => history.draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => history.draw());
