// Every page: local times; in lists of jobs, the progress of those that are not finished; and in lists of runs, jobs and
// models, what is done with those that are selected.

import { all, attempt, call, field, find, maybe, pause, reachable, turn } from "./api.js";

for (const time of all(document, "time[datetime]", HTMLTimeElement)) {
  const date = new Date(time.dateTime);
  if (!Number.isNaN(date.valueOf())) time.title = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

reachable();
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true); // of details

const rows = new Map(all(document, "tr[data-job]", HTMLTableRowElement).map((row) => [row.dataset.job ?? "", row]));

async function watchJobs() {
  while (rows.size) {
    await pause(2500);
    if (document.hidden) continue;
    /** @type {JobPage} */
    let page;
    try {
      page = await call("GET", "/jobs?limit=100");
    } catch {
      continue; // the next poll may succeed
    }
    for (const job of page.items) {
      const row = rows.get(job.id);
      if (!row) continue;
      find(row, "progress", HTMLProgressElement).value = job.progress;
      find(row, "[data-show=turn]", HTMLElement).textContent = turn(job);
      const state = find(row, ".state", HTMLElement);
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
const boxes = all(document, "input[data-pick]", HTMLInputElement);
/** @type {Record<string, string[]>} */
const NOUNS = { run: ["run", "runs"], job: ["job", "jobs"], model: ["model", "models"] };

const picked = () => boxes.filter((box) => box.checked);
/** @param {number} count @param {string[]} noun */
const counted = (count, [one, several]) => `${count} ${count === 1 ? one : several}`;
/** @param {HTMLInputElement[]} some */
const jobsOf = (some) => [...new Set(some.map((box) => box.dataset.job))];

const what = bar?.dataset.what ?? ""; // run, job or model

function showSelection() {
  const count = picked().length;
  field("selection").hidden = !count;
  field("selection-words").textContent = `${counted(count, NOUNS[what])} selected`;
  const compare = maybe(document, "#selection [data-act=compare]", HTMLButtonElement);
  if (compare) {
    compare.disabled = count !== 2;
    compare.title = count === 2 ? "" : "Select two to compare them";
  }
}

/** @type {Record<string, (some: HTMLInputElement[]) => unknown>} */
const ACTS = {
  compare(some) {
    const [a, b] = some.map((box) => box.dataset.compare ?? box.dataset.pick ?? "");
    location.assign(`/compare?${new URLSearchParams({ a, b })}`);
  },
  show(some) {
    const view = new URLSearchParams(location.search);
    const kept = ["show", "x", "y", "sort", "falling"].filter((name) => view.has(name)).map((name) => [name, view.get(name) ?? ""]);
    location.assign(`/?${new URLSearchParams([...kept, ...some.map((box) => ["run", box.dataset.pick ?? ""]), ["group", view.get("group") ?? "job"]])}`);
  },
  async tag(some) {
    const jobs = jobsOf(some);
    const tag = prompt(`A tag for ${counted(jobs.length, NOUNS.job)}:`)?.trim();
    if (!tag) return;
    for (const id of jobs) {
      /** @type {JobOut} */
      const { tags } = await call("GET", `/jobs/${id}`);
      if (!tags.includes(tag)) await call("PATCH", `/jobs/${id}`, { tags: [...tags, tag] });
    }
    location.reload();
  },
  async delete(some) {
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
  for (const button of all(bar, "[data-act]", HTMLButtonElement)) {
    button.addEventListener("click", () => attempt(button, async () => ACTS[button.dataset.act ?? ""](picked())).then(showSelection));
  }
  showSelection();
}

// --- filters of a list: a choice is asked for at once, and an address is without what is not asked

for (const filters of all(document, "form.filters[role=search]", HTMLFormElement)) {
  for (const choice of filters.querySelectorAll("select, input[type=checkbox]")) choice.addEventListener("change", () => filters.requestSubmit());
  filters.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  });
}
