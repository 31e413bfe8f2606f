// One data set: it appears by itself when its check is over, and can be deleted.

import { call, complain, pause } from "./api.js";

const state = document.getElementById("state");
const button = document.getElementById("delete");

async function watch() {
  while (state.dataset.state === "checking") {
    await pause(1500);
    try {
      const dataset = await call("GET", `/datasets/${state.dataset.dataset}`);
      if (dataset.state !== "checking") location.reload();
    } catch {
      // the next look may succeed
    }
  }
}

button?.addEventListener("click", async () => {
  if (!confirm(`Delete ${button.dataset.name}? Jobs that used it keep their results.`)) return;
  button.disabled = true;
  try {
    await call("DELETE", `/datasets/${button.dataset.dataset}`);
    location.assign("/datasets");
  } catch (problem) {
    complain(document.getElementById("problem"), problem);
    button.disabled = false;
  }
});

watch();
