// The page of a run: its progress while it waits or trains, files that are generated on request, and the form to publish it.

import { Problem, all, call, complain, duration, field, fileReady, find, maybe, number, onSubmit, pause, sentence } from "./api.js";
import "./modules.js";

// --- progress

/** @typedef {import("./instrument/frames.js").Frame} Frame */

const live = document.getElementById("live");

// Steps count the training alone; pruning and tests follow. The bar of the job covers both, and is the bar of this run
// where it is the only one. Beside other runs the share of this run is not known after its last step.
/** @param {HTMLElement} place @param {RunOut} run @param {JobOut} job */
function show(place, run, job) {
  const trained = run.state === "running" && run.step >= run.steps;
  const bar = find(place, "progress", HTMLProgressElement);
  if (job.runs === 1) bar.value = job.progress;
  else if (trained) bar.removeAttribute("value");
  else bar.value = run.steps ? run.step / run.steps : 0;
  const left = job.runs === 1 && typeof job.eta_seconds === "number" ? ` About ${duration(job.eta_seconds)} left.` : "";
  const words = run.state === "queued" ? "Waiting for a worker." : trained ? `Trained; it is being pruned and tested (${job.note || "running"}).${left}` : `Step ${number(run.step)} of ${number(run.steps)}.${left}`;
  field("live-words").replaceChildren(sentence(words));
}

// --- the network as it is now, where a snapshot holds its layout

const canvas = maybe(document, "#live-canvas", HTMLCanvasElement);
let drawn = -1; // step of what is drawn
/** @type {?import("./instrument/stage.js").Stage} */
let stage = null;
/** @type {?Frame} */
let frame = null;

/** @param {string|undefined} run */
async function draw(run) {
  if (!canvas) return;
  /** @type {SnapshotsOut} */
  const { items } = await call("GET", `/runs/${run}/snapshots?limit=1000${drawn < 0 ? "" : `&after=${drawn}`}`);
  if (!items.length) return;
  const { step } = items[items.length - 1];
  /** @type {SnapshotWeights} */
  const snapshot = await call("GET", `/runs/${run}/snapshots/${step}`);
  const { layers, connections } = snapshot;
  if (!layers || !connections) return;
  drawn = step;
  const [{ frameOf, heaviest, matricesOf }, { Stage, newPlan, spotsOf }] = await Promise.all([import("./instrument/frames.js"), import("./instrument/stage.js")]);
  const matrices = matricesOf({ layers, connections });
  const plan = newPlan({ layers });
  frame = frameOf(matrices, snapshot);
  canvas.hidden = false;
  stage = new Stage(canvas, plan, matrices, spotsOf({ layers }, layers.map(({ name }) => name), plan), heaviest(frame));
  repaint();
  field("live-step").textContent = `The network at step ${step}; a bolder line is a heavier weight, a dashed one is negative.`;
}

const repaint = () => frame && stage?.paint(frame, frame, 0, () => "--ink");
addEventListener("resize", repaint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

/** @param {HTMLElement} place */
async function watch(place) {
  draw(place.dataset.run).catch(() => {});
  for (;;) {
    await pause(1500);
    try {
      /** @type {[RunOut, JobOut]} */
      const [run, job] = await Promise.all([call("GET", `/runs/${place.dataset.run}`), call("GET", `/jobs/${place.dataset.job}`)]);
      if (run.state !== "queued" && run.state !== "running") return location.reload();
      show(place, run, job);
      await draw(place.dataset.run);
    } catch (problem) {
      if (problem instanceof Problem && (problem.status === 401 || problem.status === 404)) return;
    }
  }
}

if (live) watch(live);

// --- files that are generated on request

/** @param {string} text */
const say = (text) => (field("download-status").textContent = text);

/** @param {string} address */
function save(address) {
  const link = document.createElement("a");
  link.href = address;
  const parts = address.split("/").slice(5).filter((part) => part !== "modules"); // what follows the id
  link.download = [find(document, ".downloads", HTMLElement).dataset.name, ...parts].join("-");
  link.click();
}

for (const link of all(document, "a[data-generated]", HTMLAnchorElement)) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    if (link.getAttribute("aria-busy") === "true") return;
    const [name, address] = [link.dataset.generated, link.getAttribute("href") ?? ""];
    link.setAttribute("aria-busy", "true");
    complain(field("download-problem"), null);
    say(`${name} is being generated; the download starts by itself.`);
    try {
      await fileReady(address);
      say(`${name} is ready.`);
      save(address);
    } catch (problem) {
      say("");
      complain(field("download-problem"), problem);
    }
    link.removeAttribute("aria-busy");
  });
}

// --- the training as a film that a worker makes

const filmMake = maybe(document, "#film-make", HTMLButtonElement);
filmMake?.addEventListener("click", async () => {
  const address = `/api/v1/runs/${field("film").dataset.run}/film.mp4`;
  filmMake.disabled = true;
  complain(field("film-problem"), null);
  field("film-words").textContent = "The film is being drawn, up to 500 frames: as a rule in a quarter of a minute. It is kept, and is there at once the next time.";
  try {
    await fileReady(address);
    const video = Object.assign(document.createElement("video"), { controls: true, loop: true, src: address });
    video.setAttribute("aria-label", "The training as a film: connections fade and grow, and neurons exchange places.");
    field("film-video").replaceChildren(video);
    filmMake.hidden = true;
  } catch (problem) {
    filmMake.disabled = false;
    complain(field("film-problem"), problem);
  }
  field("film-words").textContent = "";
});

// --- publish

// Not every browser opens what a link leads into.
for (const link of all(document, "a[data-opens]", HTMLAnchorElement)) {
  link.addEventListener("click", () => (field(link.dataset.opens ?? "", HTMLDetailsElement).open = true));
}

onSubmit("publish", async ({ name, card, visibility }) => {
  const { run } = field("publish").dataset;
  /** @type {VersionOut} */
  const version = await call("POST", "/models", { run_id: run, name: name.value.trim(), card: card.value, visibility: visibility.value || null });
  location.assign(`/models/${version.model_id}?version=${version.number}`);
});
