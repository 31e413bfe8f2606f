// What is silenced, and how the metrics change: at once on the examples here, then exactly by the service.

import { all, around, complain, field, measured, metricName, number, percent, typeset, waitFor } from "../api.js";
import { change, onChange, toggle, view } from "../modules.js";
import { partName } from "./circuit.js";
import { mark } from "./picture.js";

/** @typedef {Record<string, ?number>} Values of metrics, or effects on outputs, by name */
/** @typedef {(before: Values, metrics: Values, note: string, by: string) => void} Headline says how the first metric changes, and who computed it: "sample" or "service" */
/** @typedef {{render: () => void, headline: Headline, restore: () => void}} Silencing */

const MAX_OUTPUTS = 12; // rows; the outputs with the largest effects

/** The changes as the service takes them. */
const changes = () =>
  view.off.map((each) => {
    const [kind, id] = [each.slice(0, each.indexOf(":")), each.slice(each.indexOf(":") + 1)];
    return { kind, id, do: kind === "connection" ? "zero" : view.how };
  });

/** @param {?number} effect */
function inWords(effect) {
  if (effect === null || Number.isNaN(effect)) return "is not a number";
  if (effect < 1e-6) return "does not change";
  if (effect < 0.5) return `changes by ${percent(effect)} of its variance`;
  return effect < 0.9995 ? `loses most of its variation: ${percent(effect)} of its variance` : "is lost: its error is as large as its variance, or larger";
}

/**
 * @param {import("../instrument.js").Instrument} instrument
 * @returns {Silencing}
 */
