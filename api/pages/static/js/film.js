// The training step by step: a slider over the snapshots, drawn on a canvas; or a film that a worker makes.

import { call, complain, fileReady, number, waitFor } from "./api.js";
import { change, view } from "./modules.js";
import { connections, draw, frameOf, geometry, heaviest, isPlain, moved, place } from "./network.js";

const panel = document.getElementById("film");
const run = panel.dataset.run;
const field = (name) => document.getElementById(name);
const MAX_FRAMES = 120; // of more snapshots every n-th is shown
const MAX_LINES = 700; // connections drawn at once, the heaviest
const FRAME_MILLISECONDS = 160;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const slider = field("film-step");
const play = field("film-play");
const canvas = field("film-canvas");

let [shape, steps, tones, labels, rows, scale] = [null, [], {}, {}, [], 1];
const frames = new Map(); // index → Promise of the network at that step
let [at, playing] = [0, false];

async function begin() {
  field("film-words").textContent = "Loading the steps of the training …";
  const [probe, graph, history] = await Promise.all([
    waitFor("GET", `/runs/${run}/probe?wait=20`),
    call("GET", `/runs/${run}/graph`),
    call("GET", `/runs/${run}/history`),
  ]);
  if (!isPlain(probe)) return notDrawable();
  shape = geometry(probe);
  rows = history.rows;
  steps = await everyStep();
  const parted = new Set(graph.nodes.filter((node) => node.group).map((node) => node.module));
  for (const node of graph.nodes) {
    const part = node.group ?? (parted.has(node.module) ? null : node.module);
    if (node.module) tones[`${node.layer}:${node.neuron}`] = part ?? "";
  }
  const last = shape.layers.at(-1).name;
  labels = { [shape.layers[0].name]: probe.tokens === null ? probe.features : [], [last]: probe.targets };
  slider.max = steps.length - 1;
  const wanted = steps.indexOf(Number(view.step));
  at = view.step && wanted >= 0 ? wanted : steps.length - 1;
  scale = heaviest(await frame(steps.length - 1));
  field("film-stage").hidden = false;
  field("film-words").textContent = "";
  await show(at);
  fetchAll();
}

function notDrawable() {
  field("film-words").textContent = "This network cannot be drawn step by step here, because of its size or its kind; a worker can make a film of it.";
}

async function everyStep() {
  const found = [];
  for (let after = null; ; ) {
    const page = await call("GET", `/runs/${run}/snapshots?limit=1000${after === null ? "" : `&after=${after}`}`);
    found.push(...page.items.map((item) => item.step));
    if (page.next === null) break;
    after = page.next;
  }
  const stride = Math.ceil(found.length / MAX_FRAMES);
  return found.filter((_, index) => index % stride === 0 || index === found.length - 1);
}

async function frame(index) {
  if (!frames.has(index)) frames.set(index, call("GET", `/runs/${run}/snapshots/${steps[index]}`).then((snapshot) => frameOf(shape, snapshot)));
  return frames.get(index);
}

async function fetchAll() {
  try {
    for (let index = 0; index < steps.length; index++) await frame(index);
  } catch {
    frames.clear(); // show() fetches again, and shows the problem
  }
}

function paint(a, b, share) {
  const where = (layer, neuron) => place(shape, layer, neuron, a, b, share);
  const lines = connections(shape, a, b, share, MAX_LINES).map(([matrix, source, target, weight]) => {
    const { source: from, target: to } = shape.matrices[matrix];
    return [...where(from, source), ...where(to, target), Math.max(-1, Math.min(1, weight / scale))];
  });
  const small = shape.layers.some((layer) => layer.places.length > 60);
  const dots = shape.layers.flatMap(({ name, places, depth }) =>
    places.map((_, neuron) => {
      const [x, y] = where(name, neuron);
      const letter = tones[`${name}:${neuron}`];
      const label = places.length <= 16 ? labels[name]?.[neuron] : "";
      const live = letter !== undefined;
      return { x, y, radius: live ? (small ? 3 : 5) : small ? 1 : 2.5, tone: live ? toneOf(letter) : "--dead", label, below: depth === 0 };
    }),
  );
  draw(canvas, lines, dots);
}

