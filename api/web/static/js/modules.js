// A module lights up in the picture while its card is pressed or pointed at. The address remembers which.

import { change, onChange, state } from "./state.js";

const picture = document.querySelector("svg.network");
const cards = [...document.querySelectorAll("li.module")];

function light(name) {
  for (const card of cards) card.dataset.lit = String(card.dataset.module === name);
  if (!picture) return;
  picture.classList.toggle("focused", Boolean(name));
  for (const part of picture.querySelectorAll("[data-module]")) {
    part.classList.toggle("lit", part.dataset.module.split(" ").includes(name));
  }
}

function show() {
  for (const card of cards) card.querySelector("button.light").setAttribute("aria-pressed", String(card.dataset.module === state.module));
  light(state.module);
}

for (const card of cards) {
  const name = card.dataset.module;
  card.querySelector("button.light").addEventListener("click", () => change({ module: state.module === name ? "" : name }));
  card.addEventListener("pointerenter", () => light(name));
  card.addEventListener("pointerleave", () => light(state.module));
}
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && state.module) change({ module: "" });
});
onChange((values) => "module" in values && show());

// The page of a link says which module it was shared with.
const asked = state.module || (document.querySelector("ul.modules")?.dataset.first ?? "");
if (cards.some((card) => card.dataset.module === asked)) change({ module: asked });
