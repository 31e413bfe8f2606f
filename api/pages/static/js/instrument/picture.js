// The drawn network: its neurons and connections as elements, what is lit and faded, and the keys that go through it.

import { all, around, find } from "../api.js";
import { svgElement } from "./plot.js";

/** @typedef {import("./circuit.js").Part} Part */

const SHAPES = ["circle", "square", "diamond", "triangle", "hexagon", "cross", "star", "drop"];
export const TONES = 8; // colours and shapes; the ninth part has the first again

/** The picture of the server, made interactive. */
export class Picture {
  /** @param {SVGSVGElement} svg */
  constructor(svg) {
    this.svg = svg;
    this.neurons = byData(svg, ".neuron", "neuron");
    this.connections = byData(svg, ".connection", "connection");
    this.grips = byData(svg, ".grip", "connection");
    this.coloured = ""; // by which parts
    /** @type {Map<string, string>} */
    this.tones = new Map(); // neuron → number and name of the part it is coloured by; "": none
    /** @type {SVGElement[]} */
    this.marked = [];
    if ("painted" in svg.dataset) new Lines(svg, [...this.connections.values()]);
  }

  /** Marks a neuron and its neighbours, or a connection and its ends, and fades all else; empty: nothing is marked. @param {Iterable<string>} neurons @param {Iterable<string>} connections */
  light(neurons, connections) {
    for (const each of this.marked) each.classList.remove("near");
    this.marked = [...neurons].map((id) => this.neurons.get(id)).concat([...connections].map((key) => this.connections.get(key))).filter((each) => each !== undefined);
    for (const each of this.marked) each.classList.add("near");
    this.svg.classList.toggle("looking", this.marked.length > 0);
  }

  /** Colours neurons by part, with a shape for each; ids of no part are left plain. @param {Pick<Part, "name"|"neurons"|"number">[]} parts */
  colour(parts) {
    const colours = parts.map(({ name, neurons, number }) => `${number} ${name} ${neurons.join()}`).join(";");
    if (colours === this.coloured) return; // while a threshold is dragged most steps leave the parts as they are
    this.coloured = colours;
    const tones = new Map();
    for (const { neurons, name, number = 0 } of parts) for (const id of neurons) tones.set(id, { number: number % TONES, name });
    for (const [id, each] of this.neurons) {
      const tone = each.classList.contains("unused") ? undefined : tones.get(id);
      const now = tone ? `${tone.number} ${tone.name}` : "";
      if (this.tones.get(id) === now) continue;
      this.tones.set(id, now);
      for (const old of each.querySelectorAll(".shape, .letter")) old.remove();
      each.classList.remove(...[...each.classList].filter((name) => name.startsWith("module-")), "shaped");
      if (!tone) continue;
      each.classList.add(`module-${tone.number + 1}`, "shaped");
      const circle = find(each, "circle", SVGCircleElement);
      const [x, y, r] = ["cx", "cy", "r"].map((name) => Number(circle.getAttribute(name)));
      const shape = svgElement("path", { class: "shape", d: outline(SHAPES[tone.number], x, y, r) });
      circle.after(shape);
      if (r < 7) continue;
      const letter = svgElement("text", { class: "letter", x, y: y + 3.4 });
      letter.textContent = tone.name.length <= 3 ? tone.name : "";
      shape.after(letter);
    }
  }

  /** Fades a connection or neuron, or not. @param {string} kind @param {string} id @param {string} name @param {boolean} on */
  set(kind, id, name, on) {
    (kind === "neuron" ? this.neurons : this.connections).get(id)?.classList.toggle(name, on);
    if (kind === "connection") this.grips.get(id)?.classList.toggle(name, on);
  }
}

/** Gives a class to an element or takes it away, and touches no other: each change of one is drawn anew. @param {Element} each @param {string} name @param {boolean} on */
export function mark(each, name, on) {
  if (each.classList.contains(name) !== on) each.classList.toggle(name, on);
}

/** The elements that a selector matches, by what their data attribute holds. @param {SVGSVGElement} svg @param {string} selector @param {string} name */
const byData = (svg, selector, name) => new Map(all(svg, selector, SVGElement).map((each) => [each.dataset[name] ?? "", each]));

