// Definitions of the glossary, opened from the words that they define.

let dialog = null;
let words = null; // Promise of the glossary: word → definition

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

/** Shows a title and paragraphs in the one dialog of the page. */
export function tell(title, ...content) {
  dialog ??= document.body.appendChild(document.createElement("dialog"));
  const [heading, close] = [document.createElement("h2"), document.createElement("button")];
  heading.textContent = title;
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.className = "definition";
  dialog.setAttribute("aria-label", title);
  dialog.replaceChildren(heading, ...content, close);
  dialog.showModal();
}

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
  const word = event.target.closest?.("[data-term]");
  if (word) define(word.dataset.term);
});
