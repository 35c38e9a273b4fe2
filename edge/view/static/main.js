// Joins the parts of the page.

import { Announcer } from "./announcer.js";
import { Camera } from "./camera.js";
import { History } from "./history.js";
import { Live, getJson } from "./live.js";
import { Scores } from "./scores.js";
import { Status } from "./status.js";
import { Why } from "./why.js";

const REFRESH_MS = 200;
const HISTORY_MS = 5000;
const SCORES_MS = 10_000;
const ROWS_PER_CAMERA = 60;
/** Share of the pictures in memory that may leave it while the panel loads; they are not asked for. */
const LEAVING = 0.2;

const cameras = new Map();
const announcer = new Announcer();
const history = new History();
const scores = new Scores();
const status = new Status();
const why = new Why({
  neighbour: (row, steps) => cameras.get(row.camera)?.strip.neighbour(row.id, steps),
  open: openWhy,
  opened: (row) => cameras.forEach((camera) => camera.strip.mark(row.id)),
  closed: (row) => {
    cameras.forEach((camera) => camera.strip.mark(null));
    cameras.get(row.camera)?.strip.focus(row.id);
  },
});

let opacity = Number(localStorage.getItem("opacity") ?? 75);
let opacityBefore = opacity || 75;
why.opacity = opacity;

function setOpacity(percent) {
  if (percent > 0) opacityBefore = percent;
  opacity = percent;
  localStorage.setItem("opacity", percent);
  cameras.forEach((camera) => (camera.opacity = percent));
  why.opacity = percent;
}

/** Open the panel for a row. Pictures leave the server's memory, so it is asked which ones it still has. */
async function openWhy(row) {
  const path = `/api/verdicts?limit=${Math.min(2000, ROWS_PER_CAMERA * cameras.size)}`;
  const { rows } = await getJson(path).catch(() => ({ rows: [row] }));
  const inMemory = rows.filter((each) => each.camera === row.camera && each.picture === "memory");
  inMemory.sort((a, b) => a.at_ns - b.at_ns);
  const others = inMemory.slice(Math.floor(LEAVING * inMemory.length));
  why.open(rows.find((each) => each.id === row.id) ?? { ...row, picture: null }, others);
}

function cameraOf(name) {
  if (!cameras.has(name)) {
    const camera = new Camera(name, openWhy);
    cameras.set(name, camera);
    document.getElementById("cameras").append(camera.root);
    camera.opacity = opacity;
    camera.opacityInput.oninput = ({ target }) => setOpacity(Number(target.value));
  }
  return cameras.get(name);
}

const live = new Live({
  state(state) {
    for (const [name, camera] of cameras) {
      if (name in state.cameras) continue; // the line was started again without it
      camera.root.remove();
      cameras.delete(name);
    }
    for (const [name, camera] of Object.entries(state.cameras)) cameraOf(name).setState(camera, state.sentAt);
    scores.product = state.product;
    scores.setCameras(Object.keys(state.cameras));
    status.show(state);
  },
  verdict(row) {
    cameraOf(row.camera).setVerdict(row);
    announcer.add(row);
  },
  verdicts({ rows }) {
    cameras.forEach((camera) => camera.strip.clear());
    for (const row of rows) cameraOf(row.camera).setVerdict(row);
  },
  picture: (message, frame, heat) => cameraOf(message.camera).draw(message, frame, heat),
});

setInterval(() => {
  const { lostFor } = live;
  document.body.classList.toggle("is-lost", lostFor > 0);
  status.writeTitle(lostFor > 0);
  cameras.forEach((camera) => camera.refresh(lostFor));
}, REFRESH_MS);

history.load();
setInterval(() => live.lostFor === 0 && history.load(), HISTORY_MS);
setInterval(() => live.lostFor === 0 && scores.load(), SCORES_MS);

document.addEventListener("keydown", (event) => {
  const isTyping = ["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "range";
  if (event.key.toLowerCase() !== "h" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  setOpacity(opacity > 0 ? 0 : opacityBefore);
});

const theme = document.getElementById("theme");
theme.value = document.documentElement.dataset.theme;
theme.onchange = () => {
  localStorage.setItem("theme", theme.value);
  document.documentElement.dataset.theme = theme.value;
  history.restyle();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => history.restyle());
