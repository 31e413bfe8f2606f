// The training step by step in the place of the picture: a slider over the snapshots, drawn on a canvas where the slots
// of the picture lie.

import { all, call, complain, field, maybe, number } from "../api.js";
import { change, onChange, view } from "../modules.js";
import { frameOf, heaviest, matricesOf, moved } from "./frames.js";
import { TONES } from "./picture.js";
import { Plot } from "./plot.js";
import { Stage, planOf, spotsOf } from "./stage.js";

/** @typedef {import("./frames.js").Frame} Frame */

const MAX_FRAMES = 120; // of more snapshots every n-th is shown
const MAX_NUMBERS = 4e6; // of all frames together
const FRAME_MILLISECONDS = 160;

/** @param {import("../instrument.js").Instrument} instrument */
export async function stepping(instrument) {
  const { circuit, run } = instrument;
  const control = maybe(document, "#step", HTMLInputElement);
  if (!control || !instrument.picture || !run) return;
  const [slider, picture] = [control, instrument.picture];
  const [play, canvas] = [field("play"), field("step-canvas", HTMLCanvasElement)];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  /** @type {number[]} */
  let steps = [];
  /** @type {HistoryOut["rows"]} */
  let rows = [];
  let [at, playing] = [0, false]; // the last position is the pruned network, which the picture shows
  /** @type {import("./frames.js").Matrices} */
  let matrices;
  /** @type {Stage} */
  let stage;
  /** @type {?import("./stage.js").Name[]} */
  let names = null; // as the picture has them
  /** @type {?Promise<void>} */
  let begun = null; // from then on there are steps, matrices and a stage
  /** @type {Map<number, Promise<Frame>>} */
  const frames = new Map(); // by index
  const chart = maybe(slider.closest(".view") ?? document, "svg.chart[data-x]", SVGSVGElement);
  const plot = chart && new Plot(chart);

  const begin = () =>
    (begun ??= (async () => {
      /** @type {[HistoryOut, number[]]} */
      const [history, found] = await Promise.all([call("GET", `/runs/${run}/history`), everyStep()]);
      /** @type {SnapshotWeights} */
      const last = await call("GET", `/runs/${run}/snapshots/${found.at(-1)}`);
      const { layers, connections } = last;
      const geometry = layers && connections ? { layers, connections } : (await instrument.sampled()?.ready)?.geometry; // older snapshots hold no layout
      if (!geometry) throw new Error("The snapshots hold no layout.");
      matrices = matricesOf(geometry);
      const numbers = matrices.reduce((sum, { from, to }) => sum + from.places * to.places, 0);
      const most = Math.max(2, Math.min(MAX_FRAMES, Math.floor(MAX_NUMBERS / numbers)));
      const stride = Math.ceil(found.length / most);
      steps = found.filter((_, index) => index % stride === 0 || index === found.length - 1);
      rows = history.rows;
      at = steps.length;
      slider.max = String(at);
      const ended = frameOf(matrices, last);
      frames.set(steps.length - 1, Promise.resolve(ended));
      const plan = planOf(picture.svg);
      stage = new Stage(canvas, plan, matrices, spotsOf(geometry, circuit.layers, plan), heaviest(ended));
    })());

  async function everyStep() {
    const found = [];
    for (let after = ""; ; ) {
      /** @type {SnapshotsOut} */
      const page = await call("GET", `/runs/${run}/snapshots?limit=1000${after}`);
      found.push(...page.items.map((item) => item.step));
      if (page.next === null) return found;
      after = `&after=${page.next}`;
    }
  }

  /** @param {number} index */
  function frame(index) {
    const there = frames.get(index);
    if (there) return there;
    const made = fetched(index);
    made.catch(() => frames.delete(index));
    frames.set(index, made);
    return made;
  }

  /** @param {number} index @returns {Promise<Frame>} */
  const fetched = async (index) => frameOf(matrices, await call("GET", `/runs/${run}/snapshots/${steps[index]}`));

  /** Neuron, as `layer:index before any relocation`, copy by copy → number of its part at the level that is shown. */
  function tones() {
    const found = new Map();
    for (const { neurons, number = 0 } of instrument.parts()) {
      for (const id of neurons) {
        const its = circuit.neurons.get(id);
        if (!its) continue;
        const { layer, neuron, copy, slot } = its;
        found.set(`${layer}:${copy ? slot - (slot % sizeOf(layer)) + neuron : neuron}`, number);
      }
    }
    return found;
  }
  /** @param {string} layer */
  const sizeOf = (layer) => matrices.flatMap((each) => [{ name: each.source, size: each.from }, { name: each.target, size: each.to }]).find(({ name }) => name === layer)?.size.neurons ?? 1;

  /** Those that the picture has. @returns {import("./stage.js").Name[]} */
  function namesShown() {
    return [...picture.neurons].flatMap(([id, each]) => {
      const label = all(each, ".label", SVGElement).find((one) => getComputedStyle(one).display !== "none");
      if (!label) return [];
      const { layer, neuron, copy, slot } = circuit.neuron(id);
      const lines = label.children.length ? [...label.children].map(({ textContent }) => textContent ?? "") : [label.textContent ?? ""];
      const size = parseFloat(getComputedStyle(label).fontSize);
      return [{ layer, neuron: copy ? slot - (slot % sizeOf(layer)) + neuron : neuron, lines, size, below: label.classList.contains("below"), bold: !label.classList.contains("unused") }];
    }).sort((a, b) => Number(b.bold) - Number(a.bold));
  }

  /** @param {Frame} a @param {Frame} b @param {number} share */
  function paint(a, b, share) {
    const parts = tones();
    if (!share || !names) names = namesShown();
    stage.paint(a, b, share, (layer, neuron) => {
      const part = parts.get(`${layer}:${neuron}`);
      return part === undefined ? null : `--m${(part % TONES) + 1}`;
    }, names);
  }

  /** @param {number} index @param {?Frame} [before] @param {Frame} [now] */
  function describe(index, before, now) {
    if (index >= steps.length) {
      field("step-words").textContent = "After training, pruned and refitted";
      slider.setAttribute("aria-valuetext", "pruned and refitted");
      plot?.cursor(steps[steps.length - 1]);
      return;
    }
    const row = rows.findLast((each) => each.step <= steps[index]);
    const words = [`Step ${number(steps[index])} of ${number(steps.at(-1))}`];
    if (row?.cost_strength !== undefined) words.push(`λ ${number(row.cost_strength)}`);
    if (row?.prediction_loss !== undefined) words.push(`train loss ${number(row.prediction_loss)}`);
    const parts = tones();
    const count = before && now ? moved(before, now, (layer, neuron) => parts.has(`${layer}:${neuron}`)) : 0;
    if (count) words.push(`${count} exchanged`);
    field("step-words").textContent = words.join(" · ");
    slider.setAttribute("aria-valuetext", words.join(", "));
    plot?.cursor(steps[index]);
  }

  /** @param {number} index */
  async function show(index) {
    at = index;
    slider.value = String(index);
    const live = index >= steps.length;
    canvas.hidden = live;
    picture.svg.classList.toggle("behind", !live);
    instrument.thresholdBeside?.(live);
    if (live) return describe(index);
    const [now, before] = await Promise.all([frame(index), index > 0 ? frame(index - 1) : null]);
    if (index !== at) return; // the slider has moved on
    paint(now, now, 0);
    describe(index, before, now);
  }

  /** @param {number} from */
  async function advance(from) {
    if (from >= steps.length - 1) {
      await show(steps.length);
      return stop();
    }
    const [a, b] = await Promise.all([frame(from), frame(from + 1)]);
    const began = performance.now();
    /** @param {number} time */
    const tick = (time) => {
      if (!playing) return;
      const share = Math.min(1, Math.max(0, (time - began) / FRAME_MILLISECONDS));
      paint(a, b, still.matches ? Math.round(share) : share * share * (3 - 2 * share));
      if (share < 1) return void requestAnimationFrame(tick);
      at = from + 1;
      slider.value = String(at);
      describe(at, a, b);
      advance(at).catch(failed);
    };
    requestAnimationFrame(tick);
  }

  function stop() {
    playing = false;
    play.textContent = "Play";
    change({ step: at >= steps.length ? "" : String(steps[at]) });
  }

  /** @param {unknown} problem */
  function failed(problem) {
    playing = false;
    play.textContent = "Play";
    complain(field("step-problem"), problem);
  }

  async function toggle() {
    if (playing) return stop();
    try {
      await begin();
      if (at >= steps.length - 1) await show(0);
      playing = true;
      play.textContent = "Pause";
      await advance(at);
    } catch (problem) {
      failed(problem);
    }
  }
  instrument.showPruned = () => {
    if (canvas.hidden) return;
    at = steps.length;
    stop();
    show(at);
  };
  play.addEventListener("click", toggle);
  slider.addEventListener("input", async () => {
    playing = false;
    play.textContent = "Play";
    const share = Number(slider.value) / Number(slider.max); // of more snapshots than are shown, until it is known how many those are
    try {
      await begin();
      const index = Math.round(share * steps.length);
      change({ step: index >= steps.length ? "" : String(steps[index]) });
      await show(index);
    } catch (problem) {
      failed(problem);
    }
  });
  const again = () => !canvas.hidden && !playing && show(at).catch(failed);
  addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  onChange((values) => "level" in values && again());
  if (view.step) {
    try {
      await begin();
      const index = steps.findIndex((step) => step >= Number(view.step));
      await show(index < 0 ? steps.length : index);
    } catch (problem) {
      failed(problem);
    }
  }
  return { toggle };
}

