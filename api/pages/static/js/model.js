// One version of a model: verification, notes, fork, links, aliases. Every form sends one request.

import { Problem, all, asProblem, attempt, call, copy, field, maybe, numbers, onSubmit, waitFor } from "./api.js";
import "./modules.js";

const about = field("model").dataset;
const version = `/models/${about.model}/versions/${about.version}`;
const model = `/models/${about.model}`;
const reload = () => location.assign(`/models/${about.model}?version=${about.version}`);

/** @param {string} text */
function json(text) {
  try {
    return text.trim() ? JSON.parse(text) : {};
  } catch (error) {
    throw new Problem({ detail: `The changes are not JSON: ${asProblem(error).message}` }, 422);
  }
}

// --- verify

const verify = maybe(document, "#verify", HTMLButtonElement);
verify?.addEventListener("click", () =>
  attempt(verify, async () => {
    field("verify-words").textContent = "A worker is recomputing the claims from the stored weights …";
    try {
      await waitFor("POST", `${version}/verify`);
      reload();
    } finally {
      field("verify-words").textContent = "";
    }
  }),
);

// --- notes

const note = maybe(document, "form#note", HTMLFormElement);
if (note) {
  const [kind, which, text] = [field("note-about", HTMLSelectElement), field("note-target", HTMLInputElement), field("note-text", HTMLTextAreaElement)];
  const target = () => {
    which.disabled = kind.value === "run";
    if (which.disabled) which.value = "";
  };
  kind.addEventListener("change", target);
  for (const button of all(document, "button[data-about]", HTMLButtonElement)) {
    button.addEventListener("click", () => {
      kind.value = button.dataset.about ?? "";
      target();
      which.value = button.dataset.target ?? "";
      text.value = button.dataset.text ?? "";
      text.focus();
    });
  }
}
onSubmit("note", async ({ about: kind, target: which, text }) => {
  const numbersSeen = JSON.parse(field("note").dataset.numbers ?? "{}");
  const replaces = numbersSeen[`${kind.value}:${which.value.trim()}`] ?? null;
  await call("POST", `${version}/annotations`, { about: kind.value, target: which.value.trim(), text: text.value, replaces });
  reload();
});

// --- fork

onSubmit("fork", async ({ changes, seeds, name }) => {
  const body = {
    changes: json(changes.value),
    ...(seeds.value.trim() ? { seeds: numbers(seeds.value) } : {}),
    ...(name.value.trim() ? { name: name.value.trim() } : {}),
  };
  /** @type {JobOut} */
  const job = await call("POST", `${version}/fork`, body);
  location.assign(`/jobs/${job.id}`);
});

// --- links

onSubmit("share", async ({ module, part, days, note: sentence }) => {
  const view = Object.fromEntries(Object.entries({ module: module.value, part: part.value, note: sentence.value.trim() }).filter(([, value]) => value));
  /** @type {ShareMinted} */
  const made = await call("POST", `${version}/shares`, { view, expires_in_days: days.value.trim() ? numbers(days.value)[0] : null });
  const link = field("shared-link", HTMLAnchorElement);
  link.href = link.textContent = made.url;
  field("shared").hidden = false;
  link.focus();
});
const copies = maybe(document, "#copy", HTMLButtonElement);
copies?.addEventListener("click", () => copy(copies, field("shared-link"), field("shared-link", HTMLAnchorElement).href));
for (const button of all(document, "button[data-revoke]", HTMLButtonElement)) {
  button.addEventListener("click", () => {
    if (confirm("Revoke this link? It shows nothing from now on.")) attempt(button, () => call("DELETE", `/shares/${button.dataset.revoke}`).then(reload));
  });
}

// --- aliases, card, name

onSubmit("alias", ({ alias }) => call("PUT", `${model}/aliases/${encodeURIComponent(alias.value.trim())}`, { version: Number(about.version) }).then(reload));
for (const button of all(document, "button[data-alias]", HTMLButtonElement)) {
  button.addEventListener("click", () => attempt(button, () => call("DELETE", `${model}/aliases/${button.dataset.alias}`).then(reload)));
}
onSubmit("card", ({ card }) => call("PATCH", version, { card: card.value }).then(reload));
onSubmit("about-model", ({ name, visibility }) => call("PATCH", model, { visibility: visibility.value, ...(name.value.trim() === about.name ? {} : { name: name.value.trim() }) }).then(reload));
const deletes = maybe(document, "#delete", HTMLButtonElement);
deletes?.addEventListener("click", () => {
  if (confirm(`Delete ${about.name} with its versions, aliases, notes and links?`)) attempt(deletes, () => call("DELETE", model).then(() => location.assign("/models")));
});
