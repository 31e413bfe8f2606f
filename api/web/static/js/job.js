// A job while it runs: progress, time to the end, losses, and the buttons that end it or begin it again.

import { call, complain, duration, number, pause } from "./api.js";

const live = document.getElementById("live");
const id = live.dataset.job;
const notice = document.getElementById("problem");
const ended = (state) => state !== "queued" && state !== "running";
const RENEW_SECONDS = 5; // between two looks at the table of runs and the log
const lossNames = { prediction_loss: "train loss", test_prediction_loss: "test loss", total_loss: "total loss", connection_cost: "connection cost", train_accuracy: "train accuracy", test_accuracy: "test accuracy", cost_strength: "λ" };

function show(event) {
  live.dataset.revision = event.revision;
  live.querySelector("progress").value = event.progress;
  document.getElementById("percent").textContent = Math.round(100 * event.progress);
  const state = document.querySelector("#state .state");
  state.textContent = event.state;
  state.className = `state ${event.state}`;
  const words = document.getElementById("words");
  if (event.state === "queued") words.textContent = event.queue_position ? `${event.queue_position} before it in the queue` : "next in the queue";
  else words.textContent = event.reason || event.note || "";
  document.getElementById("eta").textContent = event.eta_seconds === null ? "" : `about ${duration(event.eta_seconds)} left`;
  const losses = document.getElementById("losses");
  losses.replaceChildren(
    ...Object.entries(event.losses || {})
      .filter(([, value]) => typeof value === "number")
      .map(([name, value]) => {
        const pair = document.createElement("div");
        const term = document.createElement("dt");
        const number_ = document.createElement("dd");
        term.textContent = lossNames[name] || name.replaceAll("_", " ");
        number_.textContent = number(value);
        pair.append(term, number_);
        return pair;
      }),
  );
}

// Runs that have ended and new lines of the log appear while the others are still at work.
async function renew() {
  const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const anew = page.getElementById(part.id);
    if (anew && anew.innerHTML !== part.innerHTML) part.replaceChildren(...anew.childNodes);
  }
  toTheEnd();
}

// The newest lines of the log are its last.
function toTheEnd() {
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
      if (seconds % RENEW_SECONDS === 0) await renew();
    } catch (problem) {
      if (problem.status === 401 || problem.status === 404) return;
    }
  }
  if (!ended(live.dataset.state)) location.reload(); // the table of runs, the picture and the log are new
}

for (const verb of ["cancel", "retry"]) {
  document.getElementById(verb)?.addEventListener("click", async (click) => {
    click.target.disabled = true;
    try {
      await call("POST", `/jobs/${id}/${verb}`);
      location.reload();
    } catch (problem) {
      complain(notice, problem);
      click.target.disabled = false;
    }
  });
}

toTheEnd();
watch();
