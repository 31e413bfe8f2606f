// The interactive view of a network: select and silence parts, and see the effect. One component on the pages of a run, of a version of a
// model and of a link. The server has drawn everything; this adds the interaction.

import { Problem, attempt, call, measured, number, onSubmit, percent, renderedAnew, sentence, typeset, waitFor } from "./api.js";
import { tell } from "./glossary.js";
import { Card, list, ofConnection, ofNeuron } from "./instrument/card.js";
import { Circuit, partName } from "./instrument/circuit.js";
import { KEYS, Picture, badge, walk } from "./instrument/picture.js";
import { Sample } from "./instrument/sample.js";
import { silencing } from "./instrument/silence.js";
import { stepping } from "./instrument/steps.js";
import { threshold } from "./instrument/threshold.js";
import { change, onChange, toggle, view } from "./modules.js";

const panel = document.getElementById("instrument");
const field = (name) => document.getElementById(name);
const LEVELS = ["outputs", "groups", "trees"];

async function begin() {
  const { address, run, probe, locality, spacing } = panel.dataset;
  const [graph, interior, modules] = await Promise.all([call("GET", `${address}/graph`), call("GET", `${address}/interior`).catch(() => ({ interior: null })), call("GET", `${address}/modules`).catch(() => ({ modules: [] }))]);
  const circuit = new Circuit(graph, interior.interior, modules.modules);
  const svg = panel.querySelector("svg.network");
  const picture = svg && new Picture(svg);
  const cost = { locality: Number(locality), spacing: Number(spacing) };
  const card = new Card(field("hover-card"));
  const instrument = { circuit, picture, run, sample: null, sampled, colour, parts: () => circuit.levels[level()] };
  const silences = Boolean(run || probe); // whether effects can be computed, here or by the service
  let loaded = null; // what the worker computed first
  let [pinned, harms] = [null, new Map()]; // what is selected; neuron → what is lost without it

  function level() {
    if (circuit.levels[view.level]?.length) return view.level;
    return circuit.first;
  }

  /** Colours the picture by these parts; null: by the level that is shown. */
  function colour(parts) {
    picture?.colour(parts ?? instrument.parts());
  }

  // --- levels

  let treeSwitches = []; // what writes on each of their buttons

  function showLevels() {
    treeSwitches = [];
    for (const name of LEVELS) {
      const box = panel.querySelector(`input[name=level][value=${name}]`);
      box.checked = name === level();
      box.closest("label").hidden = circuit.levels[name].length === 0;
      box.closest("label").querySelector(".count").textContent = circuit.levels[name].length;
    }
    field("levels").hidden = LEVELS.every((name) => circuit.levels[name].length === 0);
    field("parts").replaceChildren(
      ...instrument.parts().map((part, index) => {
        const item = document.createElement("li");
        const light = document.createElement("button");
        light.type = "button";
        light.className = "part";
        const name = document.createElement("strong");
        name.append(...typeset(partName(part)));
        const role = document.createElement("span");
        role.className = "quiet";
        role.append(...typeset(part.role));
        light.append(badge(index), name, role);
        light.addEventListener("pointerenter", () => lightPart(part));
        light.addEventListener("focus", () => lightPart(part));
        for (const name_ of ["pointerleave", "blur"]) light.addEventListener(name_, () => look(null));
        light.addEventListener("click", () => select("part", part.name));
        item.append(light);
        if (silences) item.append(level() === "trees" ? silenceTree(part) : silenceButton(part.name));
        return item;
      }),
    );
  }

  function silenceButton(name) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "switch small";
    button.dataset.module = name;
    return button; // silence.js answers to it, as to all of its class
  }

  // A tree is no part that the service knows: its hidden neurons are silenced one by one.
  function silenceTree(part) {
    const button = document.createElement("button");
    const ends = [circuit.layers[0], circuit.layers.at(-1)];
    const names = part.neurons.filter((id) => !ends.includes(circuit.neurons.get(id).layer)).map((id) => `neuron:${id}`);
    const areOff = () => names.length > 0 && names.every((name) => view.off.includes(name));
    button.type = "button";
    button.className = "small tree-switch";
    button.disabled = !names.length;
    button.addEventListener("click", () => {
      const others = view.off.filter((name) => !names.includes(name));
      change({ off: areOff() ? others : [...others, ...names] });
    });
    const say = () => {
      button.textContent = areOff() ? "Restore" : "Silence";
      button.setAttribute("aria-label", `${button.textContent} ${part.name}`);
      button.setAttribute("aria-pressed", String(areOff()));
    };
    treeSwitches.push(say);
    say();
    return button;
  }

  function lightPart(part) {
    const inside = new Set(part.neurons);
    picture?.light(part.neurons, circuit.connections.filter(({ source, target }) => inside.has(source) && inside.has(target)).map(({ key }) => key));
  }

  // --- looking and selecting

  function properties(kind, id) {
    if (kind === "connection") return ofConnection(circuit, id, cost);
    if (kind === "neuron") return circuit.neurons.has(id) ? ofNeuron(circuit, id, loaded?.ranges, harms.get(id)) : null;
    const part = Object.values(circuit.levels).flat().find((each) => each.name === id);
    if (!part) return null;
    const inner = new Set(part.neurons);
    return { title: `${partName(part)}: ${part.role}`, lines: [...(part.note ? [["", "note", part.note]] : []), ["neuron", "neurons", String(part.neurons.length)], ["connection cost", "connections inside", String(circuit.connections.filter(({ source, target }) => inner.has(source) && inner.has(target)).length)]] };
  }

  /** Highlights something with its neighbours and shows its properties; null: what is selected again. */
  function look(kind, id, x, y) {
    if (!kind) {
      card.show(null);
      if (pinned?.[0] === "part") lightUp(...pinned);
      else picture?.light([], []);
      return;
    }
    lightUp(kind, id);
    const found = properties(kind, id);
    if (x === undefined) {
      const place = picture.neurons.get(id)?.getBoundingClientRect();
      if (place) card.show(found, place.x, place.y);
    } else card.show(found, x, y);
  }

  function lightUp(kind, id) {
    if (!picture) return;
    if (kind === "part") {
      const part = Object.values(circuit.levels).flat().find((each) => each.name === id);
      return part && lightPart(part);
    }
    if (kind === "connection") {
      const each = circuit.byKey.get(id);
      return each && picture.light([each.source, each.target], [id]);
    }
    const near = [...circuit.into(id), ...circuit.outOf(id)];
    picture.light([id, ...near.flatMap(({ source, target }) => [source, target])], near.map(({ key }) => key));
  }

  function select(kind, id) {
    const name = `${kind}:${id}`;
    change({ at: view.at === name ? "" : name });
  }

  function showSelected() {
    const [kind, id] = [view.at.slice(0, view.at.indexOf(":")), view.at.slice(view.at.indexOf(":") + 1)];
    const found = view.at && properties(kind, id);
    picture?.svg.querySelector(".selected")?.classList.remove("selected");
    if (found && kind !== "part") picture?.set(kind, id, "selected", true);
    pinned = found ? [kind, id] : null;
    field("selected").hidden = !found;
    if (!found) return look(null);
    const [title, button] = [document.createElement("h3"), document.createElement("button")];
    title.append(...typeset(found.title));
    button.type = "button";
    const what = kind === "part" ? "module" : kind;
    button.textContent = view.off.includes(`${what}:${id}`) ? "Restore" : "Silence";
    button.addEventListener("click", () => toggle(what, id));
    const whole = kind !== "part" || !circuit.levels.trees.some((part) => part.name === id);
    const mayName = kind === "part" && whole && panel.dataset.mayName;
    field("selected").replaceChildren(title, list(found.lines), ...(whole && silences ? [button] : []), ...(mayName ? [nameForm(id)] : []));
    look(null);
    if (kind === "neuron") learnHarm(id);
  }

  /** Names a part and says something of it, in place. */
  function nameForm(id) {
    const part = Object.values(circuit.levels).flat().find((each) => each.name === id);
    const details = document.createElement("details");
    const form = document.createElement("form");
    const label = (words, control) => {
      const each = document.createElement("label");
      each.append(words, control);
      return each;
    };
    const summary = Object.assign(document.createElement("summary"), { textContent: part.given || part.note ? "Rename" : "Name it" });
    const name = Object.assign(document.createElement("input"), { name: "name", maxLength: 60, value: part.given });
    const note = Object.assign(document.createElement("textarea"), { name: "note", maxLength: 1000, value: part.note, rows: 2 });
    note.className = "short";
    form.className = "naming";
    form.append(label("Name", name), label("Note", note), Object.assign(document.createElement("button"), { textContent: "Save" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(
        form.querySelector("button"),
        async () => {
          const { names } = await call("GET", `/runs/${run}/names`);
          const seen = names[id];
          if ((seen?.name ?? "") !== part.given || (seen?.note ?? "") !== part.note) throw new Problem({ detail: `Someone else has named ${id} meanwhile: ${seen?.name || "without a name"}. Load the page again.` }, 409);
          const kept = await call("PUT", `/runs/${run}/names/${id}`, { name: name.value.trim(), note: note.value.trim(), replaces: seen?.number ?? null });
          circuit.name(kept.names);
          showLevels();
          off.render();
          showSelected();
          await renewNames();
        },
        form,
      );
    });
    details.append(summary, form);
    return details;
  }

  // Cards, tables and titles of the report, as the server writes them with the new name.
  async function renewNames() {
    const page = await renderedAnew();
    for (const title of page.querySelectorAll("svg.network .neuron title")) {
      const own = picture?.neurons.get(title.closest(".neuron").dataset.neuron)?.querySelector("title");
      if (own) own.textContent = title.textContent;
    }
    for (const where of [".modules .light", ".inside th[scope=row]", ".effects th[scope=row]", ".heat text"]) {
      const now = [...page.querySelectorAll(where)];
      document.querySelectorAll(where).forEach((each, at) => now[at] && each.replaceChildren(...now[at].cloneNode(true).childNodes));
    }
  }

  async function learnHarm(id) {
    if (harms.has(id) || !loaded?.computed) return;
    const found = await sampled().ask("harm", { neurons: [id], connections: [], how: "mean", below: 0 });
    if (!found) return;
    const [name] = Object.keys(found.metrics);
    harms.set(id, `${measured(name, loaded.before[name])} → ${measured(name, found.metrics[name])}`);
    if (view.at === `neuron:${id}`) showSelected();
  }

  if (picture) {
    let over = ""; // what the pointer is over, as `kind:id`
    const aimed = (event) => {
      const neuron = event.target.closest(".neuron:not(.unused)");
      if (neuron) return ["neuron", neuron.dataset.neuron];
      const connection = event.target.closest("[data-connection]");
      return connection && ["connection", connection.dataset.connection];
    };
    svg.addEventListener("pointermove", (event) => {
      if (event.buttons || event.pointerType === "touch") return;
      const found = aimed(event);
      const name = found?.join(":") ?? "";
      if (name === over) return found && card.move(event.clientX, event.clientY);
      over = name;
      if (found) look(...found, event.clientX, event.clientY);
      else look(null);
    });
    svg.addEventListener("pointerleave", () => {
      over = "";
      look(null);
    });
    svg.addEventListener("click", (event) => {
      const found = aimed(event);
      if (!found) return;
      if (event.shiftKey || event.pointerType === "touch" || !silences) return select(...found);
      toggle(...found);
      change({ at: found.join(":") });
    });
    svg.classList.add("pressable");
    walk({ circuit, picture, look, select, silence: (kind, id) => silences && toggle(kind, id) });
  }

  // --- all of it

  // The examples are loaded when the pointer or focus enters the network: they may be as large as a film.
  function sampled() {
    if (!probe || instrument.sample) return instrument.sample;
    instrument.sample = new Sample(probe);
    instrument.sample.ready.then(
      (found) => {
        loaded = found;
        panel.dataset.sample = found.computed ? "computed" : "none";
        field("sample-words").textContent = found.computed ? "" : "This network is not computed in the browser; the service computes effects on all training and validation examples.";
        if (pinned) showSelected();
      },
      (problem) => {
        panel.dataset.sample = "none";
        field("sample-words").replaceChildren(sentence(`Nothing is computed in the browser: ${problem.message}`));
      },
    );
    return instrument.sample;
  }
  // --- a row of one's own

  const MATTERS = 0.1; // of the largest share in what a neuron receives; what carries less is not lit

  onSubmit("row", async () => {
    const form = field("row");
    field("predicted").textContent = "A worker is computing it …";
    field("path-words").textContent = "";
    let found;
    try {
      found = await waitFor("POST", `${form.dataset.address}/predict?wait=20`, { inputs: [rowOf(form)], network_inputs: true });
    } catch (problem) {
      field("predicted").textContent = "";
      throw problem;
    }
    field("predicted").replaceChildren(...typeset(answerOf(found)));
    await lightPath(found.network_inputs?.[0]);
  });

  /** Lights the connections that carry this row: from each output back, those with a share in what a neuron receives. */
  async function lightPath(values) {
    const sample = sampled();
    if (!sample || !values || !picture || !(await sample.ready).computed) return;
    const { held } = (await sample.ask("row", { values: values.flat(Infinity) })) ?? {};
    if (!held) return;
    const carried = (each) => {
      const { layer, slot } = circuit.neurons.get(each.source);
      return Math.abs(each.weight * (held[layer]?.[slot] ?? 0));
    };
    const [neurons, keys] = [new Set(), new Set()];
    const left = [...circuit.neurons.values()].filter(({ id, layer }) => layer === circuit.layers.at(-1) && circuit.isWired(id)).map(({ id }) => id);
    while (left.length) {
      const id = left.pop();
      if (neurons.has(id)) continue;
      neurons.add(id);
      const into = circuit.into(id);
      const most = Math.max(0, ...into.map(carried));
      for (const each of into) {
        if (!most || carried(each) < MATTERS * most) continue;
        keys.add(each.key);
        left.push(each.source);
      }
    }
    picture.light(neurons, keys);
    field("path-words").textContent = `Highlighted: ${keys.size} of ${circuit.connections.length} connections carry this row. Connections that contribute less than a tenth of the largest share to their neuron are left out.`;
  }

  for (const name of ["pointerenter", "focusin"]) for (const each of panel.querySelectorAll(".stage, #parts")) each.addEventListener(name, sampled);

  showLevels();
  const off = (instrument.silencing = silencing(instrument));
  threshold(instrument);
  if (!view.cut) colour(null);
  let steps = null; // once the step that the address names is shown
  const begun = stepping(instrument).then((found) => (steps = found));
  await Promise.race([begun, null]);
  for (const box of panel.querySelectorAll("input[name=level]")) box.addEventListener("change", () => change({ level: box.value }));
  for (const button of document.querySelectorAll("button[data-cut]")) {
    button.hidden = false;
    button.addEventListener("click", () => change({ off: [...new Set([...view.off, ...button.dataset.cut.split(" ").map((key) => `connection:${key}`)])] }));
  }
  onChange((values) => {
    if ("level" in values) {
      showLevels();
      if (!view.cut) colour(null);
      off.render();
    }
    if ("off" in values) for (const say of treeSwitches) say();
    if ("at" in values || "off" in values) showSelected();
  });
  if (view.at) showSelected();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
    if (event.key === "?") showKeys();
    else if (event.key.toLowerCase() === "l") {
      const there = LEVELS.filter((name) => circuit.levels[name].length);
      if (there.length) change({ level: there[(there.indexOf(level()) + 1) % there.length] });
    } else if (event.key === "Escape") {
      if (view.at || view.module) change({ at: "", module: "" });
      else if (view.off.length) change({ off: [] });
    } else if (event.key === " " && steps && (event.target.closest(".neuron") || !event.target.closest("button, a, summary, [tabindex]"))) {
      steps.toggle();
      event.preventDefault();
    }
  });
  field("keys").addEventListener("click", showKeys);
  panel.dataset.ready = "yes";
}

