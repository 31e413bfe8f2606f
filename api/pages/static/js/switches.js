// Modules, neurons and connections are switched off by hand; a worker computes the effect on every output. The stored
// network is not modified.

import { complain, metricName, number, waitFor } from "./api.js";
import { change, onChange, toggle, view } from "./modules.js";

const panel = document.getElementById("what-if");
const field = (name) => document.getElementById(name);
const picture = document.querySelector("svg.network");
const MAX_OUTPUTS = 12; // rows; the outputs with the largest effects
const names = new Map(); // `kind:id` → its name on the page
let newest = 0; // number of the newest request; answers to older ones are ignored

for (const box of panel.querySelectorAll("input[data-connection]")) names.set(`connection:${box.dataset.connection}`, box.dataset.what);
for (const part of picture?.querySelectorAll("[data-neuron]") ?? []) names.set(`neuron:${part.dataset.neuron}`, part.querySelector("title").textContent);
for (const button of document.querySelectorAll("button.switch")) names.set(`module:${button.dataset.module}`, button.dataset.what);

const changes = () =>
  view.off.map((each) => {
    const [kind, id] = [each.slice(0, each.indexOf(":")), each.slice(each.indexOf(":") + 1)];
    return { kind, id, do: kind === "connection" ? "zero" : view.how };
  });

// The neurons that switch a module off, or a group inside it: those in hidden layers, or all where it has none.
function inside(module) {
  const its = [...(picture?.querySelectorAll("[data-neuron]") ?? [])].filter(({ dataset }) => dataset.module === module || dataset.group === module);
  const hidden = its.filter((part) => !("end" in part.dataset));
  return (hidden.length ? hidden : its).map((part) => part.dataset.neuron);
}

function render() {
  const off = new Set(view.off);
  for (const box of panel.querySelectorAll("input[data-connection]")) box.checked = !off.has(`connection:${box.dataset.connection}`);
  for (const button of document.querySelectorAll("button.switch")) {
    const isOff = off.has(`module:${button.dataset.module}`);
    button.setAttribute("aria-pressed", String(isOff));
    button.textContent = isOff ? "Switch on again" : "Switch off";
  }
  const dark = new Set(view.off.filter((each) => each.startsWith("module:")).flatMap((each) => inside(each.slice("module:".length))));
  for (const part of picture?.querySelectorAll("[data-neuron]") ?? []) part.classList.toggle("off", off.has(`neuron:${part.dataset.neuron}`) || dark.has(part.dataset.neuron));
  for (const part of picture?.querySelectorAll("line[data-connection]") ?? []) part.classList.toggle("off", off.has(`connection:${part.dataset.connection}`));
  field("how").value = view.how;
  field("off").replaceChildren(
    ...view.off.map((each) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "pill";
      button.textContent = `${names.get(each) || each} ×`;
      button.setAttribute("aria-label", `Switch ${names.get(each) || each} on again`);
      button.addEventListener("click", () => change({ off: view.off.filter((other) => other !== each) }));
      item.append(button);
      return item;
    }),
  );
  field("all-on").hidden = view.off.length === 0;
}

function inWords(effect) {
  if (effect === null) return "is not a number";
  if (effect < 1e-6) return "does not move";
  if (effect < 0.01) return `moves by ${number(100 * effect)} % of its variance`;
  if (effect < 0.5) return `moves by ${Math.round(100 * effect)} % of its variance`;
  return effect < 0.95 ? `loses most of its variation: ${Math.round(100 * effect)} % of its variance` : "is lost: its error is as large as its variance, or larger";
}

function show(answer) {
  const trial = answer.trials[0];
  const effects = Object.entries(trial.effects);
  const shown = effects.length > MAX_OUTPUTS ? effects.sort((a, b) => b[1] - a[1]).slice(0, MAX_OUTPUTS) : effects;
  field("moved").replaceChildren(
    ...shown.map(([output, effect]) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = output;
      const bar = document.createElement("progress");
      bar.max = 1;
      bar.value = Math.min(1, effect);
      bar.setAttribute("aria-hidden", "true");
      const cells = [number(effect), bar, inWords(effect)].map((content, index) => {
        const cell = document.createElement("td");
        cell.className = ["number", "progress-cell wide", "quiet"][index];
        cell.append(content);
        return cell;
      });
      row.append(name, ...cells);
      return row;
    }),
  );
  const more = effects.length - shown.length;
  field("what-if-words").textContent = [
    ...Object.entries(trial.metrics).map(([metric, value]) => `${metricName(metric)}: ${number(answer.before[metric])} → ${number(value)}`),
    ...(more ? [`${more} more outputs have smaller effects`] : []),
  ].join(" · ");
}

async function evaluate() {
  const mine = ++newest;
  field("answer").hidden = view.off.length === 0;
  complain(field("what-if-problem"), null);
  if (view.off.length === 0) return;
  field("what-if-words").textContent = "A worker is computing the effects …";
  try {
    const answer = await waitFor("POST", `/runs/${panel.dataset.run}/interventions`, { trials: [changes()] });
    if (mine === newest) show(answer);
  } catch (problem) {
    if (mine !== newest) return;
    field("answer").hidden = true;
    complain(field("what-if-problem"), problem);
  }
}

for (const button of document.querySelectorAll("button.switch")) {
  button.hidden = false;
  button.addEventListener("click", () => toggle("module", button.dataset.module));
}
panel.addEventListener("change", (event) => {
  if (event.target.dataset.connection) toggle("connection", event.target.dataset.connection);
  if (event.target.id === "how") change({ how: event.target.value });
});
field("all-on").addEventListener("click", () => change({ off: [] }));
picture?.addEventListener("click", (event) => {
  const connection = event.target.closest("[data-connection]");
  const neuron = event.target.closest(".neuron:not(.unused)");
  if (neuron) toggle("neuron", neuron.dataset.neuron);
  else if (connection) toggle("connection", connection.dataset.connection);
});
onChange((values) => {
  if (!("off" in values || "how" in values)) return;
  render();
  evaluate();
});

panel.hidden = false;
picture?.classList.add("pressable");
render();
if (view.off.length) evaluate();
