// Lists of jobs move while somebody looks at them.

import { call, pause } from "./api.js";

const rows = new Map([...document.querySelectorAll("tr[data-job]")].map((row) => [row.dataset.job, row]));

async function watch() {
  while (rows.size) {
    await pause(2500);
    if (document.hidden) continue;
    let page;
    try {
      page = await call("GET", "/jobs?limit=100");
    } catch {
      continue; // the next look may succeed
    }
    for (const job of page.items) {
      const row = rows.get(job.id);
      if (!row) continue;
      const bar = row.querySelector("progress");
      bar.value = job.progress;
      const state = row.querySelector(".state");
      if (state.textContent !== job.state) {
        state.textContent = job.state;
        state.className = `state ${job.state}`;
      }
      if (job.state !== "queued" && job.state !== "running") {
        rows.delete(job.id);
        if (document.body.contains(row) && location.pathname === "/" && job.state === "succeeded") location.reload();
      }
    }
  }
}

watch();
