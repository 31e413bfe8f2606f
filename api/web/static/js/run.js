// The page of a run while it waits or trains: it says how far it is, and appears by itself when it has ended.

import { call, duration, pause } from "./api.js";

const live = document.getElementById("live");
const ended = (state) => state !== "queued" && state !== "running";

// Steps are of the training alone. What comes after them has its share of the job's bar, which is this run's bar where it
// is the only one; beside other runs nobody can say how far one is, and the bar only shows that something is going on.
function show(run, job) {
  const trained = run.state === "running" && run.step >= run.steps;
  const bar = live.querySelector("progress");
  if (job.runs === 1) bar.value = job.progress;
  else if (trained) bar.removeAttribute("value");
  else bar.value = run.steps ? run.step / run.steps : 0;
  const left = job.runs === 1 && job.eta_seconds !== null ? ` About ${duration(job.eta_seconds)} left.` : "";
  document.getElementById("live-words").textContent =
    run.state === "queued" ? "It waits for a worker." : trained ? `Trained; it is being pruned and tested (${job.note || "at work"}).${left}` : `Step ${run.step} of ${run.steps}.${left}`;
}

async function watch() {
  for (;;) {
    await pause(1500);
    try {
      const [run, job] = await Promise.all([call("GET", `/runs/${live.dataset.run}`), call("GET", `/jobs/${live.dataset.job}`)]);
      if (ended(run.state)) return location.reload();
      show(run, job);
    } catch (problem) {
      if (problem.status === 401 || problem.status === 404) return;
    }
  }
}

if (live) watch();
