// One camera: its verdict, its newest picture, and the strip of its last verdicts.

import { COLLECTING } from "./marks.js";
import { Stage, drawScale } from "./stage.js";
import { Strip } from "./strip.js";
import { Part, cameraWords, dateAndClock, logit, make, rowWords, setShape, span, verdictOf, wordOf, write } from "./words.js";

/** A DEFECT or NO VERDICT stays for so long before a GOOD replaces it, so that eyes can follow a fast line. */
const HOLD_MS = 400;
/** A picture that is so much older than the newest frame, because none came since, must not look like a new one. */
const BEHIND_MS = 5000;

export class Camera extends Part {
  #name;
  #stage;
  #heldUntil = 0;
  #waiting = null;
  #row = null;
  #picture = null;
  #state = null;
  #stateAt = 0;

  constructor(name, onOpen) {
    super(document.getElementById("camera-template").content.firstElementChild.cloneNode(true));
    this.#name = name;
    this.root.dataset.camera = name;
    this.find(".name").textContent = name;
    this.#stage = new Stage(this.find(".stage"));
    this.strip = new Strip(this.find(".strip"), name, onOpen);
    drawScale(this.find(".legend canvas"));
  }

  /** The row of the picture that is shown, or null. */
  get shown() {
    const event = this.#picture?.event;
    return event ? { ...event, id: this.root.dataset.picture, at_ns: event.times.captured_at_ns, regions: event.regions.length } : null;
  }

  get opacityInput() {
    return this.find(".opacity input");
  }

  set opacity(percent) {
    this.opacityInput.value = percent;
    this.find(".opacity output").textContent = percent > 0 ? `${percent} %` : "off";
  }

  /** @param sentAt when the server described it, by the clock of this page. */
  setState(state, sentAt) {
    this.#state = state;
    this.#stateAt = sentAt;
  }

  /** Show a verdict, now or when the one before it was there for long enough. */
  setVerdict(row) {
    this.strip.add(row);
    if (row.verdict === "GOOD" && performance.now() < this.#heldUntil) {
      this.#waiting = row;
      return;
    }
    this.#waiting = null;
    this.#row = row;
    if (row.verdict !== "GOOD") this.#heldUntil = performance.now() + HOLD_MS;
  }

  async draw(message, frame, heat) {
    const { event, heatmap, hw } = message;
    const label = `Newest picture of ${this.#name}: ${wordOf(event.verdict)}, ${rowWords({
      ...event,
      regions: event.regions.length,
    })}`;
    await this.#stage.draw(frame, heat, { hw, heatmap, regions: event.regions, foreign: event.foreign_areas }, label);
    this.#picture = { event, takenAt: message.sentAt - message.age_ms };
    this.root.dataset.picture = message.id;
    this.find(".legend").classList.toggle("is-empty", !heatmap);
    if (!heatmap) return;
    const { logit_at_0: low, logit_at_255: high, cleared_grey: cleared } = heatmap;
    write(this.find(".legend p"), `Evidence${cleared === null ? "" : "; hatched: cleared by the screening stage"}`);
    const threshold = event.evidence_threshold;
    const tick = this.find(".legend .threshold");
    write(this.find(".legend .low"), logit(low));
    write(this.find(".legend .high"), logit(high));
    write(tick, `outlined from ${logit(threshold)}`);
    tick.style.left = `${(100 * (threshold - low)) / (high - low)}%`;
  }

  /** Write what changes with time: the verdict, the ages, and whether they are current. */
  refresh(lostFor) {
    if (this.#waiting && performance.now() >= this.#heldUntil) {
      this.#row = this.#waiting;
      this.#waiting = null;
    }
    const lost = this.#lostSentence(lostFor);
    const [shape, word, detail] = this.#band(lost, lostFor);
    const band = this.find(".band");
    if (band.dataset.shape !== shape) {
      band.dataset.shape = shape;
      setShape(band.querySelector(".shape"), shape);
    }
    write(this.find(".word"), word);
    write(this.find(".verdict-detail"), detail);
    this.#stage.lost = lost ?? this.#behindSentence();
    this.#writeFacts();
  }

  /** Return the shape, the word and the sentence that a wall screen shows. */
  #band(lost, lostFor) {
    const last = this.#row ? `The last verdict was ${verdictOf(this.#row)}.` : "";
    if (lostFor) return ["NONE", "NO CONNECTION", last];
    if (this.#state?.state === "DEAD") return ["DEAD", "CAMERA DEAD", this.#state.detail ?? last];
    if (this.#state?.state === "ENDED") return ["NONE", "ENDED", last];
    if (this.#state?.state === "UNKNOWN") return ["NONE", "NOT RUNNING", last];
    if (lost || !this.#row || !this.#state) return ["NONE", "NO FRAME", last];
    if (this.#row.reason === COLLECTING) return ["NONE", "COLLECTING", "No verdict: keep the picture as good or defective."];
    return [this.#row.verdict, wordOf(this.#row.verdict), this.#detail()];
  }

  /** Say why, and whether the picture is of another verdict: of a frame before, or one whose own never came. */
  #detail() {
    const words = rowWords(this.#row);
    const shown = this.#picture?.event.verdict ?? this.#row.verdict;
    if (shown === this.#row.verdict) return words;
    return `${words.replace(/\.?$/, ".")} The picture is of another frame: ${wordOf(shown)}.`;
  }

  #lostSentence(lostFor) {
    if (lostFor) return `no connection for ${wholeSpan(1000 * lostFor)}`;
    if (!this.#state?.stale) return null;
    if (this.#state.newest_age_ms === null) {
      return this.#row ? `no frame since ${dateAndClock(this.#row.at_ns, false)}` : "no frame yet";
    }
    return `no frame for ${wholeSpan(performance.now() - this.#newestAt)}`;
  }

  /** When the newest frame was captured. */
  get #newestAt() {
    return this.#stateAt - this.#state.newest_age_ms;
  }

  #behindSentence() {
    if (!this.#picture || !this.#state?.newest_age_ms || this.#newestAt - this.#picture.takenAt < BEHIND_MS) return null;
    return `no picture for ${wholeSpan(performance.now() - this.#picture.takenAt)}`;
  }

  #writeFacts() {
    const { event, takenAt } = this.#picture ?? {};
    const facts = event
      ? [
          ["Picture", `${span((performance.now() - takenAt) / 1000)} ago`, "age"],
          ["Its verdict", verdictOf(event)],
          ...(event.bundle ? [
            ["Evidence", logit(event.frame_score)],
            ["Limit", logit(event.score_threshold)],
            ["Regions", String(event.regions.length)],
          ] : []),
          ["Frame", String(event.frame_number)],
          ["Part", event.part_id],
          ["File", event.source],
        ]
      : [["Camera", cameraWords(this.#state?.state ?? "OPENING")]];
    const list = this.find("dl.facts");
    const shown = facts.filter(([, value]) => value);
    const key = shown.map(([name]) => name).join();
    if (list.dataset.key !== key) {
      list.dataset.key = key;
      list.replaceChildren(
        ...shown.flatMap(([name, , className = ""]) => [make("dt", {}, name), make("dd", { className })]),
      );
    }
    list.querySelectorAll("dd").forEach((cell, index) => write(cell, shown[index][1]));
  }
}

const wholeSpan = (milliseconds) => span(Math.floor(milliseconds / 1000)).replace(".0", "");
