// The training step by step in the place of the picture: a slider over the snapshots, drawn on a canvas where the slots
// of the picture lie.

import { call, complain, number } from "../api.js";
import { change, onChange, view } from "../modules.js";
import { connections, frameOf, heaviest, matricesOf, moved } from "./frames.js";
import { TONES } from "./picture.js";
import { Plot } from "./plot.js";

const field = (name) => document.getElementById(name);
const MAX_FRAMES = 120; // of more snapshots every n-th is shown
const MAX_NUMBERS = 4e6; // of all frames together
const MAX_LINES = 700; // connections drawn at once, the heaviest
const FRAME_MILLISECONDS = 160;
const RATIO = Math.min(2, window.devicePixelRatio || 1);

/** @param {object} instrument */
export async function stepping(instrument) {
  const { circuit, picture, run } = instrument;
  const [slider, play, canvas] = [field("step"), field("play"), field("step-canvas")];
  if (!slider || !picture || !run) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let [matrices, steps, rows, scale] = [null, [], [], 1];
  let [at, playing, begun] = [0, false, null]; // the last position is the pruned network, which the picture shows
  const frames = new Map(); // index → Promise of the frame
  const chart = slider.closest(".view").querySelector("svg.chart[data-x]");
  const plot = chart && new Plot(chart);

  const [, , width, height] = picture.svg.getAttribute("viewBox").split(" ").map(Number);
  let spots = null; // layer → places as [x, y] in the coordinates of the picture

  const begin = () =>
    (begun ??= (async () => {
      const [{ geometry }, history, found] = await Promise.all([instrument.sampled().ready, call("GET", `/runs/${run}/history`), everyStep()]);
      matrices = matricesOf(geometry);
      spots = spotsOf(geometry, circuit.layers, picture.svg);
      const numbers = matrices.reduce((sum, { from, to }) => sum + from.places * to.places, 0);
      const most = Math.max(2, Math.min(MAX_FRAMES, Math.floor(MAX_NUMBERS / numbers)));
      const stride = Math.ceil(found.length / most);
      steps = found.filter((_, index) => index % stride === 0 || index === found.length - 1);
      rows = history.rows;
      slider.max = at = steps.length;
      scale = heaviest(await frame(steps.length - 1));
    })());

  async function everyStep() {
    const found = [];
    for (let after = null; ; ) {
      const page = await call("GET", `/runs/${run}/snapshots?limit=1000${after === null ? "" : `&after=${after}`}`);
      found.push(...page.items.map((item) => item.step));
      if (page.next === null) return found;
      after = page.next;
    }
  }

  function frame(index) {
    if (!frames.has(index)) {
      const made = call("GET", `/runs/${run}/snapshots/${steps[index]}`).then((snapshot) => frameOf(matrices, snapshot));
      made.catch(() => frames.delete(index));
      frames.set(index, made);
    }
    return frames.get(index);
  }

  /** Neuron, as `layer:number from birth`, copy by copy → number of its part at the level that is shown. */
  function tones() {
    const found = new Map();
    instrument.parts().forEach(({ neurons }, part) => {
      for (const id of neurons) {
        const { layer, neuron, copy, slot } = circuit.neurons.get(id) ?? {};
        if (layer) found.set(`${layer}:${copy ? slot - (slot % sizeOf(layer)) + neuron : neuron}`, part);
      }
    });
    return found;
  }
  const sizeOf = (layer) => matrices.flatMap((each) => [[each.source, each.from], [each.target, each.to]]).find(([name]) => name === layer)[1].neurons;

  function paint(a, b, share) {
    const spot = (layer, neuron) => {
      const [from, to] = [a, b].map((each) => spots[layer][each.slots[layer][neuron]]);
      return from && to && from.map((value, axis) => value + (to[axis] - value) * share);
    };
    const pen = canvas.getContext("2d");
    const size = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(size[0] * RATIO)) [canvas.width, canvas.height] = size.map((side) => Math.round(side * RATIO));
    const zoom = Math.min(size[0] / width, size[1] / height) * RATIO;
    pen.setTransform(zoom, 0, 0, zoom, (canvas.width - width * zoom) / 2, (canvas.height - height * zoom) / 2);
    pen.clearRect(-width, -height, 3 * width, 3 * height);
    pen.lineCap = "round";
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [plus, minus] = [colour("--plus"), colour("--minus")];
    for (const [matrix, source, target, weight] of connections(matrices, a, b, share, MAX_LINES)) {
      const [from, to] = [spot(matrices[matrix].source, source), spot(matrices[matrix].target, target)];
      if (!from || !to) continue;
      const strength = Math.sqrt(Math.min(1, Math.abs(weight) / scale));
      pen.strokeStyle = weight > 0 ? plus : minus;
      pen.globalAlpha = 0.08 + 0.85 * strength;
      pen.lineWidth = 0.6 + 3.6 * strength;
      pen.setLineDash(weight > 0 ? [] : [7, 4]); // the sign is visible without colours, too
      pen.beginPath();
      bend(pen, from, to);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    pen.setLineDash([]);
    const parts = tones();
    const radius = Math.max(2, Math.min(8, ...[...picture.neurons.values()].filter((each) => !each.classList.contains("unused")).map((each) => Number(each.querySelector("circle").getAttribute("r")))));
    for (const [layer, slots] of Object.entries(b.slots)) {
      slots.forEach((_, neuron) => {
        const place = spot(layer, neuron);
        if (!place) return;
        const part = parts.get(`${layer}:${neuron}`);
        pen.fillStyle = colour(part === undefined ? "--dead" : `--m${(part % TONES) + 1}`);
        pen.beginPath();
        pen.arc(place[0], place[1], part === undefined ? radius / 2 : radius, 0, 2 * Math.PI);
        pen.fill();
      });
    }
  }

  const grouped = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
  function describe(index, before, now) {
    if (index >= steps.length) {
      field("step-words").textContent = "The network after training, pruned and refitted";
      slider.setAttribute("aria-valuetext", "pruned and refitted");
      plot?.cursor(steps.at(-1));
      return;
    }
    const row = rows.findLast((each) => each.step <= steps[index]);
    const words = [`Step ${grouped(steps[index])} of ${grouped(steps.at(-1))}`];
    if (row?.cost_strength !== undefined) words.push(`λ ${number(row.cost_strength)}`);
    if (row?.prediction_loss !== undefined) words.push(`train loss ${number(row.prediction_loss)}`);
    const parts = before ? tones() : null;
    const count = before ? moved(before, now, (layer, neuron) => parts.has(`${layer}:${neuron}`)) : 0;
    if (count) words.push(`${count} exchanged`);
    field("step-words").textContent = words.join(" · ");
    slider.setAttribute("aria-valuetext", words.join(", "));
    plot?.cursor(steps[index]);
  }

  async function show(index) {
    at = index;
    slider.value = index;
    const live = index >= steps.length;
    canvas.hidden = live;
    picture.svg.classList.toggle("behind", !live);
    if (live) return describe(index);
    const [now, before] = await Promise.all([frame(index), index > 0 ? frame(index - 1) : null]);
    if (index !== at) return; // the slider has moved on
    paint(now, now, 0);
    describe(index, before, now);
  }

  async function advance(from) {
    if (from >= steps.length - 1) {
      await show(steps.length);
      return stop();
    }
    const [a, b] = await Promise.all([frame(from), frame(from + 1)]);
    const began = performance.now();
    const tick = (time) => {
      if (!playing) return;
      const share = Math.min(1, Math.max(0, (time - began) / FRAME_MILLISECONDS));
      paint(a, b, still.matches ? Math.round(share) : share * share * (3 - 2 * share));
      if (share < 1) return requestAnimationFrame(tick);
      at = from + 1;
      slider.value = at;
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
  play.addEventListener("click", toggle);
  slider.addEventListener("pointerdown", () => begin().catch(failed));
  slider.addEventListener("focus", () => begin().catch(failed));
  slider.addEventListener("input", async () => {
    playing = false;
    play.textContent = "Play";
    try {
      await begin();
      const index = Number(slider.value);
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

// As api/pages/network_svg.py bends them: straight upwards, an arc within a row or downwards, a loop to itself.
function bend(pen, [x1, y1], [x2, y2]) {
  pen.moveTo(x1, y1);
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (length < 1e-6) return pen.bezierCurveTo(x1 - 22, y1 - 40, x1 + 22, y1 - 40, x1, y1);
  if (y2 < y1 - 1e-6) return pen.lineTo(x2, y2);
  const bow = 2 * Math.min(90, 26 + 0.2 * length);
  pen.quadraticCurveTo((x1 + x2) / 2 + (bow * (y2 - y1)) / length, (y1 + y2) / 2 - (bow * (x2 - x1)) / length, x2, y2);
}

/** Where every slot lies in the picture, those of pruned neurons too: as bimt_engine/figures/layout.py places them. */
export function spotsOf({ layers }, order, svg) {
  const [margin, bottom, gap, lean, sheet] = svg.dataset.layout.split(" ").map(Number);
  const width = Number(svg.getAttribute("viewBox").split(" ")[2]) - 2 * margin;
  return Object.fromEntries(
    layers.map(({ name, neurons, copies = 1, positions }) => {
      const places = Array.from({ length: neurons * copies }, (_, place) => {
        const [x, deep = 0.5] = positions[place % neurons];
        const across = copies > 1 ? (Math.floor(place / neurons) + 0.5 + 0.92 * (x - 0.5)) / copies : x;
        const far = 1 - deep;
        return [margin + width * (sheet ? 0.5 + (across - 0.5) * (1 - lean * far) : across), bottom - gap * (order.indexOf(name) + (sheet ? sheet * (far - 0.5) : 0))];
      });
      return [name, places];
    }),
  );
}
