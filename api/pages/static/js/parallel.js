// Parallel axes (parallel_axes in charts.py) that can be narrowed: the runs outside fade, and leave the table below. The limits
// stand in the address, and go with it to the other views of the list.

import { all, field, find, maybe, number } from "./api.js";
import { scaled, svgElement } from "./instrument/plot.js";

const svg = maybe(document, "svg.parallel", SVGSVGElement);
const NEAR = 6; // units from the end of an axis that count as its end
const HALF = 14; // width of a band on each side of its axis, in units of the chart

/** One axis: where a value lies, which values the runs have, and between which two they are kept; `limits` null: all. */
class Along {
  /** @param {SVGElement} group @param {number} at its number */
  constructor(group, at) {
    const { scale = "", name = "", label = "" } = group.dataset;
    this.place = scaled(scale);
    this.start = this.place.start;
    this.end = this.place.end;
    this.at = at;
    this.x = Number(group.dataset.at);
    this.name = name;
    this.label = label;
    /** @type {?[least: number, most: number]} */
    this.limits = null;
    this.values = [...new Set(traces.map(({ values }) => values[at]).filter((value) => value !== null))].sort((one, other) => one - other);
    this.band = svgElement("rect", { class: "band", x: this.x - HALF, width: 2 * HALF, y: this.end, height: this.start - this.end });
    this.kept = svgElement("rect", { class: "kept", x: this.x - 5, width: 10 });
    this.handles = ["at least", "at most"].map((which, side) => {
      const handle = svgElement("path", { class: "handle", role: "slider", tabindex: 0, "aria-orientation": "vertical", "aria-label": `${this.label}, ${which}`, "aria-valuemin": this.values[0], "aria-valuemax": this.values[this.values.length - 1] });
      handle.addEventListener("keydown", (event) => this.press(event, side));
      handle.addEventListener("pointerdown", (event) => this.drag(event, this.place(this.ends[1 - side])));
      return handle;
    });
    group.append(this.band, this.kept, ...this.handles);
    this.band.addEventListener("pointerdown", (event) => this.drag(event));
    this.draw();
  }

  /** @returns {[least: number, most: number]} */
  get ends() {
    return this.limits ?? [this.values[0], this.values[this.values.length - 1]];
  }

  /** @param {?[least: number, most: number]} limits */
  keep(limits) {
    const all = limits && limits[0] <= this.values[0] && limits[1] >= this.values[this.values.length - 1];
    this.limits = all ? null : limits;
    this.draw();
    show();
  }

  draw() {
    const places = this.ends.map((end) => Math.min(this.start, Math.max(this.end, this.place(end))));
    this.kept.setAttribute("y", String(places[1]));
    this.kept.setAttribute("height", String(Math.max(1, places[0] - places[1])));
    this.kept.classList.toggle("all", !this.limits);
    this.handles.forEach((handle, side) => {
      const [y, away] = [places[side], side ? -9 : 9];
      handle.setAttribute("d", `M${this.x - 8} ${y + away}L${this.x} ${y}L${this.x + 8} ${y + away}Z`);
      handle.setAttribute("aria-valuenow", String(this.ends[side]));
      handle.setAttribute("aria-valuetext", number(this.ends[side]));
    });
  }

  /** The arrow keys move an end to the next value that a run has. @param {KeyboardEvent} event @param {number} side */
  press(event, side) {
    const [ends, last] = [[...this.ends], this.values.length - 1];
    const above = this.values.findIndex((value) => value > ends[side]);
    const below = this.values.findLastIndex((value) => value < ends[side]);
    /** @type {Record<string, number>} */
    const moves = { ArrowUp: above < 0 ? last : above, ArrowRight: above < 0 ? last : above, ArrowDown: Math.max(0, below), ArrowLeft: Math.max(0, below), Home: 0, End: last };
    const to = moves[event.key];
    if (event.key === "Escape") this.keep(null);
    else if (to === undefined) return;
    else {
      ends[side] = this.values[to];
      this.keep(side ? [Math.min(...ends), ends[1]] : [ends[0], Math.max(...ends)]);
    }
    event.preventDefault();
  }

