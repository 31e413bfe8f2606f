// The view of a network: which module is highlighted, what is switched off, which step the film shows. One table, which
// is mirrored in the fragment of the address, so that a link gives the same view.

const listeners = [];

/**
 * module: name of the highlighted one · off: what is switched off, as `kind:id` · how: what replaces its values · step: of
 * the training · level: of the modules that are coloured · cut: connections that are kept, empty for all · at: what is
 * selected, as `kind:id`.
 */
export const view = read();

function read() {
  const fragment = location.hash.slice(1);
  const fields = new URLSearchParams(decodeURIComponent(fragment).includes("=") ? fragment : "");
  return { module: fields.get("module") || "", off: fields.getAll("off"), how: fields.get("how") || "mean", ...Object.fromEntries(["step", "level", "cut", "at"].map((name) => [name, fields.get(name) || ""])) };
}

function address() {
  const fields = new URLSearchParams();
  if (view.module) fields.set("module", view.module);
  for (const each of view.off) fields.append("off", each);
  if (view.off.length && view.how !== "mean") fields.set("how", view.how);
  for (const name of ["step", "level", "cut", "at"]) if (view[name]) fields.set(name, view[name]);
  const text = fields.toString();
  return text ? `#${text}` : location.pathname + location.search;
}

/**
 * Sets fields of the view, in the address too, and calls the listeners.
 * @param {Partial<typeof view>} values
 */
export function change(values) {
  Object.assign(view, values);
  history.replaceState(null, "", address());
  for (const listener of listeners) listener(values);
}

/** @param {(values: Partial<typeof view>) => void} listener is called with the fields that were set */
export const onChange = (listener) => listeners.push(listener);

/** Switches a module, neuron or connection off, or on again. */
export function toggle(kind, id) {
  const name = `${kind}:${id}`;
  change({ off: view.off.includes(name) ? view.off.filter((each) => each !== name) : [...view.off, name] });
}

// --- the highlighted module

const picture = document.querySelector("svg.network");
const cards = [...document.querySelectorAll("li.module")];

function highlight(name) {
  for (const card of cards) card.dataset.lit = String(card.dataset.module === name);
  if (!picture) return;
  picture.classList.toggle("focused", Boolean(name));
  for (const part of picture.querySelectorAll("[data-module]")) {
    part.classList.toggle("lit", part.dataset.module.split(" ").includes(name));
  }
}

for (const card of cards) {
  const name = card.dataset.module;
  card.querySelector("button.light").addEventListener("click", () => change({ module: view.module === name ? "" : name }));
  card.addEventListener("pointerenter", () => highlight(name));
  card.addEventListener("pointerleave", () => highlight(view.module));
}
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && view.module) change({ module: "" });
});
onChange((values) => {
  if (!("module" in values)) return;
  for (const card of cards) card.querySelector("button.light").setAttribute("aria-pressed", String(card.dataset.module === view.module));
  highlight(view.module);
});

// The page of a link starts with the module and the part that were chosen when the link was made.
const first = view.module || (document.querySelector("ul.modules")?.dataset.first ?? "");
const part = document.getElementById("view")?.dataset.part;
if (part && !location.hash) document.getElementById(part)?.scrollIntoView();
if (cards.some((card) => card.dataset.module === first)) change({ module: first });
