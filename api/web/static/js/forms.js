// Forms and buttons that send one request: the button is off meanwhile, and a refusal is said where it was asked for.

import { complain } from "./api.js";

// `act` gets the form's elements; what it throws is said at the end of the form.
export function onSubmit(name, act) {
  const form = document.getElementById(name);
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(event.submitter ?? form.querySelector("button"), () => act(form.elements), form);
  });
}

export async function attempt(button, act, place = document.getElementById("problem")) {
  button.disabled = true;
  const notice = noticeOf(place);
  complain(notice, null);
  try {
    await act();
  } catch (problem) {
    complain(notice, problem);
    notice.scrollIntoView({ block: "nearest" });
  }
  button.disabled = false;
}

function noticeOf(place) {
  if (place.matches(".notice")) return place;
  const found = place.querySelector(":scope > .notice");
  if (found) return found;
  const made = document.createElement("div");
  made.className = "notice";
  made.setAttribute("role", "alert");
  place.append(made);
  return made;
}

// `0, 1 2` as numbers; what is none stays a word, so that the service can say what is wrong with it.
export const numbers = (text) =>
  text
    .split(/[\s,;]+/)
    .filter(Boolean)
    .map((word) => (Number.isNaN(Number(word)) ? word : Number(word)));

// Without leave to copy, the text is selected to be copied by hand.
export async function copy(button, place, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(place);
  }
}
