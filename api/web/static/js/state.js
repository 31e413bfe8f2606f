// What a reader looks at: one table, mirrored in the address, so that a link gives the same view.

const heard = [];

// module: the letter that is lit up · off: what is switched off, as `kind:id` · how: what takes its place ·
// step: of the training, in the film.
export const state = read();

function read() {
  const said = new URLSearchParams(decodeURIComponent(location.hash.slice(1)).includes("=") ? location.hash.slice(1) : "");
  return { module: said.get("module") || "", off: said.getAll("off"), how: said.get("how") || "mean", step: said.get("step") || "" };
}

function written() {
  const said = new URLSearchParams();
  if (state.module) said.set("module", state.module);
  for (const each of state.off) said.append("off", each);
  if (state.off.length && state.how !== "mean") said.set("how", state.how);
  if (state.step) said.set("step", state.step);
  const text = said.toString();
  return text ? `#${text}` : location.pathname + location.search;
}

export function change(values) {
  Object.assign(state, values);
  history.replaceState(null, "", written());
  for (const listener of heard) listener(values);
}

// `listener` hears which fields have changed.
export const onChange = (listener) => heard.push(listener);

export function toggle(kind, id) {
  const name = `${kind}:${id}`;
  change({ off: state.off.includes(name) ? state.off.filter((each) => each !== name) : [...state.off, name] });
}
