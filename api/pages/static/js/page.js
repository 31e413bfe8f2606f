// Every page: local times; and in lists of jobs, the progress of those that are not finished.

import { call, pause } from "./api.js";

for (const time of document.querySelectorAll("time[datetime]")) {
  const date = new Date(time.dateTime);
  if (!Number.isNaN(date.valueOf())) time.title = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

const rows = new Map([...document.querySelectorAll("tr[data-job]")].map((row) => [row.dataset.job, row]));

async function watchJobs() {
  while (rows.size) {
    await pause(2500);
    if (document.hidden) continue;
    let page;
    try {
      page = await call("GET", "/jobs?limit=100");
    } catch {
      continue; // the next poll may succeed
    }
    for (const job of page.items) {
      const row = rows.get(job.id);
      if (!row) continue;
      row.querySelector("progress").value = job.progress;
      const state = row.querySelector(".state");
      if (state.textContent !== job.state) {
        state.textContent = job.state;
        state.className = `state ${job.state}`;
      }
      if (job.state !== "queued" && job.state !== "running") {
        rows.delete(job.id);
        if (location.pathname === "/" && job.state === "succeeded") location.reload();
      }
    }
  }
}

watchJobs();
