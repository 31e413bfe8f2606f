// One version of a model: verification, notes, fork, links, aliases. Every form sends one request.

import { Problem, attempt, call, copy, numbers, onSubmit, waitFor } from "./api.js";
import "./modules.js";

const about = document.getElementById("model").dataset;
const version = `/models/${about.model}/versions/${about.version}`;
const model = `/models/${about.model}`;
const field = (name) => document.getElementById(name);
const reload = () => location.assign(`/models/${about.model}?version=${about.version}`);

function json(text) {
  try {
    return text.trim() ? JSON.parse(text) : {};
  } catch (error) {
    throw new Problem({ detail: `The changes are not JSON: ${error.message}` }, 422);
  }
}

// --- verify

field("verify")?.addEventListener("click", (event) =>
  attempt(event.target, async () => {
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

const note = field("note");
const target = () => {
  const whole = note.elements.about.value === "run";
  note.elements.target.disabled = whole;
  if (whole) note.elements.target.value = "";
};
note?.elements.about.addEventListener("change", target);
onSubmit("note", async ({ about: kind, target: which, text }) => {
  const numbersSeen = JSON.parse(note.dataset.numbers);
  const replaces = numbersSeen[`${kind.value}:${which.value.trim()}`] ?? null;
  await call("POST", `${version}/annotations`, { about: kind.value, target: which.value.trim(), text: text.value, replaces });
  reload();
});
for (const button of document.querySelectorAll("button[data-about]")) {
  button.addEventListener("click", () => {
    note.elements.about.value = button.dataset.about;
    target();
    note.elements.target.value = button.dataset.target;
    note.elements.text.value = button.dataset.text;
    note.elements.text.focus();
  });
}

// --- fork

onSubmit("fork", async ({ changes, seeds, name }) => {
  const body = { changes: json(changes.value) };
  if (seeds.value.trim()) body.seeds = numbers(seeds.value);
  if (name.value.trim()) body.name = name.value.trim();
  const job = await call("POST", `${version}/fork`, body);
  location.assign(`/jobs/${job.id}`);
});

// --- links

onSubmit("share", async ({ module, part, days, note: sentence }) => {
  const view = Object.fromEntries(Object.entries({ module: module.value, part: part.value, note: sentence.value.trim() }).filter(([, value]) => value));
  const made = await call("POST", `${version}/shares`, { view, expires_in_days: days.value.trim() ? numbers(days.value)[0] : null });
  field("shared-link").href = field("shared-link").textContent = made.url;
  field("shared").hidden = false;
  field("shared-link").focus();
});
field("copy")?.addEventListener("click", (event) => copy(event.target, field("shared-link"), field("shared-link").href));
for (const button of document.querySelectorAll("button[data-revoke]")) {
  button.addEventListener("click", () => {
    if (confirm("Revoke this link? It shows nothing from now on.")) attempt(button, () => call("DELETE", `/shares/${button.dataset.revoke}`).then(reload));
  });
}

// --- aliases, card, name

onSubmit("alias", ({ alias }) => call("PUT", `${model}/aliases/${encodeURIComponent(alias.value.trim())}`, { version: Number(about.version) }).then(reload));
for (const button of document.querySelectorAll("button[data-alias]")) {
  button.addEventListener("click", () => attempt(button, () => call("DELETE", `${model}/aliases/${button.dataset.alias}`).then(reload)));
}
onSubmit("card", ({ card }) => call("PATCH", version, { card: card.value }).then(reload));
onSubmit("about-model", ({ name, visibility }) => call("PATCH", model, { visibility: visibility.value, ...(name.value.trim() === about.name ? {} : { name: name.value.trim() }) }).then(reload));
field("delete")?.addEventListener("click", (event) => {
  if (confirm(`Delete ${about.name} with its versions, aliases, notes and links?`)) attempt(event.target, () => call("DELETE", model).then(() => location.assign("/models")));
});
