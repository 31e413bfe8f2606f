// The page of a job: progress and losses while it runs, cancel and retry, and the comparison of its runs.

import { attempt, call, complain, metricName, number, pause, reachable, renderedAnew, sentence, turn, waitFor } from "./api.js";

const live = document.getElementById("live");
const id = live.dataset.job;
const ended = (state) => state !== "queued" && state !== "running";
const RENDER_SECONDS = 5; // between two renewals of the table of runs, the pictures and the log

function show(event) {
  live.dataset.revision = event.revision;
  live.querySelector("progress").value = event.progress;
  document.getElementById("percent").textContent = Math.round(100 * event.progress);
  const state = document.querySelector("#state .state");
  state.textContent = event.state;
  state.className = `state ${event.state}`;
  const words = document.getElementById("words");
  words.replaceChildren(sentence((event.state === "queued" ? event.note || turn(event) : event.reason || event.note) || ""));
  document.getElementById("eta").textContent = event.state === "running" ? turn(event) : "";
  document.getElementById("losses").replaceChildren(
    ...Object.entries(event.losses || {})
      .filter(([, value]) => typeof value === "number")
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
  for (const part of document.querySelectorAll("[data-live]")) {
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
      const event = await call("GET", `/jobs/${id}/events?wait=0`);
      show(event);
      state = event.state;
      if (seconds % RENDER_SECONDS === 0) await renew();
    } catch (problem) {
      if (problem.status === 401 || problem.status === 404) return;
    }
  }
  if (!ended(live.dataset.state)) location.reload(); // every part of the page has changed
}

for (const verb of ["cancel", "retry"]) {
  const button = document.getElementById(verb);
  button?.addEventListener("click", () => {
    if (verb === "cancel" && !confirm("Cancel this job? Runs that have ended stay; the others stop where they are.")) return;
    attempt(button, () => call("POST", `/jobs/${id}/${verb}`).then(() => location.reload()));
  });
}

// --- the comparison of the runs is computed when the page is opened for the first time

const section = document.getElementById("comparison");
const missing = section?.dataset.missing.split(" ").filter(Boolean) ?? [];

async function compare() {
  document.getElementById("comparison-words").textContent = "A worker is comparing the runs …";
  for (const kind of missing) await waitFor("GET", `/jobs/${id}/${kind}?wait=20`);
  section.replaceChildren(...(await renderedAnew()).getElementById("comparison").childNodes);
  reachable();
}

if (missing.length) {
  compare().catch((problem) => {
    document.getElementById("comparison-words").textContent = "";
    complain(document.getElementById("comparison-problem"), problem);
  });
}

scrollLog();
watch();
