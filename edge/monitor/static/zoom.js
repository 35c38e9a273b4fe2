// Shows a picture with one px of the frame on one px of the screen, to be scrolled or dragged.

const DRAGGED_PX = 4;

export class Zoom {
  #place;
  #stage;
  #from = null;
  #wasDragged = false;

  /** @param place the element that scrolls, around the stage's picture. */
  constructor(place, stage) {
    this.#place = place;
    this.#stage = stage;
    place.addEventListener("pointerdown", (event) => this.#begin(event));
    place.addEventListener("pointermove", (event) => this.#drag(event));
    // A drag ends with a click, which would point at a place.
    place.addEventListener("click", (event) => this.#wasDragged && event.stopPropagation(), { capture: true });
  }

  get isOn() {
    return this.#place.classList.contains("is-zoomed");
  }

  /**
   * Magnify the picture. A frame that fits on the screen is magnified by a whole number.
   * @param at px of the frame, [x, y], that comes to the middle.
   */
  start([x, y]) {
    const { picture, hw: [height, width] } = this.#stage;
    const fitted = (picture.clientWidth * devicePixelRatio) / width;
    const scale = (fitted < 1 ? 1 : Math.floor(fitted) + 1) / devicePixelRatio;
    picture.style.setProperty("--zoomed", `${width * scale}px`);
    this.#place.classList.add("is-zoomed");
    this.#place.scrollTo(x * scale - this.#place.clientWidth / 2, y * scale - this.#place.clientHeight / 2);
  }

  stop() {
    this.#wasDragged = false;
    this.#place.classList.remove("is-zoomed");
  }

  #begin({ clientX, clientY, pointerType, button }) {
    this.#wasDragged = false;
    const { scrollLeft, scrollTop } = this.#place;
    const isMouse = this.isOn && pointerType === "mouse" && button === 0; // a finger scrolls by itself
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
