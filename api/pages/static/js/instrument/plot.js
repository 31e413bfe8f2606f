// A chart that the server has drawn (charts.py), as something to draw a cursor and further lines into.

import { number } from "../api.js";

/**
 * Where a value lies on an axis as charts.py writes it: "low high start end" and "log" where it is logarithmic.
 * @param {string} scale
 */
export function scaled(scale) {
  const [low, high, start, end, log] = scale.split(" ");
  /** @type {((value: number) => number)[]} */
  const [warp, back] = log ? [Math.log10, (value) => 10 ** value] : [(value) => value, (value) => value];
  const [a, b] = [warp(Number(low)), warp(Number(high))];
  /** @param {number} value */
  const place = (value) => Number(start) + ((warp(value) - a) * (Number(end) - Number(start))) / (b - a || 1);
  place.start = Number(start);
  place.end = Number(end);
  /** @param {number} value */
  place.drawable = (value) => Number.isFinite(value) && (!log || value > 0);
  /** @param {number} at */
  place.back = (at) => back(a + ((at - place.start) * (b - a)) / (place.end - place.start));
  return place;
}

/** Both axes of a chart. */
export class Plot {
  /** @param {SVGSVGElement} svg */
  constructor(svg) {
    this.svg = svg;
    this.x = scaled(svg.dataset.x ?? "");
    this.y = scaled(svg.dataset.y ?? "");
    /** @type {?SVGLineElement} */
    this.line = null;
  }

  /** Moves the one cursor of the chart to a value. @param {number} value */
  cursor(value) {
    this.line ??= this.svg.appendChild(svgElement("line", { class: "cursor", y1: this.y.start, y2: this.y.end }));
    const x = String(Math.max(this.x.start, Math.min(this.x.end, this.x(Math.max(value, 1e-12)))));
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
  }

  /** Draws a further line through points, once; where it leaves the chart at the top, a number says how far it goes. @param {number[][]} points */
  path(points) {
    const path = this.svg.appendChild(svgElement("path", { class: "line own" }));
    /** @param {number} y */
    const inside = (y) => Math.min(this.y.start, Math.max(this.y.end, y));
    const drawn = points.filter(([x, y]) => this.x.drawable(x) && this.y.drawable(y) && this.x(x) >= this.x.start - 0.5 && this.x(x) <= this.x.end + 0.5).map(([x, y]) => `${this.x(x).toFixed(1)} ${inside(this.y(y)).toFixed(1)}`);
    path.setAttribute("d", drawn.length ? `M${drawn.join("L")}` : "");
    const [at, most] = points.reduce((a, b) => (b[1] > a[1] ? b : a), [0, 0]);
    if (!this.y.drawable(most) || this.y(most) >= this.y.end - 0.5) return;
    const x = Math.max(this.x.start + 24, Math.min(this.x.end, this.x(at)));
    const sign = svgElement("text", { class: "tick beyond", x, y: this.y.end - 3, "text-anchor": x > (this.x.start + this.x.end) / 2 ? "end" : "start" });
    sign.textContent = `↑ ${number(most)}`;
    this.svg.append(sign);
  }
}

/**
 * An element of SVG with these attributes.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string|number>} attributes
 */
export function svgElement(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}