/** The colour of a module, or of a group inside one, as the picture has it; that of what belongs to no group. */
function toneOf(name) {
  const shown = [...document.querySelectorAll("[data-tone]")].find(({ dataset }) => (dataset.part ?? dataset.module) === name);
  return shown ? `--m${shown.dataset.tone}` : "--ink";
}

function describe(index, before, now) {
  const row = rows.findLast((each) => each.step <= steps[index]);
  const words = [`Step ${steps[index].toLocaleString("en").replaceAll(",", "\u202f")} of ${steps.at(-1).toLocaleString("en").replaceAll(",", "\u202f")}`];
  if (row?.cost_strength !== undefined) words.push(`λ ${number(row.cost_strength)}`);
  if (row?.prediction_loss !== undefined) words.push(`train loss ${number(row.prediction_loss)}`);
  const count = before ? moved(shape, before, now, (layer, neuron) => `${layer}:${neuron}` in tones) : 0;
  if (count) words.push(`${count} of the coloured neurons ${count === 1 ? "has" : "have"} just exchanged places`);
  field("film-step-words").textContent = words.join(" · ");
  slider.setAttribute("aria-valuetext", words.join(", "));
}

async function show(index) {
  try {
    const [now, before] = await Promise.all([frame(index), index > 0 ? frame(index - 1) : null]);
    if (index !== at) return; // the slider has moved on
    paint(now, now, 0);
    slider.value = index;
    describe(index, before, now);
  } catch (problem) {
    frames.delete(index);
    complain(field("film-problem"), problem);
  }
}

async function advance(began, from) {
  const [a, b] = await Promise.all([frame(from), frame(from + 1)]);
  const step = (time) => {
    if (!playing) return;
    const share = Math.min(1, Math.max(0, (time - began) / FRAME_MILLISECONDS));
    paint(a, b, still.matches ? Math.round(share) : share * share * (3 - 2 * share));
    if (share < 1) return requestAnimationFrame(step);
    at = from + 1;
    slider.value = at;
    describe(at, a, b);
    if (at >= steps.length - 1) return stop();
    advance(performance.now(), at).catch(failed);
  };
  requestAnimationFrame(step);
}

function stop() {
  playing = false;
  play.textContent = "Play";
  change({ step: at === steps.length - 1 ? "" : String(steps[at]) });
}

function failed(problem) {
  stop();
  complain(field("film-problem"), problem);
}

play.addEventListener("click", () => {
  if (playing) return stop();
  if (at >= steps.length - 1) at = 0;
  playing = true;
  play.textContent = "Pause";
  advance(performance.now(), at).catch(failed);
});
slider.addEventListener("input", () => {
  if (playing) stop();
  at = Number(slider.value);
  change({ step: at === steps.length - 1 ? "" : String(steps[at]) });
  show(at);
});
addEventListener("resize", () => shape && !playing && show(at));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shape && !playing && show(at));

// --- the film that a worker makes

field("film-make").addEventListener("click", async (event) => {
  event.target.disabled = true;
  complain(field("film-problem"), null);
  field("film-words").textContent = "The film is being made; this takes about ten seconds …";
  try {
    await fileReady(`/api/v1/runs/${run}/film.mp4`);
    const video = document.createElement("video");
    video.controls = true;
    video.loop = true;
    video.src = `/api/v1/runs/${run}/film.mp4`;
    video.setAttribute("aria-label", "The training as a film: connections fade and grow, and neurons exchange places.");
    field("film-video").replaceChildren(video);
    field("film-words").textContent = "";
    event.target.hidden = true;
  } catch (problem) {
    field("film-words").textContent = "";
    event.target.disabled = false;
    complain(field("film-problem"), problem);
  }
});

// Loaded when the panel is nearly visible: a hundred snapshots are not needed for the picture above.
if (panel.dataset.drawn === "yes") {
  const near = new IntersectionObserver(
    (seen) => {
      if (!seen.some((each) => each.isIntersecting)) return;
      near.disconnect();
      begin().catch((problem) => {
        field("film-words").textContent = "";
        complain(field("film-problem"), problem);
      });
    },
    { rootMargin: "200px" },
  );
  near.observe(panel);
} else notDrawable();
