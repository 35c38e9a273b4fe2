// The page that labels pictures: joins the grid, the large picture, the filters and the keys.

import { Grid } from "./label_grid.js";
import { Large } from "./label_large.js";
import { Labels } from "./label_store.js";
import { getJson, postJson } from "./live.js";
import { count, keyOf, plural } from "./words.js";

const POLL_MS = 1500;
const SHOWN_MS = 8000;
const LABEL_OF_KEY = { g: "good", d: "defective", u: "unlabelled" };

const find = (selector) => document.querySelector(selector);
const notice = find("#notice");
let hiding = null;
let filter = "all";
let names = [];
let alike = { done: 0, of: 0, groups: [] };

function say(sentence, state = "failed") {
  clearTimeout(hiding);
  notice.textContent = sentence && sentence[0].toUpperCase() + sentence.slice(1);
  notice.dataset.state = state;
  hiding = setTimeout(() => (notice.textContent = ""), SHOWN_MS);
}

find("#large .kinds").append(...find(".bar .kinds").cloneNode(true).children);

const labels = new Labels({ changed: write, say });
const grid = new Grid(find("#grid"), labels, (name) => large.open(name));
const large = new Large(find("#large"), labels, {
  say,
  neighbour: (name, steps) => names[names.indexOf(name) + steps],
  moved: (name) => grid.go(name),
  closed: () => grid.focus(),
});

/** Names of the pictures that a filter shows, in their order. */
function shown() {
  const all = labels.names;
  if (filter === "all") return all;
  if (filter === "doubtful") {
    const scored = all.filter((name) => labels.doubt(name) !== null);
    return scored.sort((one, other) => labels.doubt(other) - labels.doubt(one));
  }
  if (filter === "alike") return alike.groups.flat().filter((name) => labels.get(name));
  return all.filter((name) => labels.get(name).label === filter);
}

function about() {
  if (filter === "doubtful") {
    return labels.run === null
      ? "No training of this folder was found in runs/, so nothing is known of doubts. Train, or name it by --run."
      : `By the cross-validation of ${labels.run}. First come pictures whose label it contradicts most; the number is the evidence beyond its limit.`;
  }
  if (filter === "alike") {
    if (alike.done < alike.of) return `Comparing pictures: ${count(alike.done)} of ${count(alike.of)}.`;
    return alike.groups.length ? `${plural(alike.groups.length, "group")} of pictures that look alike.` : "No pictures look alike.";
  }
  return labels.names.length ? "" : "The folder holds no picture.";
}

/** Show what is, after any change. */
function write() {
  names = shown();
  const counts = { all: labels.names.length, good: 0, defective: 0, unlabelled: 0 };
  for (const name of labels.names) counts[labels.get(name).label]++;
  counts.doubtful = labels.names.filter((name) => labels.doubt(name) > 0).length || "";
  for (const button of document.querySelectorAll("[data-filter]")) {
    const number = counts[button.dataset.filter];
    button.querySelector("b").textContent = typeof number === "number" ? count(number) : "";
    button.ariaPressed = String(button.dataset.filter === filter);
  }
  find(".folder").textContent = labels.folder;
  find(".state").textContent = labels.isLost ? "No connection: nothing is stored." : "";
  find(".bar .about").textContent = about();
  for (const button of document.querySelectorAll(".undo")) button.disabled = labels.undone.length === 0;
  const groups = filter === "alike" ? new Map(alike.groups.flatMap((group, number) => group.map((name) => [name, number]))) : null;
  grid.show(names, { groups, doubts: filter === "doubtful" });
  large.write();
}

/** Label the open picture, or those that are chosen in the grid, and go on to the next. */
function label(kind) {
  const wanted = large.name ? [large.name] : grid.chosen;
  if (!wanted.length) return;
  const last = Math.max(...wanted.map((name) => names.indexOf(name)));
  const after = names[last + 1] ?? names.findLast((name) => !wanted.includes(name)) ?? wanted[0];
  labels.label(wanted, kind);
  if (wanted.length > 1) return say(`${plural(wanted.length, "picture")}: ${kind}.`, "");
  if (large.name) large.open(after);
  else grid.go(after);
}

function undo() {
  const name = labels.undo();
  if (!name) return say("Nothing is left to undo.", "");
  if (!large.name) grid.go(name);
  else if (large.name !== name) large.open(name); // else it is drawn again when the server has answered
}

function choose(wanted) {
  filter = wanted;
  grid.top();
  if (filter === "doubtful") labels.readScores();
  if (filter === "alike") compare();
  write();
}

/** Ask for near-duplicates until all pictures are compared. */
async function compare() {
  alike = await getJson("/label/api/alike").catch((error) => (say(error.message), alike));
  if (filter !== "alike") return;
  write();
  if (alike.done < alike.of) setTimeout(compare, POLL_MS / 3);
}

addEventListener("keydown", (event) => {
  const key = keyOf(event);
  if (key === "z" || key === "Ctrl+z") undo();
  else if (key in LABEL_OF_KEY && !event.repeat) label(LABEL_OF_KEY[key]);
  else if (!(large.name ? large : grid).key(event)) return;
  event.preventDefault();
});

for (const button of document.querySelectorAll("[data-filter]")) button.onclick = () => choose(button.dataset.filter);
for (const button of document.querySelectorAll("[data-label]")) button.onclick = () => label(button.dataset.label);
for (const button of document.querySelectorAll(".undo")) button.onclick = undo;

const training = (selector) => find(`.train ${selector}`);
let doing = null;

/** Show the training of the folder's pictures, and ask again while one runs. */
async function showTraining() {
  const state = await getJson("/label/api/train");
  if (doing && !state.doing) labels.readScores();
  doing = state.doing;
  if (doing) setTimeout(showTraining, 2000);
  training(".start").hidden = doing;
  training(".stop").hidden = doing !== "train";
  training(".report").hidden = doing || !state.report;
  training(".use").hidden = !state.line || !state.bundle;
  const ended = state.fault ?? (state.bundle ? `${state.bundle} is ready.` : "");
  training("output").textContent = doing ? `${doing}: ${state.lines.at(-1) ?? ""}` : ended;
}

async function act(path, body, done = "") {
  if (body.by === "") return;
  await postJson(`/label/api/${path}`, body).then(() => done && say(done, ""), ({ message }) => say(message));
  await showTraining();
}

const reviewer = () => localStorage.getItem("reviewer") || (prompt("Your name, for the journal:") ?? "").trim();
training(".start").onclick = () => {
  const minutes = Number(prompt("How many minutes may the training take?", "10"));
  if (minutes) act("train", { minutes, by: reviewer() });
};
training(".stop").onclick = () => act("stop", { by: reviewer() });
training(".use").onclick = () => act("use", { by: reviewer() }, "The line uses the new bundle.");

async function poll() {
  await labels.poll();
  setTimeout(poll, POLL_MS);
}

showTraining();
poll().then(() => labels.readScores());
grid.focus();
