// The page of a job: progress and losses while it runs, cancel and retry, and the comparison of its runs.

import { Problem, all, attempt, call, complain, field, find, maybe, metricName, number, pause, reachable, renderedAnew, sentence, turn, waitFor } from "./api.js";

const live = field("live");
const id = live.dataset.job;
/** @param {string|undefined} state */
const ended = (state) => state !== "queued" && state !== "running";
const RENDER_SECONDS = 5; // between two renewals of the table of runs, the pictures and the log

/** Test rows are for the network that comes out; validation rows say how the training goes. @param {string} name @param {object} losses */
const isForLater = (name, losses) => name.startsWith("test_") && name.replace("test_", "validation_") in losses;

/** @param {JobEvent} event */
function show(event) {
  live.dataset.revision = String(event.revision);
  find(live, "progress", HTMLProgressElement).value = event.progress;
  field("percent").textContent = String(Math.round(100 * event.progress));
  const state = find(document, "#state .state", HTMLElement);
  state.textContent = event.state;
  state.className = `state ${event.state}`;
  field("words").replaceChildren(sentence((event.state === "queued" ? event.note || turn(event) : event.reason || event.note) || ""));
  field("eta").textContent = event.state === "running" ? turn(event) : "";
  field("losses").replaceChildren(
    ...Object.entries(event.losses || {})
      .filter(([name, value]) => typeof value === "number" && !isForLater(name, event.losses ?? {}))
      .map(([name, value]) => {
        const pair = document.createElement("div");
        const [term, amount] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = metricName(name);
        amount.textContent = number(value);
        pair.append(term, amount);
        return pair;
      }),
  );
}

// Runs that have ended and new lines of the log appear while other runs still train.
async function renew() {
  const page = await renderedAnew();
  for (const part of all(document, "[data-live]", HTMLElement)) {
    const rendered = page.getElementById(part.id);
    if (rendered && rendered.innerHTML !== part.innerHTML) part.replaceChildren(...rendered.childNodes);
  }
  scrollLog();
  reachable();
}

// The newest lines of the log are its last.
function scrollLog() {
  const log = document.querySelector("#log pre");
  if (log) log.scrollTop = log.scrollHeight;
}

async function watch() {
  let state = live.dataset.state;
  for (let seconds = 1; !ended(state); seconds += 1) {
    await pause(1000);
    try {
      /** @type {JobEvent} */
      const event = await call("GET", `/jobs/${id}/events?wait=0`);
      show(event);
      state = event.state;
      if (seconds % RENDER_SECONDS === 0) await renew();
    } catch (problem) {
      if (problem instanceof Problem && (problem.status === 401 || problem.status === 404)) return;
    }
  }
  if (!ended(live.dataset.state)) location.reload(); // every part of the page has changed
}

for (const verb of ["cancel", "retry"]) {
  const button = maybe(document, `#${verb}`, HTMLButtonElement);
  button?.addEventListener("click", () => {
    if (verb === "cancel" && !confirm("Cancel this job? Runs that have ended stay; the others stop where they are.")) return;
    attempt(button, () => call("POST", `/jobs/${id}/${verb}`).then(() => location.reload()));
  });
}

// --- the comparison of the runs is computed when the page is opened for the first time

const section = document.getElementById("comparison");
const missing = section?.dataset.missing?.split(" ").filter(Boolean) ?? [];

async function compare() {
  field("comparison-words").textContent = "A worker is comparing the runs …";
  for (const kind of missing) await waitFor("GET", `/jobs/${id}/${kind}?wait=20`);
  const rendered = (await renderedAnew()).getElementById("comparison");
  if (rendered) section?.replaceChildren(...rendered.childNodes);
  reachable();
}

if (missing.length) {
  compare().catch((problem) => {
    field("comparison-words").textContent = "";
    complain(field("comparison-problem"), problem);
  });
}

scrollLog();
watch();
