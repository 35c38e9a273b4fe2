// Thumbnails of all pictures. Only those that are seen are in the document, so thousands scroll smoothly.

import { urlOf } from "./label_store.js";
import { Part, keyOf, number, setShape } from "./words.js";

const GAP = 8;
const WIDEST = 200;
const NARROW = 116;
const LABEL_PX = 30;
/** Rows beyond the border that are drawn already. */
const BEYOND = 1;
/** Thumbnails are loaded where scrolling rests for so long. */
const REST_MS = 60;

export class Grid extends Part {
  #all = this.root.firstElementChild;
  #labels;
  #names = [];
  #options = { groups: null, doubts: false };
  #cells = new Map();
  #free = [];
  #template = document.getElementById("cell-template").content.firstElementChild;
  #current = null;
  #selected = new Set();
  #columns = 1;
  #size = [1, 1];
  #loading = null;

  constructor(root, labels, open) {
    super(root);
    this.#labels = labels;
    this.open = open;
    root.addEventListener("scroll", () => this.#draw());
    root.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.#arrange()).observe(root);
  }

  /** Names of the pictures that a key labels. */
  get chosen() {
    if (this.#selected.size) return this.#names.filter((name) => this.#selected.has(name));
    return this.#current === null ? [] : [this.#current];
  }

  /** @param options {groups: Map of name and number, or null; doubts: whether to write how much is doubted} */
  show(names, options) {
    const at = this.#names.indexOf(this.#current);
    this.#names = names;
    this.#options = options;
    const known = new Set(names);
    this.#selected = this.#selected.intersection(known);
    if (!known.has(this.#current)) this.#current = names[Math.min(Math.max(at, 0), names.length - 1)] ?? null;
    this.#arrange();
  }

  focus() {
    this.root.focus({ preventScroll: true });
  }

  top() {
    this.#selected.clear();
    this.root.scrollTo(0, 0);
    this.#current = null;
  }

  /** Make a picture the current one, and bring it into view. */
  go(name) {
    const at = this.#names.indexOf(name);
    if (at < 0) return;
    this.#current = name;
    const [, height] = this.#size;
    const y = GAP + Math.floor(at / this.#columns) * height;
    const { scrollTop, clientHeight } = this.root;
    if (y < scrollTop) this.root.scrollTo(0, y - GAP);
    else if (y + height > scrollTop + clientHeight) this.root.scrollTo(0, y + height - clientHeight);
    this.#draw();
  }

  /** Handle a key; return whether it was one of these. */
  key(event) {
    if (event.target.tagName === "BUTTON") return false;
    const key = keyOf(event);
    const rows = Math.max(1, Math.floor(this.root.clientHeight / this.#size[1])) * this.#columns;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns, ArrowDown: this.#columns, PageUp: -rows, PageDown: rows,
      Home: -Infinity, End: Infinity,
    }[key];
    const at = this.#names.indexOf(this.#current);
    if (steps) {
      const to = this.#names[Math.min(Math.max(at + steps, 0), this.#names.length - 1)];
      if (event.shiftKey) this.#selectTo(to);
      this.go(to);
    } else if (key === "Enter" && at >= 0) this.open(this.#current);
    else if (key === " " && at >= 0) this.#toggle(this.#current);
    else if (key === "Escape") this.#selected.clear();
    else return false;
    this.#draw();
    return true;
  }

  #click(event) {
    const name = event.target.closest(".cell")?.dataset.name;
    if (!name) return;
    if (event.shiftKey) this.#selectTo(name);
    else if (event.ctrlKey || event.metaKey) this.#toggle(name);
    else this.open(name);
    this.#current = name;
    this.#draw();
  }

  #toggle(name) {
    if (!this.#selected.delete(name)) this.#selected.add(name);
  }

  #selectTo(name) {
    const [from, to] = [this.#current, name].map((each) => this.#names.indexOf(each)).sort((one, other) => one - other);
    for (const each of this.#names.slice(Math.max(from, 0), to + 1)) this.#selected.add(each);
  }

  #arrange() {
    const width = this.root.clientWidth - GAP;
    this.#columns = Math.max(1, Math.ceil(width / ((width < 600 ? NARROW : WIDEST) + GAP)));
    const cell = width / this.#columns;
    this.#size = [cell, Math.round(cell * 0.8) + LABEL_PX];
    this.#all.style.height = `${Math.ceil(this.#names.length / this.#columns) * this.#size[1] + GAP}px`;
    this.#draw();
  }

  /** Put the pictures that are seen into the document, and take all others out. */
  #draw() {
    const [width, height] = this.#size;
    const { scrollTop, clientHeight } = this.root;
    const first = Math.max(0, Math.floor(scrollTop / height) - BEYOND) * this.#columns;
    const end = (Math.ceil((scrollTop + clientHeight) / height) + BEYOND) * this.#columns;
    const names = this.#names.slice(first, end);
    const wanted = new Set(names);
    for (const [name, cell] of this.#cells) {
      if (wanted.has(name)) continue;
      this.#cells.delete(name);
      cell.remove();
      cell.querySelector("img").removeAttribute("src"); // it need not be loaded any more
      this.#free.push(cell);
    }
    for (const [number, name] of names.entries()) {
      const at = first + number;
      const cell = this.#cells.get(name) ?? this.#add(name);
      const x = GAP + (at % this.#columns) * width;
      cell.style.transform = `translate(${x}px, ${GAP + Math.floor(at / this.#columns) * height}px)`;
      cell.style.width = `${width - GAP}px`;
      cell.style.height = `${height - GAP}px`;
      this.#write(cell, name, at);
    }
    this.root.setAttribute("aria-activedescendant", this.#cells.get(this.#current)?.id ?? "");
    clearTimeout(this.#loading);
    this.#loading = setTimeout(() => this.#load(), REST_MS);
  }

  #add(name) {
    const cell = this.#free.pop() ?? this.#template.cloneNode(true);
    cell.dataset.name = name;
    cell.querySelector(".name").textContent = `\u200e${name}`; // it is cut off at its beginning
    this.#cells.set(name, cell);
    this.#all.append(cell);
    return cell;
  }

  #write(cell, name, at) {
    const { label, places, sent } = this.#labels.get(name);
    const doubt = this.#labels.doubt(name);
    cell.id = `picture-${at}`;
    cell.dataset.label = label;
    cell.title = cell.ariaLabel = `${name}: ${label}${places ? ", with places" : ""}${sent ? ", not stored yet" : ""}`;
    cell.ariaSetSize = this.#names.length;
    cell.ariaPosInSet = at + 1;
    cell.ariaSelected = String(this.#selected.has(name));
    cell.classList.toggle("is-current", name === this.#current);
    cell.classList.toggle("is-odd", (this.#options.groups?.get(name) ?? 0) % 2 === 1);
    setShape(cell.querySelector("svg"), label);
    cell.querySelector(".places").hidden = !places || label !== "defective";
    cell.querySelector(".doubt").textContent = this.#options.doubts && doubt !== null ? number(this.#labels.above[name], 1) : "";
  }

  #load() {
    for (const [name, cell] of this.#cells) {
      const image = cell.querySelector("img");
      if (!image.hasAttribute("src")) image.src = urlOf("thumbnail.jpg", name);
    }
  }
}