  /** Keeps what lies between `from` and the pointer. On the band that is where it was pressed; a handle moves its own end. @param {PointerEvent} event @param {?number} from */
  drag(event, from = null) {
    const held = event.currentTarget;
    if (!(held instanceof SVGElement)) return;
    /** @param {MouseEvent} each */
    const y = (each) => {
      const at = new DOMPoint(each.clientX, each.clientY).matrixTransform(svg?.getScreenCTM()?.inverse()).y;
      return at > this.start - NEAR ? this.start : at < this.end + NEAR ? this.end : at;
    };
    const pressed = y(event);
    const fixed = from ?? pressed;
    let moved = false;
    /** @param {PointerEvent} each */
    const follow = (each) => {
      moved ||= Math.abs(y(each) - pressed) > 3;
      if (moved) this.keep([this.place.back(Math.max(fixed, y(each))), this.place.back(Math.min(fixed, y(each)))]);
    };
    const end = () => {
      held.removeEventListener("pointermove", follow);
      if (!moved && from === null) this.keep(null);
    };
    held.setPointerCapture(event.pointerId);
    held.addEventListener("pointermove", follow);
    held.addEventListener("pointerup", end, { once: true });
    held.addEventListener("pointercancel", end, { once: true });
  }
}

const traces = (svg ? all(svg, "[data-trace]", SVGElement) : []).map((line) => ({
  line,
  values: (line.dataset.values ?? "").split(",").map((text) => (text === "" ? null : Number(text))),
  row: maybe(document, `tr[data-row="${line.dataset.trace}"]`, HTMLTableRowElement),
}));
const axes = (svg ? all(svg, ".along", SVGElement) : []).map((group, at) => new Along(group, at));

function show() {
  const narrowed = axes.flatMap(({ name, at, limits }) => (limits ? [{ name, at, limits }] : []));
  const filters = find(document, "form.filters[role=search]", HTMLFormElement);
  let inside = 0;
  for (const { line, values, row } of traces) {
    const kept = narrowed.every(({ at, limits: [least, most] }) => {
      const value = values[at];
      return value !== null && value >= least && value <= most;
    });
    line.classList.toggle("out", !kept);
    if (row) row.hidden = !kept;
    inside += Number(kept);
  }
  field("within").textContent = narrowed.length ? `${inside} of ${traces.length} runs lie within.` : "";
  field("free").hidden = !narrowed.length;
  const address = new URL(location.href);
  address.searchParams.delete("within");
  for (const old of filters.querySelectorAll("[name=within]")) old.remove();
  for (const { name, limits } of narrowed) {
    const limit = [name, ...limits.map((end) => Number(end.toPrecision(6)))].join(":");
    address.searchParams.append("within", limit);
    filters.append(Object.assign(document.createElement("input"), { type: "hidden", name: "within", value: limit }));
  }
  history.replaceState(null, "", address);
  for (const link of all(document, "a[download][href^='/runs.csv']", HTMLAnchorElement)) link.search = address.search;
}

if (svg && axes.length) {
  for (const limit of new URL(location.href).searchParams.getAll("within")) {
    const [name, least, most] = limit.split(":");
    const axis = axes.find((each) => each.name === name);
    if (axis && Number(least) <= Number(most)) axis.limits = [Number(least), Number(most)];
    axis?.draw();
  }
  for (const { line, row } of traces) {
    row?.addEventListener("pointerenter", () => line.classList.add("near"));
    row?.addEventListener("pointerleave", () => line.classList.remove("near"));
  }
  field("free").addEventListener("click", () => {
    for (const axis of axes) axis.keep(null);
    axes[0].handles[0].focus();
  });
  show();
  svg.dataset.ready = "yes";
}
