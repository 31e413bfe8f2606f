// The page of a run while it waits or trains: it says how far it is, and appears by itself when it has ended.

import { call, pause } from "./api.js";

const live = document.getElementById("live");

async function watch() {
  const ended = (state) => state !== "queued" && state !== "running";
  for (;;) {
    await pause(1500);
    try {
      const run = await call("GET", `/runs/${live.dataset.run}`);
      if (ended(run.state)) return location.reload();
      live.querySelector("progress").value = run.steps ? run.step / run.steps : 0;
      document.getElementById("live-words").textContent = run.state === "queued" ? "It waits for a worker." : run.step >= run.steps ? "Trained; it is being pruned and tested." : `Step ${run.step} of ${run.steps}.`;
    } catch (problem) {
      if (problem.status === 401 || problem.status === 404) return;
    }
  }
}

if (live) watch();
