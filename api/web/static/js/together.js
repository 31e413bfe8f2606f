// What the runs of a job say together is worked out when somebody first looks; then the page shows it at once.

import { complain, waitFor } from "./api.js";

const section = document.getElementById("together");
const missing = section?.dataset.missing.split(" ").filter(Boolean) ?? [];

async function ask() {
  const job = document.getElementById("live").dataset.job;
  document.getElementById("together-words").textContent = "A worker is comparing the runs …";
  for (const kind of missing) await waitFor("GET", `/jobs/${job}/${kind}?wait=20`);
  const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  section.replaceChildren(...page.getElementById("together").childNodes);
}

if (missing.length) {
  ask().catch((problem) => {
    document.getElementById("together-words").textContent = "";
    complain(document.getElementById("together-problem"), problem);
  });
}