export function silencing(instrument) {
  const { circuit, picture, run } = instrument;
  const at = { metric: field("metric"), label: field("metric-label").firstElementChild ?? field("metric-label"), note: field("metric-note") };
  const published = { metric: at.metric.textContent, label: at.label.textContent, note: at.note.textContent };
  const boxes = all(document, "input[data-connection]", HTMLInputElement);
  let newest = 0; // number of the newest question; answers to older ones are ignored
  let shownBy = ""; // who computed what is shown: "sample" or "service"

  /** @param {string} each */
  const called = (each) => {
    const [kind, id] = [each.slice(0, each.indexOf(":")), each.slice(each.indexOf(":") + 1)];
    if (kind === "neuron") return circuit.neurons.has(id) ? circuit.called(id) : id;
    if (kind === "connection") {
      const ends = circuit.byKey.get(id);
      return ends ? `${circuit.called(ends.source)} → ${circuit.called(ends.target)}` : id;
    }
    const part = Object.values(circuit.levels).flat().find((each) => each.name === id);
    return `${circuit.levels.outputs.some((each) => each.name === id) ? "module" : "group"} ${part ? partName(part) : id}`;
  };

  /** The neurons that switch a part off: those in hidden layers, as the service has it. @param {string} name */
  function inside(name) {
    const ends = [circuit.layers[0], circuit.layers.at(-1)];
    const part = [...circuit.levels.outputs, ...circuit.levels.groups].find((each) => each.name === name);
    return (part?.neurons ?? []).filter((id) => !ends.includes(circuit.neurons.get(id)?.layer));
  }

  /** Ids of all neurons and keys of all connections that are off. */
  function off() {
    /** @type {Set<string>[]} */
    const [neurons, connections] = [new Set(), new Set()];
    for (const { kind, id } of changes()) {
      if (kind === "connection") connections.add(id);
      else for (const neuron of kind === "neuron" ? [id] : inside(id)) neurons.add(neuron);
    }
    return { neurons, connections };
  }

  function render() {
    const dark = off();
    for (const box of boxes) box.checked = !view.off.includes(`connection:${box.dataset.connection}`);
    for (const button of all(document, "button.switch", HTMLButtonElement)) {
      const isOff = view.off.includes(`module:${button.dataset.module}`);
      button.setAttribute("aria-pressed", String(isOff));
      button.textContent = isOff ? "Restore" : "Silence";
      button.setAttribute("aria-label", `${button.textContent} ${button.dataset.module}`);
    }
    if (picture) {
      for (const [id, each] of picture.neurons) {
        const isOff = dark.neurons.has(id);
        mark(each, "off", isOff);
        if (each.hasAttribute("role") && each.getAttribute("aria-pressed") !== String(isOff)) each.setAttribute("aria-pressed", String(isOff));
      }
      for (const [key, each] of picture.connections) {
        const ends = circuit.byKey.get(key);
        mark(each, "off", dark.connections.has(key));
        mark(each, "dead", ends !== undefined && (dark.neurons.has(ends.source) || dark.neurons.has(ends.target)));
      }
    }
    field("how", HTMLSelectElement).value = view.how;
    field("silenced").hidden = view.off.length === 0;
    field("off").replaceChildren(
      ...view.off.map((each) => {
        const [item, button] = [document.createElement("li"), document.createElement("button")];
        button.type = "button";
        button.className = "pill";
        button.append(...typeset(called(each)), " ×");
        button.setAttribute("aria-label", `Restore ${called(each)}`);
        button.addEventListener("click", () => change({ off: view.off.filter((other) => other !== each) }));
        item.append(button);
        return item;
      }),
    );
  }

  /** @type {Headline} */
  function headline(before, metrics, note, by) {
    const name = Object.keys(metrics)[0];
    at.label.textContent = metricName(name);
    at.metric.replaceChildren(`${measured(name, before[name])} → `, Object.assign(document.createElement("strong"), { textContent: measured(name, metrics[name]) }));
    at.note.textContent = note;
    at.metric.dataset.by = shownBy = by;
  }

  /** @param {{before: Values, metrics: Values, effects: Values}} found @param {string} note @param {string} by */
  function show({ before, metrics, effects }, note, by) {
    const order = ["validation_accuracy", "validation_prediction_loss"].filter((name) => name in metrics);
    const shownMetrics = Object.fromEntries([...order, ...Object.keys(metrics).filter((name) => !order.includes(name))].map((name) => [name, metrics[name]]));
    headline(before, shownMetrics, note, by);
    const rows = Object.entries(effects);
    const shown = rows.length > MAX_OUTPUTS ? rows.sort((a, b) => (b[1] ?? 0) - (a[1] ?? 0)).slice(0, MAX_OUTPUTS) : rows;
    field("moved").replaceChildren(
      ...shown.map(([output, effect]) => {
        const [row, name, bar] = [document.createElement("tr"), document.createElement("th"), document.createElement("progress")];
        name.scope = "row";
        name.append(...typeset(output));
        bar.max = 1;
        bar.value = Math.min(1, effect || 0);
        bar.setAttribute("aria-hidden", "true");
        row.append(name);
        [number(effect), bar, inWords(effect)].forEach((content, index) => {
          const cell = document.createElement("td");
          cell.className = ["number", "progress-cell", "quiet small"][index];
          cell.append(content);
          row.append(cell);
        });
        return row;
      }),
    );
    const more = rows.length - shown.length;
    // What the headline does not say.
    field("what-if-words").textContent = [
      ...Object.entries(shownMetrics).slice(1).map(([metric, value]) => `${metricName(metric)}: ${measured(metric, before[metric])} → ${measured(metric, value)}`),
      ...(more ? [`${more} more outputs have smaller effects`] : []),
    ].join(" · ");
    field("answer").hidden = false;
  }

  function restore() {
    field("answer").hidden = true;
    field("what-if-words").textContent = "";
    at.metric.textContent = published.metric;
    at.label.textContent = published.label;
    at.note.textContent = published.note;
    delete at.metric.dataset.by;
    shownBy = "";
  }

  /** @param {number} mine */
  async function bySample(mine) {
    const sample = instrument.sampled();
    if (!sample || view.how === "resample") return;
    const loaded = await sample.ready;
    if (!loaded.computed || mine !== newest) return;
    const { neurons, connections } = off();
    const found = await sample.ask("trial", { neurons: [...neurons], connections: [...connections], how: view.how, below: 0 });
    if (!found || mine !== newest || shownBy === "service") return;
    const all = loaded.heldOut === loaded.ofHeldOut ? "all" : `${loaded.heldOut} of`;
    show({ ...found, before: loaded.before }, `computed here on ${all} ${loaded.ofHeldOut} validation examples`, "sample");
  }

  /** @param {number} mine */
  async function byService(mine) {
    if (!run) return;
    /** @type {InterventionOut} */
    const answer = await waitFor("POST", `/runs/${run}/interventions`, { trials: [changes()] });
    if (mine !== newest) return;
    const { metrics, effects } = answer.trials[0];
    show({ before: answer.before, metrics, effects }, "by the service, on all training and validation examples", "service");
  }

  async function evaluate() {
    const mine = ++newest;
    complain(field("what-if-problem"), null);
    if (view.off.length === 0) return restore();
    shownBy = "";
    if (!shownBy && field("answer").hidden) field("what-if-words").textContent = "The effects are being computed …";
    bySample(mine).catch(() => {}); // the answer of the service follows
    try {
      await byService(mine);
    } catch (problem) {
      if (mine !== newest) return;
      if (!shownBy) field("answer").hidden = true;
      complain(field("what-if-problem"), problem);
    }
  }

  for (const button of all(document, "button.switch", HTMLButtonElement)) button.hidden = false;
  document.addEventListener("click", (event) => {
    const button = around(event, "button.switch", HTMLButtonElement);
    if (button) toggle("module", button.dataset.module ?? "");
  });
  document.addEventListener("change", ({ target }) => {
    if (target instanceof HTMLInputElement && target.dataset.connection) toggle("connection", target.dataset.connection);
    if (target instanceof HTMLSelectElement && target.id === "how") change({ how: target.value });
  });
  field("all-on").addEventListener("click", () => change({ off: [] }));
  onChange((values) => {
    if (!("off" in values || "how" in values)) return;
    render();
    evaluate();
  });
  render();
  if (view.off.length) evaluate();
  return { render, headline: (...shown) => view.off.length || headline(...shown), restore: () => view.off.length || restore() };
}
