// Trains on the pictures of the folder, and has the page's line use what it gave.

import { exceptUnreachable, getJson, postJson } from "./live.js";

const find = (selector) => document.querySelector(`.train ${selector}`);

/** @param say takes a sentence; ended is called after each training. */
export function offerTraining({ say, ended }) {
  let doing = null;
  const who = () => localStorage.getItem("reviewer") || (prompt("Your name, for the journal:") ?? "").trim();
  const act = (path, body, then) =>
    body.by !== "" && postJson(`/label/api/${path}`, body).then(then, ({ message }) => say(message)).then(load);
  find(".start").onclick = () => {
    const minutes = Number(prompt("How many minutes may the training take?", "10"));
    if (minutes) act("train", { minutes, by: who() });
  };
  find(".stop").onclick = () => act("stop", {});
  find(".use").onclick = () => act("use", { by: who() }, () => say("The line uses the new bundle.", ""));
  async function load() {
    const state = await getJson("/label/api/train");
    if (doing && !state.doing) ended();
    doing = state.doing;
    if (doing) setTimeout(() => load().catch(exceptUnreachable), 2000);
    find(".start").hidden = doing;
    find(".stop").hidden = doing !== "train";
    find(".report").hidden = doing || !state.report;
    find(".use").hidden = !state.line || !state.bundle;
    find("output").textContent = doing ? `${doing}: ${state.lines.at(-1) ?? ""}` : state.fault ?? (state.bundle ? `${state.bundle} is ready.` : "");
  }
  load().catch(exceptUnreachable);
}
