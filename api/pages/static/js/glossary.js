// Definitions of the glossary, opened from the words that they define.

import { around } from "./api.js";

/** @type {?HTMLDialogElement} */
let dialog = null;
/** @type {?Promise<Record<string, string>>} */
let words = null; // the glossary: word → definition

/**
 * A word that opens its definition.
 * @param {string} term as the glossary has it
 * @param {string} [label] how it stands here
 * @returns {HTMLButtonElement}
 */
export function explained(term, label = term) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "term";
  button.dataset.term = term;
  button.textContent = label;
  return button;
}

/** Shows a title and paragraphs in the one dialog of the page. @param {string} title @param {Node[]} content */
export function tell(title, ...content) {
  const shown = (dialog ??= document.body.appendChild(document.createElement("dialog")));
  const [heading, close] = [document.createElement("h2"), document.createElement("button")];
  heading.textContent = title;
  close.textContent = "Close";
  close.addEventListener("click", () => shown.close());
  shown.className = "definition";
  shown.setAttribute("aria-label", title);
  shown.replaceChildren(heading, ...content, close);
  shown.showModal();
}

/** @param {string} term */
async function define(term) {
  words ??= fetch("/glossary.json").then((answer) => answer.json());
  const found = await words.catch(() => (words = null));
  const paragraph = document.createElement("p");
  paragraph.textContent = found?.[term] ?? "The glossary cannot be reached.";
  const more = document.createElement("a");
  [more.href, more.textContent] = ["/glossary", "Glossary"];
  tell(term, paragraph, more);
}

document.addEventListener("click", (event) => {
  const word = around(event, "[data-term]", HTMLElement);
  if (word) define(word.dataset.term ?? "");
});
