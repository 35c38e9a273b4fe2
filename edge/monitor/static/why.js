// The panel that explains one verdict.

import { Marking } from "./marking.js";
import { Viewer, loadPicture } from "./viewer.js";
import {
  LETTERS, clock, dateAndClock, fillFacts, keyOf, logit, make, makeSvg, number, setShape, verdictOf, wordOf,
} from "./words.js";

const CELLS_LISTED = 8;
/** Share of the pictures in memory that may leave it while the panel loads; they are not asked for. */
const LEAVING = 0.2;
/** A crop shows at least so many px of the frame around its region. */
const SMALLEST_CROP_PX = 128;

export class Why extends Viewer {
  #navigation;
  #marks;
  #marking;
  #row = null;
  #others = [];
  /** Counts openings: an answer that belongs to an earlier one is ignored. */
  #opening = 0;

  /** @param navigation {neighbour(row, steps), open(row), opened(row), closed(row)}: how the panel moves along the strip. */
  constructor(marks, navigation) {
    super(document.getElementById("why"), (sentence) => marks.say(sentence));
    this.#navigation = navigation;
    this.#marks = marks;
    this.#marking = new Marking(this.find(".marking"), this.stage, marks, { marked() {}, takenBack() {} });
  }

  /** Handle a key of the panel; return whether it was one. */
  key(event) {
    if (this.#marking.key(event)) return true;
    const key = keyOf(event);
    const isElsewhere = key.startsWith("Arrow") && !this.root.contains(event.target); // it moves along a strip
    return !isElsewhere && key !== "ArrowUp" && key !== "ArrowDown" && super.key(key);
  }

  /** Let the reviewer point at missed defects. */
  point() {
    this.#marking.mark("missed");
  }

  /** Explain a verdict; its picture may no longer exist. */
  async open(row) {
    const opening = ++this.#opening;
    this.#row = row;
    this.root.hidden = false;
    this.root.focus();
    this.root.scrollTop = 0;
    this.#navigation.opened(row);
    setShape(this.find(".shape"), row.verdict);
    this.root.dataset.verdict = row.verdict;
    this.find("#why-title").textContent = `${verdictOf(row)}: ${row.camera}, frame ${row.frame_number}`;
    this.#say("");
    this.find(".earlier").disabled = !this.#navigation.neighbour(row, -1);
    this.find(".later").disabled = !this.#navigation.neighbour(row, 1);
    this.#marking.show(null);
    this.reference = null;
    this.find(".evidence").hidden = true;
    fillFacts(this.find(".facts tbody"), rowFacts(row));
    try {
      const loaded = row.picture === null ? null : await loadPicture(row.id);
      if (opening !== this.#opening) return;
      if (loaded) await this.#showPicture(row, loaded, opening);
      else this.#say("No picture of it is stored.");
    } catch (error) {
      if (opening === this.#opening) this.#say(`Its picture cannot be shown: ${error.message}.`);
    }
  }

  close() {
    if (this.root.hidden) return;
    this.#opening++;
    this.#marking.show(null);
    this.root.hidden = true;
    this.#navigation.closed(this.#row);
  }

  step(steps) {
    const row = this.#navigation.neighbour(this.#row, steps);
    if (row) this.#navigation.open(row);
  }

  #say(sentence) {
    this.find(".reason").textContent = [reasonOf(this.#row), sentence].filter(Boolean).join(" ");
  }

  async #showPicture(row, { path, why: picture, frame, heat }, opening) {
    const { event, heatmap, tiles, tile_px: tilePx, others } = picture;
    const cells = picture.cells ?? [];
    this.#others = others.slice(Math.floor(LEAVING * others.length));
    const tile = tiles?.length ? { yx: tiles[0].yx, px: tilePx, logit: tiles[0].logit } : null;
    const hw = event.frame_hw ?? (await sizeOf(frame));
    const { regions, foreign_areas: foreign } = event;
    const marks = { hw, heatmap, regions, foreign, tile, cells: cells.map((cell) => cell.xy) };
    await this.stage.draw(frame, heat, marks, `Frame ${row.frame_number} with its strongest evidence`);
    if (opening !== this.#opening) return;
    this.find(".evidence").hidden = false;
    this.#marking.show(row);
    this.reference = picture.has_reference ? path : null;
    for (const each of this.all(".compared")) each.hidden = !picture.has_reference;
    this.#marks.note(row.id, picture.review);
    this.#say([tile ? tileWords(tile, event) : "", foreignWords(event)].filter(Boolean).join(" "));
    this.#showBar(tile, event, heatmap);
    this.find(".of-cells").hidden = cells.length === 0;
    this.find(".cells tbody").replaceChildren(
      ...cells.slice(0, CELLS_LISTED).map(({ xy: [x, y], logit: value }) =>
        make("tr", {}, make("td", {}, String(x)), make("td", {}, String(y)), make("td", {}, logit(value)))),
    );
    this.#showRegions(row, event, tile, hw);
    fillFacts(this.find(".facts tbody"), eventFacts(row, picture));
  }

  #showBar(tile, event, heatmap) {
    const bar = this.find(".bar");
    bar.toggleAttribute("hidden", !tile);
    this.find(".scale").hidden = !tile;
    if (!tile) return;
    const threshold = event.score_threshold;
    const ends = [tile.logit, threshold, heatmap?.logit_at_0 ?? threshold - 1, heatmap?.logit_at_255 ?? threshold + 1];
    const low = Math.min(...ends);
    const share = (value) => `${(95 * (value - low)) / (Math.max(...ends) - low)}%`;
    bar.replaceChildren(
      makeSvg("rect", { class: "track", x: 0, y: 8, width: "100%", height: 12 }),
      makeSvg("rect", { class: "value", x: 0, y: 8, width: share(tile.logit), height: 12 }),
      makeSvg("line", { class: "threshold", x1: share(threshold), x2: share(threshold), y1: 0, y2: 28 }),
    );
    this.find(".scale").replaceChildren(
      make("span", { className: "value" }, `evidence ${logit(tile.logit)}`),
      make("span", { className: "threshold" }, `limit ${logit(threshold)}`),
    );
  }

  #showRegions(row, event, tile, hw) {
    const choices = event.regions.map((region, index) =>
      make("button", { type: "button", onclick: () => this.#showRegion(row, event, index, hw) }, String(index + 1)));
    this.find(".regions").replaceChildren(...(choices.length > 1 ? choices : []));
    if (event.regions.length) this.#showRegion(row, event, 0, hw);
    else if (tile) {
      const [y, x] = tile.yx;
      this.#showPlace(row, [x, y, x + tile.px, y + tile.px], hw, "The strongest evidence at full resolution");
    } else this.#showPlace(row, null, hw, "");
  }

  #showRegion(row, event, index, hw) {
    const { box_xyxy: [x0, y0, x1, y1], score, mm, tolerated } = event.regions[index];
    this.find(".regions").querySelectorAll("button").forEach((each, at) => (each.ariaPressed = String(at === index)));
    const words = `Region ${index + 1} of ${event.regions.length} at full resolution: ` +
      `${x1 - x0} × ${y1 - y0} px at (${x0}, ${y0}), peak ${logit(score)}${mm ? mmWords(mm) : ""}${tolerated ? ", tolerated" : ""}`;
    this.#showPlace(row, [x0, y0, x1, y1], hw, words);
  }

  /** Show a place of the frame at full resolution, and the same place on the frames before. */
  #showPlace(row, box, hw, title) {
    const crop = this.find(".crop");
    const places = this.find(".same-place");
    this.find(".region-title").textContent = title;
    for (const each of this.all(".of-place")) each.hidden = !box;
    places.replaceChildren();
    if (!box) return;
    const query = new URLSearchParams(Object.entries(around(box, hw)));
    crop.alt = title;
    crop.src = `/api/pictures/${row.id}/crop.png?${query}`;
    for (const each of this.all(".compared:not([hidden]) img")) {
      each.src = `/api/pictures/${row.id}/${each.dataset.of}.png?${query}`;
    }
    places.replaceChildren(...this.#others.map((each) => this.#smallCrop(each, row, query)));
    const current = places.querySelector("[aria-current]") ?? places.lastElementChild;
    places.scrollLeft = (current?.offsetLeft ?? 0) - places.clientWidth / 2;
  }

  #smallCrop({ id, at_ns: at, verdict }, row, query) {
    const image = make("img", { alt: "", src: `/api/pictures/${id}/crop.png?${query}` });
    image.onerror = () => image.replaceWith("not stored");
    const item = make("li", { "data-verdict": verdict },
      image, make("span", {}, make("b", {}, LETTERS[verdict]), ` ${clock(at)}`));
    if (id === row.id) item.ariaCurrent = "true";
    return item;
  }
}

async function sizeOf(blob) {
  const pixels = await createImageBitmap(blob);
  return [pixels.height, pixels.width];
}

/** A box and its surroundings, within the frame. */
function around([x0, y0, x1, y1], [height, width]) {
  const side = Math.max(SMALLEST_CROP_PX, 1.5 * (x1 - x0), 1.5 * (y1 - y0));
  const along = (low, high, limit) => {
    const length = Math.min(limit, Math.round(side));
    const start = Math.min(Math.max(0, Math.round((low + high - length) / 2)), limit - length);
    return [start, start + length];
  };
  const [left, right] = along(x0, x1, width);
  const [top, bottom] = along(y0, y1, height);
  return { x0: left, y0: top, x1: right, y1: bottom };
}

function reasonOf({ verdict, reason, detail }) {
  if (verdict !== "NO_VERDICT") return "";
  return `The frame has no verdict: ${detail ?? reason}. It does not count as good.`;
}

/** The detail of a frame without a verdict has its areas. */
function foreignWords({ verdict, foreign_areas: areas }) {
  return verdict === "DEFECT" ? areas.map(({ why }) => `Foreign area: ${why}.`).join(" ") : "";
}

const mmWords = ({ extent, area, error }) =>
  `, ${number(extent, 2)} mm long (± ${number(error, 2)}), ${number(area, 2)} mm²`;

function poseWords(pose) {
  if (!pose) return null;
  return `${number(pose.x_px, 1)} px right, ${number(pose.y_px, 1)} px down, ${number(pose.degrees, 2)}° clockwise of the reference, ` +
    `${number(100 * (pose.magnification - 1), 2)} % larger; confidence ${number(pose.confidence, 2)}, error ${number(pose.error_px, 1)} px`;
}

const tileWords = ({ logit: value }, { score_threshold: limit }) =>
  `Strongest evidence here: ${logit(value)}; limit ${logit(limit)}.`;

const rowFacts = (row) => [
  ["Captured", dateAndClock(row.at_ns)],
  ["Verdict", verdictOf(row)],
  ["Reason", row.detail ?? row.reason],
  ["Shadow's verdict", row.shadow && wordOf(row.shadow.verdict)],
  ["Shadow's score and threshold, logits", row.shadow && `${logit(row.shadow.frame_score)}, ${logit(row.shadow.score_threshold)}`],
  ["Shadow's reason", row.shadow?.detail],
  ["Frame score, logits", row.frame_score === null ? null : logit(row.frame_score)],
  ["Score threshold, logits", row.score_threshold === null ? null : logit(row.score_threshold)],
  ["Part", row.part_id],
  ["Camera's frame", row.frame_id === null ? null : String(row.frame_id)],
  ["File", row.source],
  ["Latency", `${number(row.latency_ms, 0)} ms`],
  ["Product", row.product],
];

const eventFacts = (row, { event }) => [
  ...rowFacts(row),
  ["Tiles cleared by the screening stage, hatched", event.screened && `${event.screened.cleared} of ${event.screened.tiles}`],
  ["Evidence threshold, logits", event.bundle && logit(event.evidence_threshold)],
  ["Bundle", event.bundle && `${event.bundle.name} ${event.bundle.version}`],
  ["Bundle's digest", event.bundle?.digest],
  ["Precision", event.precision],
  ["Pose", poseWords(event.pose)],
  ["Acting", event.acting ? "yes" : "no, this is a trial"],
  ["Picture", event.picture ?? row.id],
];
