// Lets a person point at places of a picture: with the mouse, a finger, or the keyboard.

/** A click so near to a place takes it away again. */
const NEAR_PX = 14;
const STEP = 1 / 64;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pointing {
  #stage;
  #onChange = null;
  #points = [];
  #cross = null;
  #focusBefore = null;

  constructor(stage) {
    this.#stage = stage;
    stage.picture.addEventListener("click", (event) => this.isOn && this.#click(event));
  }

  get isOn() {
    return this.#onChange !== null;
  }

  /** The places, px of the frame. */
  get points() {
    return this.#points;
  }

  /** @param onChange is called with the places after each change. */
  start(onChange) {
    this.#onChange = onChange;
    this.#points = [];
    this.#cross = null;
    this.#focusBefore = document.activeElement;
    const { picture } = this.#stage;
    picture.tabIndex = 0;
    picture.classList.add("is-pointing");
    picture.focus({ preventScroll: picture.closest(".is-zoomed") !== null });
    this.#changed();
  }

  stop() {
    if (!this.isOn) return;
    this.#onChange = null;
    const { picture } = this.#stage;
    const hadFocus = document.activeElement === picture || document.activeElement === document.body;
    picture.removeAttribute("tabindex");
    picture.classList.remove("is-pointing");
    this.#stage.points = [];
    if (hadFocus) this.#focusBefore?.focus();
  }

  /** Move the cross, or put a place where it is; return whether the key was for that. */
  key({ key, shiftKey }) {
    const [height, width] = this.#stage.hw;
    const arrow = ARROWS[key];
    if (!arrow && key !== " ") return false;
    this.#cross ??= [Math.floor(width / 2), Math.floor(height / 2)];
    if (arrow) {
      const step = Math.max(1, Math.round((shiftKey ? 4 : 1) * STEP * Math.max(width, height)));
      this.#cross = within(this.#cross.map((at, axis) => at + step * arrow[axis]), this.#stage.hw);
    } else {
      this.#toggle(this.#cross);
    }
    this.#changed();
    return true;
  }

  #click({ clientX, clientY }) {
    const box = this.#stage.picture.getBoundingClientRect();
    const [height, width] = this.#stage.hw;
    const at = [((clientX - box.left) * width) / box.width, ((clientY - box.top) * height) / box.height];
    this.#toggle(within(at.map(Math.floor), this.#stage.hw));
    this.#changed();
  }

  #toggle([x, y]) {
    const near = (NEAR_PX * this.#stage.hw[1]) / this.#stage.picture.clientWidth;
    const rest = this.#points.filter((point) => Math.hypot(point[0] - x, point[1] - y) > near);
    this.#points = rest.length < this.#points.length ? rest : [...rest, [x, y]];
  }

  #changed() {
    this.#stage.showPoints(this.#points, this.#cross);
    if (this.#cross) this.#stage.picture.querySelector(".cross").scrollIntoView({ block: "nearest", inline: "nearest" });
    this.#onChange(this.#points);
  }
}

const within = ([x, y], [height, width]) => [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
