// Lets a person show places of a picture, by points, boxes and brush strokes: with the mouse, a finger, or the keyboard.

import { Part, actOnPicture, keyOf } from "./words.js";

/** A click so near to a point takes it away again; a box is longer. */
const NEAR_PX = 14;
const FEWEST_PX = 4;
const STEP = 1 / 64;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const WIDTHS = { "+": 1.25, "-": 0.8 };
/** Of the points of a stroke, and the width of a brush. */
const MOST_POINTS = 64;
const WIDEST = 1024;

/** Kinds of shapes, by the field of a mark that has them. */
export const TOOLS = {
  at_xy: { key: "1", word: "point" },
  boxes_xywh: { key: "2", word: "box" },
  strokes: { key: "3", word: "stroke" },
};

export class Pointing extends Part {
  tool = "at_xy";
  /** @type {[string, any][]} field of a mark and value, px of the frame, in the order in which they were drawn */
  shapes = [];
  #stage;
  #onChange = null;
  /** The places, px of the frame, that a box or stroke goes through which is not finished. */
  #way = null;
  #apart = 0;
  #width = null;
  #cross = null;
  #focusBefore = null;

  /**
   * @param root around the buttons that choose how to draw.
   * @param choose is called with the tool that a button chooses.
   */
  constructor(root, stage, choose = (tool) => this.choose(tool)) {
    super(root);
    this.#stage = stage;
    for (const button of this.all("[data-tool]")) actOnPicture(button, () => choose(button.dataset.tool));
    actOnPicture(this.find(".narrower"), () => this.widen(WIDTHS["-"]));
    actOnPicture(this.find(".wider"), () => this.widen(WIDTHS["+"]));
    const { picture } = stage;
    picture.addEventListener("click", (event) => this.isOn && !this.#draws && this.#act(this.#at(event)));
    picture.addEventListener("pointerdown", (event) => this.#press(event));
    picture.addEventListener("pointermove", (event) => this.#drag(event));
    picture.addEventListener("pointerup", () => this.#dragged && this.#finish());
    picture.addEventListener("pointercancel", () => this.#dragged && this.#drop());
  }

  get isOn() {
    return this.#onChange !== null;
  }

  /** Diameter of the brush, px of the frame. */
  get width() {
    return this.#width ?? this.#step;
  }

  /**
   * @param onChange is called with the shapes after each change.
   * @param shapes what is drawn already.
   */
  start(onChange, shapes = []) {
    this.#onChange = onChange;
    this.shapes = shapes;
    this.#way = null;
    this.#cross = null;
    this.#focusBefore = document.activeElement;
    const { picture } = this.#stage;
    picture.tabIndex = 0;
    picture.classList.add("is-pointing");
    picture.focus({ preventScroll: picture.closest(".is-zoomed") !== null });
    this.choose(this.tool);
  }

  stop() {
    if (!this.isOn) return;
    this.#onChange = null;
    const { picture } = this.#stage;
    const hadFocus = document.activeElement === picture || document.activeElement === document.body;
    picture.removeAttribute("tabindex");
    picture.classList.remove("is-pointing", "is-drawing");
    this.#stage.showShapes([]);
    if (hadFocus) this.#focusBefore?.focus();
    this.#writeTools();
  }

  choose(tool) {
    this.tool = tool;
    this.#way = null;
    this.#stage.picture.classList.toggle("is-drawing", this.#draws);
    this.#changed();
  }

  /** Make the brush wider or narrower. */
  widen(by) {
    const width = this.width * by;
    this.#width = Math.min(Math.max(by > 1 ? Math.ceil(width) : Math.floor(width), 1), WIDEST);
    this.#changed();
  }

  /** Take away what is being drawn, else the last shape; return whether there was one. */
  undo() {
    if (!this.#way && !this.shapes.length) return false;
    if (this.#way) this.#way = null;
    else this.shapes = this.shapes.slice(0, -1);
    this.#changed();
    return true;
  }

  /** Move the cross, put a place where it is, or choose how to draw; return whether the key was for that. */
  key(event) {
    const key = keyOf(event);
    const tool = Object.keys(TOOLS).find((each) => TOOLS[each].key === key);
    const arrow = ARROWS[key];
    if (tool) this.choose(tool);
    else if (key in WIDTHS && this.tool === "strokes") this.widen(WIDTHS[key]);
    else if (key === "Backspace") this.undo();
    else if (arrow || key === " ") {
      const [height, width] = this.#stage.hw;
      this.#cross ??= [Math.floor(width / 2), Math.floor(height / 2)];
      if (!arrow) this.#act(this.#cross);
      else {
        const step = (event.shiftKey ? 4 : 1) * this.#step;
        this.#cross = within(this.#cross.map((at, axis) => at + step * arrow[axis]), this.#stage.hw);
        if (this.#way) this.#extend(this.#cross, 1);
        this.#changed();
      }
      this.#stage.picture.querySelector(".cross").scrollIntoView({ block: "nearest", inline: "nearest" });
    } else return false;
    return true;
  }

  get #draws() {
    return this.tool !== "at_xy";
  }

  /** Whether the mouse or a finger draws; else the keyboard does. */
  get #dragged() {
    return this.isOn && this.#way !== null && this.#apart > 0;
  }

  get #step() {
    return Math.max(1, Math.round(STEP * Math.max(...this.#stage.hw)));
  }

  #at({ clientX, clientY }) {
    const box = this.#stage.picture.getBoundingClientRect();
    const [height, width] = this.#stage.hw;
    const at = [((clientX - box.left) * width) / box.width, ((clientY - box.top) * height) / box.height];
    return within(at.map(Math.floor), this.#stage.hw);
  }

  /** Px of the frame that are so many px of the screen. */
  #onScreen(px) {
    return (px * this.#stage.hw[1]) / this.#stage.picture.clientWidth;
  }

  #press(event) {
    if (!this.isOn || !this.#draws || !event.isPrimary || event.button !== 0) return;
    event.stopPropagation(); // a magnified picture would be dragged
    this.#stage.picture.setPointerCapture(event.pointerId);
    this.#way = [this.#at(event)];
    this.#apart = Math.max(1, this.width / 4, this.#onScreen(1));
    this.#changed();
  }

  #drag(event) {
    if (!this.#dragged || !event.isPrimary) return;
    event.stopPropagation();
    this.#extend(this.#at(event), this.#apart);
    this.#changed();
  }

  /** Point with the keyboard or by a click: a point at once, a box or a stroke by its beginning and its end. */
  #act(at) {
    if (!this.#draws) this.#toggle(at);
    else if (this.#way) this.#finish();
    else {
      this.#way = [at];
      this.#apart = 0;
    }
    this.#changed();
  }

  /** Lead what is drawn to a place. The last point gives way if it is near its neighbour; a long stroke loses every second. */
  #extend(at, apart) {
    const [before, last] = this.#way.slice(-2);
    if (this.tool === "boxes_xywh") {
      this.#way = [this.#way[0], at];
    } else {
      const isNear = last && Math.hypot(last[0] - before[0], last[1] - before[1]) < apart;
      const all = [...(isNear ? this.#way.slice(0, -1) : this.#way), at];
      const isLong = all.length > MOST_POINTS;
      this.#way = isLong ? all.filter((_, number) => number % 2 === 0 || number === all.length - 1) : all;
      if (isLong) this.#apart *= 2;
    }
  }

  #finish() {
    const shape = this.#drawn();
    const [field, value] = shape;
    const isTooSmall = field === "boxes_xywh" && Math.max(value[2], value[3]) < this.#onScreen(FEWEST_PX);
    if (!isTooSmall) this.shapes = [...this.shapes, shape];
    this.#drop();
  }

  #drop() {
    this.#way = null;
    this.#changed();
  }

  /** What is being drawn, as a shape. */
  #drawn() {
    if (this.tool === "strokes") return ["strokes", { points_xy: this.#way, width_px: this.width }];
    const [from, to] = [this.#way[0], this.#way.at(-1)];
    const [x, y] = [0, 1].map((axis) => Math.min(from[axis], to[axis]));
    return ["boxes_xywh", [x, y, Math.abs(to[0] - from[0]) + 1, Math.abs(to[1] - from[1]) + 1]];
  }

  #toggle([x, y]) {
    const near = this.#onScreen(NEAR_PX);
    const isNear = ([field, at]) => field === "at_xy" && Math.hypot(at[0] - x, at[1] - y) <= near;
    const rest = this.shapes.filter((shape) => !isNear(shape));
    this.shapes = rest.length < this.shapes.length ? rest : [...rest, ["at_xy", [x, y]]];
  }

  #changed() {
    this.#stage.showShapes(this.#way ? [...this.shapes, this.#drawn()] : this.shapes, this.#cross);
    this.#writeTools();
    this.#onChange(this.shapes);
  }

  #writeTools() {
    for (const button of this.all("[data-tool]")) {
      button.ariaPressed = String(this.isOn && button.dataset.tool === this.tool);
    }
    this.find(".brush").hidden = !this.isOn || this.tool !== "strokes";
    this.find(".brush output").textContent = `${this.width} px`;
  }
}

const within = ([x, y], [height, width]) => [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