/**
 * Connections on a canvas behind the picture. Their elements stay, unseen, for the pointer and for the classes that say
 * how each looks: as in the style sheet, but for those that are cut, which are not drawn.
 */
class Lines {
  /** @param {SVGSVGElement} svg @param {SVGElement[]} elements the lightest first */
  constructor(svg, elements) {
    this.svg = svg;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "lines";
    this.canvas.setAttribute("aria-hidden", "true");
    this.frame = 0;
    this.lines = new Map(elements.map((element) => {
      const of = (/** @type {string} */ name) => element.getAttribute(name);
      const path = new Path2D(of("d") ?? `M${of("x1")} ${of("y1")}L${of("x2")} ${of("y2")}`);
      return [element, { path, plus: element.classList.contains("plus"), width: Number(of("stroke-width")), opacity: Number(of("stroke-opacity")), is: new Set(element.classList) }];
    }));
    svg.before(this.canvas);
    svg.classList.add("painted");
    new MutationObserver((changes) => this.follow(changes)).observe(svg, { attributes: true, attributeFilter: ["class"], subtree: true });
    new ResizeObserver(() => this.ask()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.ask());
  }

  /** @param {MutationRecord[]} changes */
  follow(changes) {
    for (const target of new Set(changes.map((each) => /** @type {SVGElement} */ (each.target)))) {
      const line = this.lines.get(target);
      if (line) line.is = new Set(target.classList);
      if (line || target === this.svg) this.ask();
    }
  }

  ask() {
    this.frame ||= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = 0;
    const { canvas, svg } = this;
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
    const { width, height } = svg.viewBox.baseVal;
    const zoom = Math.min(wide / width, high / height);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, wide, high);
    pen.setTransform(zoom, 0, 0, zoom, (wide - width * zoom) / 2, (high - height * zoom) / 2);
    const style = getComputedStyle(svg);
    const [plus, minus, quiet] = ["--plus", "--minus", "--quiet"].map((name) => style.getPropertyValue(name).trim());
    const [looking, focused, dragging] = ["looking", "focused", "dragging"].map((name) => svg.classList.contains(name));
    for (const { path, plus: positive, width: bold, opacity, is } of this.lines.values()) {
      if (is.has("cut")) continue;
      const faded = is.has("dead") ? 0.1 : looking && !is.has("near") ? 0.16 : focused && !is.has("lit") ? 0.13 : 1;
      const off = is.has("off");
      pen.globalAlpha = faded * opacity;
      pen.strokeStyle = off ? quiet : positive ? plus : minus;
      pen.lineWidth = is.has("selected") ? bold + 3 : bold;
      // Dashes take most of the time: none while the threshold is dragged, and none where lines are faint anyway.
      pen.setLineDash(off ? [2, 7] : positive || dragging || faded < 1 ? [] : [7, 4]);
      pen.stroke(path);
    }
  }
}

