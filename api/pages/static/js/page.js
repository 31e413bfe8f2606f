// Every page: local times; in lists of jobs, the progress of those that are not finished; and in lists of runs, jobs and
// models, what is done with those that are selected.

import { attempt, call, pause, reachable, turn } from "./api.js";

for (const time of document.querySelectorAll("time[datetime]")) {
  const date = new Date(time.dateTime);
  if (!Number.isNaN(date.valueOf())) time.title = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

reachable();
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true); // of details

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
      row.querySelector("[data-show=turn]").textContent = turn(job);
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

// --- lists of which a selection can be compared, shown alone, tagged or deleted

const bar = document.getElementById("selection");
const boxes = [...document.querySelectorAll("input[data-pick]")];
const NOUNS = { run: ["run", "runs"], job: ["job", "jobs"], model: ["model", "models"] };

const picked = () => boxes.filter((box) => box.checked);
const counted = (count, [one, several]) => `${count} ${count === 1 ? one : several}`;
const jobsOf = (some) => [...new Set(some.map((box) => box.dataset.job))];

function showSelection() {
  const count = picked().length;
  bar.hidden = !count;
  document.getElementById("selection-words").textContent = `${counted(count, NOUNS[bar.dataset.what])} selected`;
  const compare = bar.querySelector("[data-act=compare]");
  if (compare) {
    compare.disabled = count !== 2;
    compare.title = count === 2 ? "" : "Select two to compare them";
  }
}

const ACTS = {
  compare(some) {
    const [a, b] = some.map((box) => box.dataset.compare ?? box.dataset.pick);
    location.assign(`/compare?${new URLSearchParams({ a, b })}`);
  },
  show(some) {
    const view = new URLSearchParams(location.search);
    const kept = ["show", "x", "y", "sort", "falling"].filter((name) => view.has(name)).map((name) => [name, view.get(name)]);
    location.assign(`/?${new URLSearchParams([...kept, ...some.map((box) => ["run", box.dataset.pick]), ["group", view.get("group") ?? "job"]])}`);
  },
  async tag(some) {
    const jobs = jobsOf(some);
    const tag = prompt(`A tag for ${counted(jobs.length, NOUNS.job)}:`)?.trim();
    if (!tag) return;
    for (const id of jobs) {
      const { tags } = await call("GET", `/jobs/${id}`);
      if (!tags.includes(tag)) await call("PATCH", `/jobs/${id}`, { tags: [...tags, tag] });
    }
    location.reload();
  },
  async delete(some) {
    const what = bar.dataset.what;
    const ids = what === "model" ? some.map((box) => box.dataset.pick) : jobsOf(some);
    const whole = what === "run" ? `${counted(ids.length, NOUNS.job)} with all runs of ${ids.length === 1 ? "it" : "them"}, not only those that are selected` : counted(ids.length, NOUNS[what]);
    if (!confirm(`Delete ${whole}? This cannot be undone.`)) return;
    for (const id of ids) await call("DELETE", `/${what === "model" ? "models" : "jobs"}/${id}`);
    location.reload();
  },
  clear(some) {
    for (const box of some) box.checked = false;
    showSelection();
  },
};

if (bar) {
  for (const box of boxes) box.addEventListener("change", showSelection);
  for (const button of bar.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => attempt(button, async () => ACTS[button.dataset.act](picked())).then(showSelection));
  }
  showSelection();
}

// --- filters of a list: a choice is asked for at once, and an address is without what is not asked

for (const filters of document.querySelectorAll("form.filters[role=search]")) {
  for (const choice of filters.querySelectorAll("select, input[type=checkbox]")) choice.addEventListener("change", () => filters.requestSubmit());
  filters.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  });
}
