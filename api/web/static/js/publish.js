// A run is published as a model, or as the next version of one.

import { call } from "./api.js";
import { onSubmit } from "./forms.js";

const form = document.getElementById("publish");

onSubmit("publish", async ({ name, card, visibility }) => {
  const body = { run_id: form.dataset.run, name: name.value.trim(), card: card.value, visibility: visibility.value || null };
  const version = await call("POST", "/models", body);
  location.assign(`/models/${version.model_id}?version=${version.number}`);
});
