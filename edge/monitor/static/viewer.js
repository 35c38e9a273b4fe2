// A panel with one picture, which can be magnified, or give way to its reference.

import { getBlob, getJson } from "./live.js";
import { Stage } from "./stage.js";
import { Part, actOnPicture } from "./words.js";

const DRAGGED_PX = 4;

/** Panels add `close()` and `step(steps)`. */
export class Viewer extends Part {
  stage = new Stage(this.find(".stage"));
  #place = this.find(".stage");
  #from = null;
  #wasDragged = false;
  /** Counts magnifications: a frame that belongs to an earlier one is not drawn. */
  #zooming = 0;
  #reference = null;
  #say;

  /** @param say shows a sentence to the user. */
  constructor(root, say) {
    super(root);
    this.#say = say;
    this.find(".close").onclick = () => this.close();
    this.find(".earlier").onclick = () => this.step(-1);
    this.find(".later").onclick = () => this.step(1);
    const blend = this.find(".blend");
    if (blend) actOnPicture(blend, () => this.switchReference());
    this.#place.addEventListener("pointerdown", (event) => this.#begin(event));
    this.#place.addEventListener("pointermove", (event) => this.#drag(event));
    // A drag ends with a click, which would point at a place.
    this.#place.addEventListener("click", (event) => this.#wasDragged && event.stopPropagation(), { capture: true });
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** Handle a key; return whether it was one of these. */
  key(key) {
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key];
    if (key === "Escape") this.close();
    else if (steps) this.step(steps);
    else if (key === "b") this.switchReference();
    else return false;
    return true;
  }

  /** @param path of a picture that has a reference, which is to be shown on demand; null: it has none. */
  set reference(path) {
    this.#reference = path;
    this.find(".blend").hidden = path === null;
    this.#blend(false);
  }

  /** Show the reference in place of the frame, where the frame shows the part, or the frame again. */
  async switchReference() {
    const path = this.#reference;
    if (path === null) return;
    const isOn = this.find(".blend").ariaPressed !== "true";
    this.#blend(isOn);
    if (!isOn || this.stage.hasReference) return;
    try {
      const reference = await getBlob(`${path}/reference.jpg`);
      if (path === this.#reference) await this.stage.drawReference(reference);
    } catch (error) {
      if (path !== this.#reference) return;
      this.#blend(false);
      this.#say(`The reference cannot be shown: ${error.message}.`);
    }
  }

  #blend(isOn) {
    this.find(".blend").ariaPressed = String(isOn);
    this.stage.blended = isOn;
  }

  /**
   * Magnify the picture, or show the whole of it again. A frame that fits on the screen is magnified by a whole number;
   * else one px of it is on one of the screen.
   * @param at px of the frame, [x, y], that comes to the middle.
   * @param path of the frame in full resolution.
   */
  async switchZoom([x, y], path) {
    if (this.#isZoomed) return this.unzoom();
    const { picture, hw: [height, width] } = this.stage;
    const fitted = (picture.clientWidth * devicePixelRatio) / width;
    const scale = (fitted < 1 ? 1 : Math.floor(fitted) + 1) / devicePixelRatio;
    picture.style.setProperty("--zoomed", `${width * scale}px`);
    this.#place.classList.add("is-zoomed");
    this.#place.scrollTo(x * scale - this.#place.clientWidth / 2, y * scale - this.#place.clientHeight / 2);
    this.find(".zoom").ariaPressed = "true";
    const zooming = ++this.#zooming;
    try {
      const frame = await getBlob(path);
      if (zooming === this.#zooming) await this.stage.redraw(frame);
    } catch (error) {
      if (zooming === this.#zooming) this.#say(`The frame cannot be loaded in full resolution: ${error.message}.`);
    }
    return undefined;
  }

  unzoom() {
    this.#zooming++;
    this.#wasDragged = false;
    this.#place.classList.remove("is-zoomed");
    this.find(".zoom").ariaPressed = "false";
  }

  get #isZoomed() {
    return this.#place.classList.contains("is-zoomed");
  }

  #begin({ clientX, clientY, pointerType, button }) {
    this.#wasDragged = false;
    const { scrollLeft, scrollTop } = this.#place;
    const isMouse = this.#isZoomed && pointerType === "mouse" && button === 0; // a finger scrolls by itself
    this.#from = isMouse ? { x: clientX + scrollLeft, y: clientY + scrollTop, clientX, clientY } : null;
  }

  #drag({ clientX, clientY, buttons, pointerId }) {
    if (!this.#from || !(buttons & 1)) return;
    const { x, y, clientX: fromX, clientY: fromY } = this.#from;
    if (!this.#wasDragged && Math.hypot(clientX - fromX, clientY - fromY) < DRAGGED_PX) return;
    this.#wasDragged = true;
    this.#place.setPointerCapture(pointerId);
    this.#place.scrollTo(x - clientX, y - clientY);
  }
}

/** Load what is known of a picture, as `why`, its frame, and its heatmap if it has one. */
export async function loadPicture(id) {
  const path = `/api/pictures/${id}`;
  const why = await getJson(path);
  const heatmap = why.heatmap ? getBlob(`${path}/heatmap.png`) : null;
  const [frame, heat] = await Promise.all([getBlob(`${path}/frame.jpg`), heatmap]);
  return { path, why, frame, heat };
}
