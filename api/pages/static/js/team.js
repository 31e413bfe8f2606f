// Members, tokens and webhooks. A secret is shown once, at the top of the page.

import { all, attempt, call, copy, field, numbers, onSubmit } from "./api.js";

/** @param {import("./api.js").Control} boxes several of one name, or one */
const ticked = (boxes) => [...(boxes instanceof RadioNodeList ? boxes : [boxes])].flatMap((box) => (box instanceof HTMLInputElement && box.checked ? [box.value] : []));
/** @param {string} text */
const days = (text) => (text.trim() ? numbers(text)[0] : null);

/** @param {string} words @param {string} text */
function showSecret(words, text) {
  field("secret-words").textContent = words;
  field("secret-text").textContent = text;
  field("secret").hidden = false;
  field("secret").focus();
  field("secret").scrollIntoView({ block: "nearest" });
}

onSubmit("token", async ({ name, days: until, scopes }) => {
  /** @type {TokenMinted} */
  const made = await call("POST", "/tokens", { name: name.value.trim(), scopes: ticked(scopes), expires_in_days: days(until.value) });
  showSecret(`The token ${made.name}, shown only once:`, made.token);
});

onSubmit("invite", async ({ name, email, role }) => {
  /** @type {MemberMade} */
  const made = await call("POST", "/members", { name: name.value.trim(), email: email.value.trim() || null, role: role.value });
  showSecret(`The first token of ${made.name}, shown only once; give it to them:`, made.token);
});

onSubmit("webhook", async ({ url, events }) => {
  /** @type {WebhookMade} */
  const made = await call("POST", "/webhooks", { url: url.value.trim(), events: ticked(events) });
  showSecret(`The secret of ${made.url}, shown only once; deliveries are signed with it:`, made.secret);
});

field("copy").addEventListener("click", () => copy(field("copy"), field("secret-text"), field("secret-text").textContent ?? ""));

for (const button of all(document, "button[data-revoke]", HTMLButtonElement)) {
  button.addEventListener("click", () => {
    const more = "mine" in button.dataset ? " You are signed in with it, so this signs you out." : "";
    if (confirm(`Revoke ${button.dataset.name}? Requests with it are refused from now on.${more}`)) {
      attempt(button, () => call("DELETE", `/tokens/${button.dataset.revoke}`).then(() => location.reload()));
    }
  });
}
for (const button of all(document, "button[data-renew]", HTMLButtonElement)) {
  button.addEventListener("click", () =>
    attempt(button, async () => {
      /** @type {MemberMade} */
      const made = await call("POST", `/members/${button.dataset.renew}/tokens`);
      showSecret(`A new token for ${made.name}, shown only once; give it to them:`, made.token);
    }),
  );
}
for (const button of all(document, "button[data-disable]", HTMLButtonElement)) {
  button.addEventListener("click", () => {
    const disabled = button.dataset.to === "true";
    if (disabled && !confirm(`Disable ${button.dataset.name}? All their tokens and sessions are refused at once; their work stays.`)) return;
    attempt(button, () => call("PATCH", `/members/${button.dataset.disable}`, { disabled }).then(() => location.reload()));
  });
}
for (const choice of all(document, "select[data-member]", HTMLSelectElement)) {
  choice.addEventListener("change", () =>
    attempt(choice, async () => {
      try {
        await call("PATCH", `/members/${choice.dataset.member}`, { role: choice.value });
        choice.dataset.role = choice.value;
      } catch (problem) {
        choice.value = choice.dataset.role ?? "";
        throw problem;
      }
    }),
  );
}
for (const button of all(document, "button[data-post]", HTMLButtonElement)) {
  button.addEventListener("click", () => attempt(button, () => call("POST", button.dataset.post ?? "").then(() => location.reload())));
}
for (const button of all(document, "button[data-hook]", HTMLButtonElement)) {
  button.addEventListener("click", () => attempt(button, () => call("PATCH", `/webhooks/${button.dataset.hook}`, { disabled: button.dataset.to === "true" }).then(() => location.reload())));
}
for (const button of all(document, "button[data-delete]", HTMLButtonElement)) {
  button.addEventListener("click", () => {
    if (confirm(`Delete the webhook to ${button.dataset.name}, and the deliveries that are still due?`)) attempt(button, () => call("DELETE", `/webhooks/${button.dataset.delete}`).then(() => location.reload()));
  });
}
