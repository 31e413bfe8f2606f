// The page of a run: its progress while it waits or trains, files that are generated on request, and the form to publish it.

import { call, complain, duration, fileReady, number, onSubmit, pause, sentence } from "./api.js";
import "./modules.js";

// --- progress

const live = document.getElementById("live");

// Steps count the training alone; pruning and tests follow. The bar of the job covers both, and is the bar of this run
// where it is the only one. Beside other runs the share of this run is not known after its last step.
function show(run, job) {
  const trained = run.state === "running" && run.step >= run.steps;
  const bar = live.querySelector("progress");
  if (job.runs === 1) bar.value = job.progress;
  else if (trained) bar.removeAttribute("value");
  else bar.value = run.steps ? run.step / run.steps : 0;
  const left = job.runs === 1 && job.eta_seconds !== null ? ` About ${duration(job.eta_seconds)} left.` : "";
  const words = run.state === "queued" ? "Waiting for a worker." : trained ? `Trained; it is being pruned and tested (${job.note || "running"}).${left}` : `Step ${number(run.step)} of ${number(run.steps)}.${left}`;
  document.getElementById("live-words").replaceChildren(sentence(words));
}

// --- the network as it is now, where a snapshot holds its layout

const canvas = document.getElementById("live-canvas");
let [drawn, stage, frame] = [-1, null, null];

async function draw() {
  if (!canvas) return;
  const { items } = await call("GET", `/runs/${live.dataset.run}/snapshots?limit=1000${drawn < 0 ? "" : `&after=${drawn}`}`);
  if (!items.length) return;
  const { step } = items.at(-1);
  const snapshot = await call("GET", `/runs/${live.dataset.run}/snapshots/${step}`);
  if (!snapshot.layers) return;
  drawn = step;
  const [{ frameOf, heaviest, matricesOf }, { Stage, newPlan, spotsOf }] = await Promise.all([import("./instrument/frames.js"), import("./instrument/stage.js")]);
  const matrices = matricesOf(snapshot);
  const plan = newPlan(snapshot);
  frame = frameOf(matrices, snapshot);
  canvas.hidden = false;
  stage = new Stage(canvas, plan, matrices, spotsOf(snapshot, snapshot.layers.map(({ name }) => name), plan), heaviest(frame));
  repaint();
  document.getElementById("live-step").textContent = `The network at step ${step}; a bolder line is a heavier weight, a dashed one is negative.`;
}

const repaint = () => stage?.paint(frame, frame, 0, () => "--ink");
addEventListener("resize", repaint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

async function watch() {
  draw().catch(() => {});
  for (;;) {
    await pause(1500);
    try {
      const [run, job] = await Promise.all([call("GET", `/runs/${live.dataset.run}`), call("GET", `/jobs/${live.dataset.job}`)]);
      if (run.state !== "queued" && run.state !== "running") return location.reload();
      show(run, job);
      await draw();
    } catch (problem) {
      if (problem.status === 401 || problem.status === 404) return;
    }
  }
}

if (live) watch();

// --- files that are generated on request

const status = document.getElementById("download-status");

function save(address) {
  const link = document.createElement("a");
  link.href = address;
  const parts = address.split("/").slice(5).filter((part) => part !== "modules"); // what follows the id
  link.download = [document.querySelector(".downloads").dataset.name, ...parts].join("-");
  link.click();
}

for (const link of document.querySelectorAll("a[data-generated]")) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    if (link.getAttribute("aria-busy") === "true") return;
    const [name, address] = [link.dataset.generated, link.getAttribute("href")];
    link.setAttribute("aria-busy", "true");
    complain(document.getElementById("download-problem"), null);
    status.textContent = `${name} is being generated; the download starts by itself.`;
    try {
      await fileReady(address);
      status.textContent = `${name} is ready.`;
      save(address);
    } catch (problem) {
      status.textContent = "";
      complain(document.getElementById("download-problem"), problem);
    }
    link.removeAttribute("aria-busy");
  });
}

// --- the training as a film that a worker makes

document.getElementById("film-make")?.addEventListener("click", async ({ target }) => {
  const field = (name) => document.getElementById(name);
  const address = `/api/v1/runs/${field("film").dataset.run}/film.mp4`;
  target.disabled = true;
  complain(field("film-problem"), null);
  field("film-words").textContent = "The film is being drawn, up to 500 frames: as a rule in a quarter of a minute. It is kept, and is there at once the next time.";
  try {
    await fileReady(address);
    const video = Object.assign(document.createElement("video"), { controls: true, loop: true, src: address });
    video.setAttribute("aria-label", "The training as a film: connections fade and grow, and neurons exchange places.");
    field("film-video").replaceChildren(video);
    target.hidden = true;
  } catch (problem) {
    target.disabled = false;
    complain(field("film-problem"), problem);
  }
  field("film-words").textContent = "";
});

// --- publish

onSubmit("publish", async ({ name, card, visibility }) => {
  const run = document.getElementById("publish").dataset.run;
  const version = await call("POST", "/models", { run_id: run, name: name.value.trim(), card: card.value, visibility: visibility.value || null });
  location.assign(`/models/${version.model_id}?version=${version.number}`);
});
