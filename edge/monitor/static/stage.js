// A picture with its heatmap and outlines.

import { make, makeSvg, write } from "./words.js";

/** Matplotlib's colour map "inferno" as polynomials of degree 6 (public domain, Matt Zucker), as in heatline's overlays. */
const INFERNO = [
  [0.0002, 0.1065, 11.6025, -41.704, 77.1629, -71.3194, 25.1311],
  [0.0017, 0.564, -3.9729, 17.4364, -33.4024, 32.6261, -12.2427],
  [-0.0195, 3.9327, -15.9424, 44.3541, -81.8073, 73.2095, -23.0703],
];
const COLOURS = Array.from({ length: 256 }, (_, grey) =>
  INFERNO.map((terms) => 255 * terms.reduceRight((sum, term) => sum * (grey / 255) + term, 0)),
);

/** Paint an image of grey values in the colours of evidence, in place. The cover grows with the evidence; what the
 * screening stage cleared, by its grey, is hatched. */
function colour(image, cover, cleared = null) {
  const { data, width } = image;
  for (let i = 0; i < data.length; i += 4) {
    const grey = data[i];
    if (grey === cleared) {
      const at = i / 4;
      data.set([96, 160, 224, ((at % width) + Math.floor(at / width)) % 8 ? 0 : 200], i);
      continue;
    }
    [data[i], data[i + 1], data[i + 2]] = COLOURS[grey];
    data[i + 3] = cover(grey);
  }
  return image;
}

export function drawScale(canvas) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let grey = 0; grey < 256; grey++) image.data[4 * grey] = grey;
  context.putImageData(colour(image, () => 255), 0, 0);
}

export class Stage {
  #frame;
  #reference;
  #heat;
  #marks;
  #lost;
  #drawn;
  #points;
  /** Height and width of the frame, px. */
  hw = [1, 1];

  constructor(place) {
    const canvas = (className) => make("canvas", { className, width: 0 });
    [this.#frame, this.#reference, this.#heat] = ["frame", "reference", "heat"].map(canvas);
    [this.#marks, this.#drawn] = ["marks", "marks drawn"].map((name) => makeSvg("svg", { class: name }));
    this.#points = make("div", { className: "points" });
    this.#lost = make("p", { className: "lost", hidden: true });
    const layers = [this.#frame, this.#reference, this.#heat, this.#marks, this.#drawn, this.#points, this.#lost];
    this.picture = make("div", { className: "picture", role: "img" }, ...layers);
    place.append(this.picture);
  }

  /**
   * Draw a picture; the promise resolves when it is on the page.
   * @param frame blob of the frame, of any size.
   * @param heat blob of the grey heatmap, or nothing.
   * @param seen {hw, heatmap, regions, foreign, tile: {yx, px}, cells: [[x, y]]}: sizes and positions in px of the frame.
   */
  async draw(frame, heat, { hw, heatmap, regions, foreign = [], tile, cells = [] }, label) {
    const [pixels, evidence] = await Promise.all([
      createImageBitmap(frame),
      heat ? createImageBitmap(heat, { colorSpaceConversion: "none" }) : null,
    ]);
    const [height, width] = hw;
    this.hw = hw;
    this.#reference.width = 0;
    this.showShapes([]);
    this.picture.style.setProperty("--aspect", width / height);
    drawIn(this.#frame, pixels);
    this.#heat.hidden = !evidence;
    if (evidence) this.#drawHeat(evidence, hw, heatmap);
    for (const svg of [this.#marks, this.#drawn]) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const outlines = regions.map((region) => ["polygon", { points: region.contour_xy.join(" ") }]);
    const shapes = [...outlines.map((each) => [...each, "under"]), ...outlines.map((each) => [...each, "region"])];
    const boxOf = ({ box_xyxy: [x0, y0, x1, y1] }) => ({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    const boxes = foreign.map((area) => ["foreign", boxOf(area)]);
    if (tile) boxes.push(["tile", { x: tile.yx[1], y: tile.yx[0], width: tile.px, height: tile.px }]);
    for (const [name, box] of boxes) shapes.push(["rect", box, "under"], ["rect", box, name]);
    shapes.push(...cells.map(([x, y]) => ["rect", { x, y, width: heatmap.cell_px, height: heatmap.cell_px }, "cell"]));
    this.#marks.replaceChildren(...shapes.map(shape));
    this.picture.ariaLabel = label;
  }

  /** Draw the frame again, from a blob of any size. */
  async redraw(frame) {
    drawIn(this.#frame, await createImageBitmap(frame));
  }

  /** Draw what takes the frame's place while the picture is blended, from a blob. */
  async drawReference(reference) {
    drawIn(this.#reference, await createImageBitmap(reference));
  }

  get hasReference() {
    return this.#reference.width > 0;
  }

  /** Whether the reference is shown in place of the frame. */
  set blended(isOn) {
    this.picture.classList.toggle("is-blended", isOn);
  }

  /**
   * Show places of missed defects, px of the frame: [field of a mark, value] each.
   * @param cross where the keyboard is, or null.
   */
  showShapes(shapes, cross = null) {
    const [height, width] = this.hw;
    const of = (field) => shapes.filter((each) => each[0] === field).map((each) => each[1]);
    const boxes = of("boxes_xywh").map(([x, y, w, h]) => ["rect", { x, y, width: w, height: h }]);
    const strokes = of("strokes").map(({ points_xy: way, width_px: thick }) => {
      const points = [way[0], ...way].map(([x, y]) => `${x + 0.5},${y + 0.5}`); // one point alone would not be drawn
      return ["polyline", { points: points.join(" "), "stroke-width": thick }, "stroke"];
    });
    const outlines = ["under", "box"].flatMap((name) => boxes.map((each) => [...each, name]));
    this.#drawn.replaceChildren(...[...strokes, ...outlines].map(shape));
    const all = [...of("at_xy").map((each) => ["point", each]), ...(cross ? [["cross", cross]] : [])];
    this.#points.replaceChildren(...all.map(([className, [x, y]]) => {
      const place = make("span", { className });
      place.style.left = `${(100 * (x + 0.5)) / width}%`;
      place.style.top = `${(100 * (y + 0.5)) / height}%`;
      return place;
    }));
  }

  /** Grey the picture and say why in a sentence; null: the picture is current. */
  set lost(sentence) {
    this.picture.classList.toggle("is-lost", sentence !== null);
    this.#lost.hidden = sentence === null;
    write(this.#lost, sentence ?? "");
  }

  #drawHeat(evidence, [height, width], { hw: [rows, columns], cell_px: cell, cleared_grey: cleared }) {
    this.#heat.width = columns;
    this.#heat.height = rows;
    const context = this.#heat.getContext("2d", { willReadFrequently: true });
    context.drawImage(evidence, 0, 0);
    evidence.close();
    context.putImageData(colour(context.getImageData(0, 0, columns, rows), (grey) => grey, cleared), 0, 0);
    // The last cells may reach beyond the frame; the picture cuts them off.
    this.#heat.style.width = `${(100 * columns * cell) / width}%`;
    this.#heat.style.height = `${(100 * rows * cell) / height}%`;
  }
}

function drawIn(canvas, pixels) {
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d").drawImage(pixels, 0, 0);
  pixels.close();
}

const shape = ([tag, attributes, className]) => makeSvg(tag, { ...attributes, class: className });
