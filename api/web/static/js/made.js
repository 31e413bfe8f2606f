// Files that are made when somebody first asks for them: the page says so, waits, and then they are there.

import { Problem, complain } from "./api.js";

// Until the address has its file. Raises the Problem that it cannot be made.
export async function made(address) {
  for (;;) {
    let response;
    try {
      response = await fetch(`${address}?wait=20`, { method: "HEAD" });
    } catch {
      throw new Problem({ detail: "The service cannot be reached. Check the network and try again." }, 0);
    }
    if (response.status === 200) return;
    if (response.status === 202) continue;
    const why = await fetch(`${address}?wait=0`);
    throw new Problem(await why.json().catch(() => ({})), why.status);
  }
}

function save(address) {
  const link = document.createElement("a");
  link.href = address;
  link.download = address.split("/").slice(-3).filter((part) => part !== "modules").join("-");
  link.click();
}

const notice = document.getElementById("made-problem");
const words = document.getElementById("made-words");

for (const link of document.querySelectorAll("a[data-made]")) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    if (link.getAttribute("aria-busy") === "true") return;
    link.setAttribute("aria-busy", "true");
    complain(notice, null);
    words.textContent = `${link.dataset.made} is being made; the download begins by itself.`;
    try {
      await made(link.getAttribute("href"));
      words.textContent = `${link.dataset.made} is there.`;
      save(link.getAttribute("href"));
    } catch (problem) {
      words.textContent = "";
      complain(notice, problem);
    }
    link.removeAttribute("aria-busy");
  });
}
