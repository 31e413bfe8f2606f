// The threshold: the lightest connections fade, the modules are counted anew, and the loss is computed on the examples
// here, without the refitting that the published curve had.

import { field, maybe, number } from "../api.js";
import { change, onChange, view } from "../modules.js";
import { mark } from "./picture.js";
import { Plot } from "./plot.js";

const POINTS = 24; // of the curve that is computed here

/** @param {import("../instrument.js").Instrument} instrument */
export function threshold(instrument) {
  const { circuit } = instrument;
  const control = maybe(document, "#threshold", HTMLInputElement);
  const all = circuit.connections.length;
  if (!control || !instrument.picture || all < 2) return;
  const [slider, picture] = [control, instrument.picture];
  const chart = maybe(slider.closest(".view") ?? document, "svg.chart[data-x]", SVGSVGElement);
  const plot = chart && new Plot(chart);
  field("threshold-controls").hidden = false;
  slider.max = String(all);
  let [kept, frame] = [all, 0];
  let [asked, curved] = [false, false]; // whether the curve was asked for, and is drawn
  /** @type {?{count: number, loss: number}} */
  let before = null; // result of the last trial
  let [live, counted] = [true, circuit.components(all).count]; // whether the picture shows the pruned network; its modules

  /** @param {number} count */
  const weightAt = (count) => (count >= all ? 0 : Math.abs(circuit.connections[all - count]?.weight ?? Infinity));

  /** @param {number} count */
  function draw(count) {
    const [from, to] = [Math.min(kept, count), Math.max(kept, count)];
    for (let i = all - to; i < all - from; i++) picture.set("connection", circuit.connections[i].key, "cut", count < kept);
    kept = count;
    const { count: modules, of } = circuit.components(count);
    if (count < all) {
      const parts = Array.from({ length: modules }, (_, number_) => ({ name: String.fromCharCode(65 + (number_ % 26)), number: number_, neurons: /** @type {string[]} */ ([]) }));
      for (const [id, number_] of of) parts[number_].neurons.push(id);
      instrument.colour(parts);
      for (const [id, each] of picture.neurons) mark(each, "cut", circuit.isWired(id) && !of.has(id));
    } else {
      instrument.colour(null);
      for (const each of picture.neurons.values()) each.classList.remove("cut");
    }
    plot?.cursor(count);
    tell(count, modules);
    ask(count, modules);
  }

  /** @param {number} count @param {number} modules */
  function tell(count, modules) {
    counted = modules;
    const words = [`${count} of ${all} connections`, `${modules} module${modules === 1 ? "" : "s"}`];
    if (count === 0) words[1] = "no module";
    if (before?.count === count) words.push(`loss ${number(before.loss)} here`);
    if (curved) words.push("dashed: not refitted");
    field("threshold-words").textContent = live ? words.join(" · ") : ""; // of a step of the training it would be wrong
    slider.setAttribute("aria-valuetext", words.join(", "));
  }

  /** @param {number} count @param {number} modules */
  async function ask(count, modules) {
    const sample = instrument.sampled();
    const loaded = await sample?.ready.catch(() => null);
    if (!sample || !loaded?.computed) return;
    const found = await sample.ask("cut", { neurons: [], connections: [], how: "mean", below: weightAt(count) });
    if (!found || count !== kept) return;
    before = { count, loss: found.metrics.validation_prediction_loss };
    tell(count, modules);
    if (count === all) instrument.silencing?.restore();
    else instrument.silencing?.headline(loaded.before, found.metrics, `here, on ${loaded.heldOut} validation examples, without refitting`, "sample");
    if (asked || !plot) return;
    asked = true;
    const sizes = [...new Set(Array.from({ length: POINTS }, (_, i) => Math.max(1, Math.round(all ** (1 - i / (POINTS - 1))))))];
    const unrefitted = await sample.ask("curve", { thresholds: sizes.map(weightAt) });
    if (!unrefitted) return;
    plot.path(sizes.map((size, i) => [size, unrefitted.losses[i]]));
    curved = true;
    tell(kept, counted);
  }

  /** Called when a step of the training takes the place of the pruned network (false), and when that is back (true). */
  instrument.thresholdBeside = (isLive) => {
    if (live === isLive) return;
    live = isLive;
    if (live || kept === all) return tell(kept, counted);
    cancelAnimationFrame(frame);
    slider.value = String(all);
    draw(all);
    change({ cut: "" });
  };

  slider.addEventListener("input", () => {
    instrument.showPruned?.();
    picture.svg.classList.add("dragging");
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => draw(Number(slider.value)));
  });
  slider.addEventListener("change", () => {
    picture.svg.classList.remove("dragging");
    cancelAnimationFrame(frame);
    draw(Number(slider.value));
    change({ cut: kept === all ? "" : String(kept) });
  });
  onChange((values) => {
    if (!("cut" in values)) return;
    const count = values.cut === "" ? all : Math.max(0, Math.min(all, Number(values.cut)));
    if (Number.isNaN(count) || count === kept) return;
    slider.value = String(count);
    draw(count);
  });
  slider.value = String(all);
  if (view.cut) {
    slider.value = String(Math.max(0, Math.min(all, Number(view.cut) || 0)));
    draw(Number(slider.value));
  } else {
    plot?.cursor(all);
    tell(all, circuit.components(all).count);
  }
}
