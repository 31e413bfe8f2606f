// The view of a network: which module is highlighted, what is switched off, which step the film shows. One table, which
// is mirrored in the fragment of the address, so that a link gives the same view.

import { all, find, maybe } from "./api.js";

/** @type {((values: Partial<View>) => void)[]} */
const listeners = [];
/** @type {("step"|"level"|"cut"|"at")[]} */
const PLAIN = ["step", "level", "cut", "at"]; // fields that are a text, empty where nothing is chosen

/**
 * module: name of the highlighted one · off: what is switched off, as `kind:id` · how: what replaces its values · step: of
 * the training · level: of the modules that are coloured · cut: connections that are kept, empty for all · at: what is
 * selected, as `kind:id`.
 * @typedef {{module: string, off: string[], how: string, step: string, level: string, cut: string, at: string}} View
 */
export const view = read();

/** @returns {View} */
function read() {
  const fragment = location.hash.slice(1);
  const fields = new URLSearchParams(decodeURIComponent(fragment).includes("=") ? fragment : "");
  const found = { module: fields.get("module") || "", off: fields.getAll("off"), how: fields.get("how") || "mean", step: "", level: "", cut: "", at: "" };
  for (const name of PLAIN) found[name] = fields.get(name) || "";
  return found;
}

function address() {
  const fields = new URLSearchParams();
  if (view.module) fields.set("module", view.module);
  for (const each of view.off) fields.append("off", each);
  if (view.off.length && view.how !== "mean") fields.set("how", view.how);
  for (const name of PLAIN) if (view[name]) fields.set(name, view[name]);
  const text = fields.toString();
  return text ? `#${text}` : location.pathname + location.search;
}

/**
 * Sets fields of the view, in the address too, and calls the listeners.
 * @param {Partial<View>} values
 */
export function change(values) {
  Object.assign(view, values);
  history.replaceState(null, "", address());
  for (const listener of listeners) listener(values);
}

/** @param {(values: Partial<View>) => void} listener is called with the fields that were set */
export const onChange = (listener) => listeners.push(listener);

/** Switches a module, neuron or connection off, or on again. @param {string} kind @param {string} id */
export function toggle(kind, id) {
  const name = `${kind}:${id}`;
  change({ off: view.off.includes(name) ? view.off.filter((each) => each !== name) : [...view.off, name] });
}

// --- the highlighted module

const picture = maybe(document, "svg.network", SVGSVGElement);
const cards = all(document, "li.module", HTMLLIElement);

/** @param {string} [name] */
function highlight(name) {
  for (const card of cards) card.dataset.lit = String(card.dataset.module === name);
  if (!picture) return;
  picture.classList.toggle("focused", Boolean(name));
  for (const part of all(picture, "[data-module]", SVGElement)) {
    part.classList.toggle("lit", name !== undefined && (part.dataset.module ?? "").split(" ").includes(name));
  }
}

for (const card of cards) {
  const name = card.dataset.module;
  find(card, "button.light", HTMLButtonElement).addEventListener("click", () => change({ module: view.module === name ? "" : name }));
  card.addEventListener("pointerenter", () => highlight(name));
  card.addEventListener("pointerleave", () => highlight(view.module));
}
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && view.module) change({ module: "" });
});
onChange((values) => {
  if (!("module" in values)) return;
  for (const card of cards) find(card, "button.light", HTMLButtonElement).setAttribute("aria-pressed", String(card.dataset.module === view.module));
  highlight(view.module);
});

// The page of a link starts with the module and the part that were chosen when the link was made.
const first = view.module || (maybe(document, "ul.modules", HTMLElement)?.dataset.first ?? "");
const part = document.getElementById("view")?.dataset.part;
if (part && !location.hash) document.getElementById(part)?.scrollIntoView();
if (cards.some((card) => card.dataset.module === first)) change({ module: first });
