// One picture, large: its label, and the places of its defects, to be drawn.

import { urlOf } from "./label_store.js";
import { getBlob, getJson } from "./live.js";
import { Pointing } from "./pointing.js";
import { Viewer } from "./viewer.js";
import { actOnPicture, keyOf, number, sentence, setShape } from "./words.js";

const TOOL_OF_KEY = { 2: "boxes_xywh", 3: "strokes" };
const HINTS = {
  boxes_xywh: "Drag a box around each defect, or press Space at two corners. Enter goes on, Esc ends.",
  strokes: "Paint over each defect, or press Space, lead the brush with the arrow keys, press Space. Enter goes on, Esc ends.",
  none: "Box or brush show where the defect is; the picture is defective then. A training needs no places, but learns more from them.",
};

export class Large extends Viewer {
  name = null;
  #pointing;
  #labels;
  #actions;
  #shapes = null;
  #seen = [];
  /** Changes of this page that are not answered yet, and all of them. */
  #open = 0;
  #edits = 0;

  /** @param actions {say(sentence), neighbour(name, steps), moved(name), closed()} */
  constructor(root, labels, actions) {
    super(root, actions.say);
    this.#labels = labels;
    this.#actions = actions;
    this.#pointing = new Pointing(root, this.stage, (tool) => this.#choose(tool));
    this.#pointing.tool = "boxes_xywh";
    this.find(".zoom").onclick = () => this.#magnify();
    actOnPicture(this.find(".remove"), () => this.#remove());
  }

  async open(name) {
    this.#stop();
    this.unzoom();
    this.name = name;
    this.#shapes = null;
    this.root.hidden = false;
    this.root.focus();
    this.#actions.moved(name);
    this.write();
    await this.#read();
    const next = this.#actions.neighbour(name, 1);
    if (next && this.name === name) new Image().src = urlOf("frame.jpg", next);
  }

  close() {
    this.#stop();
    this.name = null;
    this.root.hidden = true;
    this.#actions.closed();
  }

  /**
   * Show what the picture is.
   * @param isChange whether its places may have changed, too.
   */
  write(isChange = true) {
    const row = this.name === null ? null : this.#labels.get(this.name);
    if (this.name === null) return;
    if (!row) {
      this.#actions.say(`${this.name} is gone.`);
      this.close();
      return;
    }
    const above = this.#labels.above[this.name];
    const doubt = this.#labels.doubt(this.name) > 0 ? " The model contradicts: look again." : "";
    const evidence = above === undefined ? "" : ` Evidence beyond the limit: ${number(above, 1)}.${doubt}`;
    this.root.dataset.label = row.label;
    this.find("#large-title").textContent = this.name;
    this.find(".about").textContent = sentence(row.sent ? `${row.label}, not stored yet` : row.label) + evidence;
    setShape(this.find(".shape"), row.label);
    for (const button of this.all("[data-label]")) {
      button.ariaPressed = String(button.dataset.label === row.label);
    }
    for (const button of this.all("[data-tool]")) button.disabled = !this.#shapes;
    this.find(".remove").disabled = !this.#shapes?.length;
    this.find(".hint").textContent = HINTS[this.#pointing.isOn ? this.#pointing.tool : "none"];
    const isOther = isChange && this.#open === 0 && row.sent === 0 && this.#shapes && row.seen.join() !== this.#seen.join();
    if (isOther) this.#read(); // somebody else drew, or this page took back
  }

  /** Handle a key; return whether it was one of these. */
  key(event) {
    const key = keyOf(event);
    const isOnButton = event.target.tagName === "BUTTON";
    if (key === "Escape" && this.#pointing.isOn) this.#stop();
    else if (key === "Enter" && !isOnButton) this.step(1);
    else if (key === "m") this.#magnify();
    else if (key in TOOL_OF_KEY) this.#choose(TOOL_OF_KEY[key]);
    else if (key === "Backspace") this.#remove();
    else if (this.#pointing.isOn && key !== "1" && !isOnButton) return this.#pointing.key(event);
    else return super.key(key);
    return true;
  }

  /** Draw the picture with its places. */
  async #read() {
    const { name } = this;
    const edits = this.#edits;
    const row = this.#labels.get(name);
    const { seen } = row;
    try {
      const [frame, found] = await Promise.all([getBlob(urlOf("frame.jpg", name)), getJson(urlOf("picture", name))]);
      if (this.name !== name || this.#edits !== edits) return;
      const [, places] = this.#seen;
      this.#seen = [found.label, found.places];
      if (this.#shapes && found.places === places) return; // what is being drawn goes on
      const regions = found.shapes.map((each) => ({ contour_xy: cornersOf(each) }));
      await this.stage.draw(frame, null, { hw: found.hw, heatmap: null, regions }, `Picture ${name}`);
      if (this.name !== name || this.#edits !== edits) return;
      const { boxes_xywh: boxes = [], strokes = [] } = found.areas;
      const wasOn = this.#pointing.isOn;
      this.#pointing.stop();
      this.#shapes = [...boxes.map((each) => ["boxes_xywh", each]), ...strokes.map((each) => ["strokes", each])];
      this.stage.showShapes(this.#shapes);
      if (wasOn) this.#choose(this.#pointing.tool);
      this.write(row.seen !== seen);
    } catch (error) {
      this.#actions.say(error.message);
    }
  }

  step(steps) {
    const next = this.#actions.neighbour(this.name, steps);
    if (next) this.open(next);
    else this.close();
  }

  /** Begin to draw, with another tool, or end. */
  #choose(tool) {
    if (!this.#shapes) return;
    const { isOn, tool: before } = this.#pointing;
    if (isOn && before === tool) this.#stop();
    else if (isOn) this.#pointing.choose(tool);
    else {
      this.#pointing.tool = tool;
      this.#pointing.start((shapes) => this.#drawn(shapes), this.#shapes);
    }
    this.write(false);
  }

  #remove() {
    if (this.#pointing.isOn) this.#pointing.undo();
    else if (this.#shapes?.length) {
      this.#drawn(this.#shapes.slice(0, -1));
      this.stage.showShapes(this.#shapes);
    }
  }

  /** Store the shapes if they changed. */
  #drawn(shapes) {
    const before = this.#shapes;
    if (shapes !== before && (shapes.length || before.length)) {
      const { name } = this;
      this.#shapes = shapes;
      this.#open++;
      this.#edits++;
      this.#labels.draw(name, areasOf(shapes), areasOf(before)).then((isStored) => {
        this.#open--;
        if (this.name === name && isStored) this.#seen = this.#labels.get(name).seen;
        else if (this.name === name) {
          this.#seen = []; // the places are not those that are shown
          this.#read();
        }
      });
    }
    this.write(false);
  }

  #stop() {
    if (!this.#pointing.isOn) return;
    this.#pointing.stop();
    this.stage.showShapes(this.#shapes ?? []);
    this.write(false);
  }

  #magnify() {
    const [height, width] = this.stage.hw;
    if (this.#shapes) this.switchZoom([width / 2, height / 2], urlOf("frame.png", this.name));
  }
}

function areasOf(shapes) {
  const of = (field) => shapes.filter((each) => each[0] === field).map((each) => each[1]);
  return { boxes_xywh: of("boxes_xywh"), strokes: of("strokes") };
}

/** The corners of a shape that another program stored in LabelMe's format. */
function cornersOf({ points, shape_type: type }) {
  const [[x0, y0], [x1, y1]] = points;
  return type === "rectangle" ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : points;
}
