// A module lights up in the picture while its card is pressed or pointed at. The address remembers which.

const picture = document.querySelector("svg.network");
const cards = [...document.querySelectorAll("li.module")];
let pressed = null;

function light(name) {
  for (const card of cards) card.dataset.lit = String(card.dataset.module === name);
  if (!picture) return;
  picture.classList.toggle("focused", name !== null);
  for (const part of picture.querySelectorAll("[data-module]")) {
    part.classList.toggle("lit", part.dataset.module.split(" ").includes(name));
  }
}

function press(name) {
  pressed = pressed === name ? null : name;
  for (const card of cards) card.querySelector("button").setAttribute("aria-pressed", String(card.dataset.module === pressed));
  history.replaceState(null, "", pressed ? `#module-${pressed}` : location.pathname);
  light(pressed);
}

for (const card of cards) {
  card.querySelector("button").addEventListener("click", () => press(card.dataset.module));
  card.addEventListener("pointerenter", () => light(card.dataset.module));
  card.addEventListener("pointerleave", () => light(pressed));
}
picture?.addEventListener("click", (click) => {
  const part = click.target.closest(".neuron[data-module]");
  if (part) press(part.dataset.module);
});
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && pressed) press(pressed);
});

// The page of a link says which module it was shared with.
const first = document.querySelector("ul.modules")?.dataset.first ?? "";
const asked = decodeURIComponent(location.hash).replace("#module-", "") || first;
if (cards.some((card) => card.dataset.module === asked)) press(asked);