/** The outline of a shape around a point, as large as a circle of radius r. @param {string} shape @param {number} x @param {number} y @param {number} r */
function outline(shape, x, y, r) {
  /** @param {number} value */
  const round = (value) => Math.round(value * 10) / 10;
  /** @param {number} count @param {number} start @param {(i: number) => number} radius */
  const corners = (count, start, radius = () => 1.2) => `M${Array.from({ length: count }, (_, i) => [x + r * radius(i) * Math.cos(start + (2 * Math.PI * i) / count), y + r * radius(i) * Math.sin(start + (2 * Math.PI * i) / count)].map(round).join(" ")).join("L")}Z`;
  const up = -Math.PI / 2;
  if (shape === "square") return corners(4, Math.PI / 4);
  if (shape === "diamond") return corners(4, up, () => 1.25);
  if (shape === "triangle") return corners(3, up, () => 1.35);
  if (shape === "hexagon") return corners(6, 0, () => 1.1);
  if (shape === "star") return corners(10, up, (i) => (i % 2 ? 0.6 : 1.4));
  if (shape === "cross") return corners(8, Math.PI / 8, (i) => [1.3, 0.75][(i >> 1) % 2]);
  if (shape === "drop") return corners(3, Math.PI / 2, () => 1.35);
  return `M${round(x - r)} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
}

/** A part's shape alone, for lists. @param {number} [number] */
export function badge(number = 0) {
  const svg = svgElement("svg", { class: `badge tone-m${(number % TONES) + 1}`, viewBox: "0 0 20 20", "aria-hidden": "true" });
  svg.append(svgElement("path", { d: outline(SHAPES[number % TONES], 10, 10, 7) }));
  return svg;
}

/** The id of a drawn neuron. @param {SVGElement} neuron */
export const idOf = (neuron) => neuron.dataset.neuron ?? "";

// Neurons by keyboard: one stop for Tab, arrows from neuron to neuron, Enter selects, X silences, Escape lets go.

export const KEYS = [
  ["← →", "the neuron beside it in its layer"],
  ["↑ ↓", "along its strongest connection, towards the outputs or the inputs"],
  ["Home End", "the first and the last neuron of its layer"],
  ["Enter", "select it"],
  ["X", "silence it, or restore it"],
  ["Escape", "clear the selection, or restore everything that is silenced"],
  ["L", "the next level of modules"],
  ["Space", "play the training, or pause"],
  ["?", "these keys"],
];

/**
 * @typedef {(kind: string, id: string) => unknown} Act on a neuron
 * @param {{circuit: import("./circuit.js").Circuit, picture: Picture, look: (kind: ?string, id: string) => unknown, select: Act, silence: Act}} instrument
 */
export function walk({ circuit, picture, look, select, silence }) {
  const stops = [...picture.neurons.values()].filter((each) => circuit.isWired(idOf(each)));
  if (!stops.length) return;
  /** @param {SVGElement} each */
  const x = (each) => Number(find(each, "circle", SVGCircleElement).getAttribute("cx"));
  /** @param {SVGElement} each */
  const layerOf = (each) => circuit.neuron(idOf(each)).layer;
  const rows = new Map(circuit.layers.map((layer) => [layer, stops.filter((each) => layerOf(each) === layer).sort((a, b) => x(a) - x(b))]));
  let here = stops.find((each) => layerOf(each) === circuit.layers.at(-1)) ?? stops[0];
  picture.svg.setAttribute("role", "group");
  for (const each of stops) {
    each.setAttribute("role", "button");
    each.setAttribute("aria-label", find(each, "title", SVGTitleElement).textContent ?? "");
    each.setAttribute("tabindex", each === here ? "0" : "-1");
  }

  /** @param {SVGElement} [next] */
  function go(next) {
    if (!next) return;
    here.setAttribute("tabindex", "-1");
    here = next;
    here.setAttribute("tabindex", "0");
    here.focus();
  }
  /** @param {Connection[]} connections @param {"source"|"target"} end */
  const along = (connections, end) => picture.neurons.get(connections.find((each) => each.source !== each.target)?.[end] ?? "");
  /** @type {Record<string, (id: string, row: SVGElement[], at: number) => SVGElement|undefined>} */
  const moves = {
    ArrowLeft: (id, row, at) => row[at - 1],
    ArrowRight: (id, row, at) => row[at + 1],
    ArrowUp: (id) => along(circuit.outOf(id), "target"),
    ArrowDown: (id) => along(circuit.into(id), "source"),
    Home: (id, row) => row[0],
    End: (id, row) => row.at(-1),
  };
  picture.svg.addEventListener("focusin", (event) => {
    const neuron = around(event, ".neuron", SVGElement);
    if (!neuron || !neuron.matches(":focus-visible")) return;
    look("neuron", idOf(neuron));
  });
  picture.svg.addEventListener("focusout", () => look(null, ""));
  picture.svg.addEventListener("keydown", (event) => {
    const neuron = around(event, ".neuron", SVGElement);
    if (!neuron || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") return event.preventDefault(); // the page would scroll; instrument.js plays the training
    const id = idOf(neuron);
    const row = rows.get(layerOf(neuron)) ?? [];
    if (event.key in moves) go(moves[event.key](id, row, row.indexOf(neuron)));
    else if (event.key === "Enter") select("neuron", id);
    else if (event.key.toLowerCase() === "x") silence("neuron", id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}