/** The cells of the form by column: numbers, texts, true or false; an empty one is missing. */
function rowOf(form) {
  const cells = [...form.querySelectorAll("[data-column]")].map(({ dataset, value }) => {
    const text = value.trim();
    if (!text) return [dataset.column, null];
    if (dataset.kind === "boolean" && /^(true|false)$/i.test(text)) return [dataset.column, /^true$/i.test(text)];
    const number = Number(text.replace(",", "."));
    return [dataset.column, ["number", "integer"].includes(dataset.kind) && !Number.isNaN(number) ? number : text];
  });
  return Object.fromEntries(cells);
}

function answerOf({ targets, outputs, probabilities, labels }) {
  if (labels) {
    const ranked = targets.map((name, at) => [name, probabilities[0][at]]).sort((a, b) => b[1] - a[1]);
    return `${labels[0]} (${ranked.slice(0, 3).map(([name, share]) => `${name} ${percent(share)}`).join(", ")})`;
  }
  return targets.map((name, at) => `${name} = ${number(outputs[0][at])}`).join(", ");
}

function showKeys() {
  const found = document.createElement("dl");
  found.className = "keys";
  for (const [key, words] of KEYS) {
    const [row, name, said] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    name.append(...key.split(" ").flatMap((each) => [Object.assign(document.createElement("kbd"), { textContent: each }), " "]));
    said.textContent = words;
    row.append(name, said);
    found.append(row);
  }
  tell("Keys", found);
}

if (panel) {
  begin().catch((problem) => {
    field("sample-words").replaceChildren(sentence(`The interactive view could not be loaded: ${problem.message}`));
  });
}
