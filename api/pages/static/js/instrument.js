// The interactive view of a network: select and silence parts, and see the effect. One component on the pages of a run, of a version of a
// model and of a link. The server has drawn everything; this adds the interaction.

import { Problem, all, around, attempt, call, field, find, maybe, measured, number, onSubmit, percent, renderedAnew, sentence, typeset, waitFor } from "./api.js";
import { explained, tell } from "./glossary.js";
import { Card, list, ofConnection, ofNeuron } from "./instrument/card.js";
import { Circuit, partName } from "./instrument/circuit.js";
import { KEYS, Picture, badge, idOf, walk } from "./instrument/picture.js";
import { Sample } from "./instrument/sample.js";
import { silencing } from "./instrument/silence.js";
import { stepping } from "./instrument/steps.js";
import { threshold } from "./instrument/threshold.js";
import { change, onChange, toggle, view } from "./modules.js";

/**
 * What the parts of the view share: picture null where none is drawn; sampled gives the sample, or null where nothing is
 * computed here; run "" where the service may not be asked; colour by these parts, null: by the level that is shown.
 * @typedef {import("./instrument/circuit.js").Part} Part
 * @typedef {object} Instrument
 * @property {Circuit} circuit
 * @property {?Picture} picture
 * @property {string} run
 * @property {?Sample} sample
 * @property {() => ?Sample} sampled
 * @property {(parts: ?Pick<Part, "name"|"neurons"|"number">[]) => void} colour
 * @property {() => Part[]} parts
 * @property {import("./instrument/silence.js").Silencing} [silencing]
 * @property {(isLive: boolean) => void} [thresholdBeside]
 * @property {() => void} [showPruned]
 */

const root = document.getElementById("instrument");
/** @type {import("./instrument/circuit.js").Level[]} */
const LEVELS = ["outputs", "groups", "trees"];
/** @type {Record<import("./instrument/circuit.js").Level, [term: string, heading: string]>} */
const HEADINGS = { outputs: ["module", "Modules"], groups: ["group", "Groups"], trees: ["tree", "Trees"] };

/** @param {HTMLElement} panel */
async function begin(panel) {
  const { address, run = "", probe, locality, spacing } = panel.dataset;
  /** @type {[GraphOut, InteriorOut, ModulesOut]} */
  const [graph, interior, modules] = await Promise.all([call("GET", `${address}/graph`), call("GET", `${address}/interior`).catch(() => ({ interior: null })), call("GET", `${address}/modules`).catch(() => ({ modules: [] }))]);
  const circuit = new Circuit(graph, interior.interior, modules.modules);
  const svg = maybe(panel, "svg.network", SVGSVGElement);
  const picture = svg && new Picture(svg);
  const cost = { locality: Number(locality), spacing: Number(spacing) };
  const card = new Card(field("hover-card"));
  /** @type {Instrument} */
  const instrument = { circuit, picture, run, sample: null, sampled, colour, parts: () => circuit.levels[level()] };
  const silences = Boolean(run || probe); // whether effects can be computed, here or by the service
  /** @type {?import("./instrument/worker.js").Loaded} */
  let loaded = null; // what the worker computed first
  /** @type {?[kind: string, id: string]} */
  let pinned = null; // what is selected
  /** @type {Map<string, string>} */
  const harms = new Map(); // neuron → what is lost without it

  const level = () => LEVELS.find((name) => name === view.level && circuit.levels[name].length) ?? circuit.first;
  /** @param {string} id */
  const partOf = (id) => Object.values(circuit.levels).flat().find((each) => each.name === id);

  /** @type {Instrument["colour"]} */
  function colour(parts) {
    picture?.colour(parts ?? instrument.parts());
  }

  // --- levels

  /** @type {(() => void)[]} */
  let treeSwitches = []; // what writes on each of their buttons

  function showLevels() {
    treeSwitches = [];
    for (const name of LEVELS) {
      const box = find(panel, `input[name=level][value=${name}]`, HTMLInputElement);
      const label = box.closest("label") ?? box;
      box.checked = name === level();
      label.hidden = circuit.levels[name].length === 0;
      find(label, ".count", HTMLElement).textContent = String(circuit.levels[name].length);
    }
    field("levels").hidden = LEVELS.every((name) => circuit.levels[name].length === 0);
    field("parts-title").replaceChildren(explained(...HEADINGS[level()]));
    field("parts").replaceChildren(
      ...instrument.parts().map((part) => {
        const item = document.createElement("li");
        item.dataset.part = part.name;
        const light = document.createElement("button");
        light.type = "button";
        light.className = "part";
        const name = document.createElement("strong");
        name.append(...typeset(partName(part)));
        const role = document.createElement("span");
        role.className = "quiet";
        role.title = part.role;
        role.append(...typeset(part.role));
        const words = document.createElement("span");
        words.className = "words";
        words.append(name, role);
        light.append(badge(part.number), words);
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

  /** @param {string} name */
  function silenceButton(name) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "switch small";
    button.dataset.module = name;
    return button; // silence.js answers to it, as to all of its class
  }

  /** A tree is no part that the service knows: its hidden neurons are silenced one by one. @param {Part} part */
  function silenceTree(part) {
    const button = document.createElement("button");
    const ends = [circuit.layers[0], circuit.layers.at(-1)];
    const names = part.neurons.filter((id) => !ends.includes(circuit.neuron(id).layer)).map((id) => `neuron:${id}`);
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

  /** @param {Part} part */
  function lightPart(part) {
    const inside = new Set(part.neurons);
    picture?.light(part.neurons, circuit.connections.filter(({ source, target }) => inside.has(source) && inside.has(target)).map(({ key }) => key));
  }

  // --- looking and selecting

  /** @param {string} kind @param {string} id @returns {?import("./instrument/card.js").Properties} */
  function properties(kind, id) {
    if (kind === "connection") return ofConnection(circuit, id, cost);
    if (kind === "neuron") return circuit.neurons.has(id) ? ofNeuron(circuit, id, loaded?.computed ? loaded.ranges : undefined, harms.get(id)) : null;
    const part = partOf(id);
    if (!part) return null;
    const inner = new Set(part.neurons);
    const connections = circuit.connections.filter(({ source, target }) => inner.has(source) && inner.has(target));
    /** @type {import("./instrument/card.js").Lines} */
    const lines = [["neuron", "neurons", String(part.neurons.length)], ["connection cost", "connections inside", String(connections.length)]];
    if (part.note) lines.unshift(["", "note", part.note]);
    return { title: `${partName(part)}: ${part.role}`, lines };
  }

  /** Highlights something with its neighbours and shows its properties; null: what is selected again. @param {?string} kind @param {string} [id] @param {number} [x] @param {number} [y] */
  function look(kind, id = "", x = undefined, y = 0) {
    if (!kind) {
      card.show(null);
      if (pinned?.[0] === "part") lightUp(...pinned);
      else picture?.light([], []);
      return;
    }
    lightUp(kind, id);
    const found = properties(kind, id);
    if (x === undefined) {
      const place = picture?.neurons.get(id)?.getBoundingClientRect();
      if (place) card.show(found, place.x, place.y);
    } else card.show(found, x, y);
  }

  /** @param {string} kind @param {string} id */
  function lightUp(kind, id) {
    if (!picture) return;
    if (kind === "part") {
      const part = partOf(id);
      return part && lightPart(part);
    }
    if (kind === "connection") {
      const each = circuit.byKey.get(id);
      return each && picture.light([each.source, each.target], [id]);
    }
    const near = [...circuit.into(id), ...circuit.outOf(id)];
    picture.light([id, ...near.flatMap(({ source, target }) => [source, target])], near.map(({ key }) => key));
  }

  /** @param {string} kind @param {string} id */
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
    offerNaming();
    if (!found) return look(null);
    const [title, button] = [document.createElement("h3"), document.createElement("button")];
    title.append(...typeset(found.title));
    button.type = "button";
    const what = kind === "part" ? "module" : kind;
    button.textContent = view.off.includes(`${what}:${id}`) ? "Restore" : "Silence";
    button.addEventListener("click", () => toggle(what, id));
    const whole = kind !== "part" || !circuit.levels.trees.some((part) => part.name === id);
    field("selected").replaceChildren(title, list(found.lines), ...(whole && silences ? [button] : []));
    look(null);
    if (kind === "neuron") learnHarm(id);
  }

  /** Where a module or group is selected, in the list and on the cards, it can be named. */
  function offerNaming() {
    for (const old of all(document, "details.to-name", HTMLDetailsElement)) old.remove();
    if (!panel.dataset.mayName) return;
    const offered = [pinned?.[0] === "part" && [pinned[1], "#parts > li", "part"], view.module && [view.module, ".modules > li", "module"]];
    for (const each of offered) {
      if (!each) continue;
      const [name, where, key] = each;
      const part = [...circuit.levels.outputs, ...circuit.levels.groups].find((one) => one.name === name);
      const item = all(document, where, HTMLElement).find((one) => one.dataset[key] === name);
      if (part && item) item.append(nameForm(part));
    }
  }

  /** Names a part and says something of it, in place. @param {Part} part */
  function nameForm(part) {
    const id = part.name;
    const details = document.createElement("details");
    details.className = "to-name";
    const form = document.createElement("form");
    /** @param {string} words @param {HTMLElement} control */
    const label = (words, control) => {
      const each = document.createElement("label");
      each.append(words, control);
      return each;
    };
    const summary = Object.assign(document.createElement("summary"), { textContent: part.given || part.note ? "Rename" : "Name it" });
    const name = Object.assign(document.createElement("input"), { name: "name", maxLength: 60, value: part.given ?? "" });
    const note = Object.assign(document.createElement("textarea"), { name: "note", maxLength: 1000, value: part.note ?? "", rows: 2 });
    note.className = "short";
    form.className = "naming";
    form.append(label("Name", name), label("Note", note), Object.assign(document.createElement("button"), { textContent: "Save" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(
        find(form, "button", HTMLButtonElement),
        async () => {
          /** @type {NamesOut} */
          const { names } = await call("GET", `/runs/${run}/names`);
          const seen = names[id];
          if ((seen?.name ?? "") !== (part.given ?? "") || (seen?.note ?? "") !== (part.note ?? "")) throw new Problem({ detail: `Someone else has named ${id} meanwhile: ${seen?.name || "without a name"}. Load the page again.` }, 409);
          /** @type {NamesOut} */
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
    for (const neuron of all(page, "svg.network .neuron", SVGElement)) {
      const [title, own] = [neuron, picture?.neurons.get(idOf(neuron))].map((each) => each?.querySelector("title"));
      if (title && own) own.textContent = title.textContent;
    }
    for (const where of [".modules .light", ".inside th[scope=row]", ".effects th[scope=row]", ".heat text"]) {
      const now = [...page.querySelectorAll(where)];
      document.querySelectorAll(where).forEach((each, at) => now[at] && each.replaceChildren(...now[at].cloneNode(true).childNodes));
    }
  }

  /** @param {string} id */
  async function learnHarm(id) {
    if (harms.has(id) || !loaded?.computed) return;
    const found = await sampled()?.ask("harm", { neurons: [id], connections: [], how: "mean", below: 0 });
    if (!found) return;
    const [name] = Object.keys(found.metrics);
    harms.set(id, `${measured(name, loaded.before[name])} → ${measured(name, found.metrics[name])}`);
    if (view.at === `neuron:${id}`) showSelected();
  }

  if (picture) {
    const { svg } = picture;
    let over = ""; // what the pointer is over, as `kind:id`
    /** @param {Event} event @returns {?[kind: string, id: string]} */
    const aimed = (event) => {
      const neuron = around(event, ".neuron:not(.unused)", SVGElement);
      if (neuron) return ["neuron", idOf(neuron)];
      const connection = around(event, "[data-connection]", SVGElement);
      return connection && ["connection", connection.dataset.connection ?? ""];
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
      const touched = event instanceof PointerEvent && event.pointerType === "touch";
      if (event.shiftKey || touched || !silences) return select(...found);
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
      (/** @type {Error} */ problem) => {
        panel.dataset.sample = "none";
        field("sample-words").replaceChildren(sentence(`Nothing is computed in the browser: ${problem.message}`));
      },
    );
    return instrument.sample;
  }
  // --- a row of one's own

  const MATTERS = 0.1; // of the largest share in what a neuron receives; what carries less is not lit

  onSubmit("row", async () => {
    const form = field("row", HTMLFormElement);
    field("predicted").textContent = "A worker is computing it …";
    field("path-words").textContent = "";
    /** @type {PredictOut} */
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

  /** Lights the connections that carry this row: from each output back, those with a share in what a neuron receives. @param {number[]} [values] */
  async function lightPath(values) {
    const sample = sampled();
    if (!sample || !values || !picture || !(await sample.ready).computed) return;
    const { held } = (await sample.ask("row", { values: /** @type {number[]} */ (values.flat(Infinity)) })) ?? {};
    if (!held) return;
    /** @param {Connection} each */
    const carried = (each) => {
      const { layer, slot } = circuit.neuron(each.source);
      return Math.abs(each.weight * (held[layer]?.[slot] ?? 0));
    };
    /** @type {Set<string>[]} */
    const [neurons, keys] = [new Set(), new Set()];
    const left = [...circuit.neurons.values()].filter(({ id, layer }) => layer === circuit.layers.at(-1) && circuit.isWired(id)).map(({ id }) => id);
    for (let id; (id = left.pop()) !== undefined; ) {
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

  for (const name of ["pointerenter", "focusin"]) for (const each of all(panel, ".stage, #parts", HTMLElement)) each.addEventListener(name, sampled);

  showLevels();
  const off = (instrument.silencing = silencing(instrument));
  threshold(instrument);
  if (!view.cut) colour(null);
  /** @type {Awaited<ReturnType<typeof stepping>>} */
  let steps; // once the step that the address names is shown
  const begun = stepping(instrument).then((found) => (steps = found));
  await Promise.race([begun, null]);
  for (const box of all(panel, "input[name=level]", HTMLInputElement)) box.addEventListener("change", () => change({ level: box.value }));
  for (const button of all(document, "button[data-cut]", HTMLButtonElement)) {
    button.hidden = false;
    button.addEventListener("click", () => change({ off: [...new Set([...view.off, ...(button.dataset.cut ?? "").split(" ").map((key) => `connection:${key}`)])] }));
  }
  onChange((values) => {
    if ("level" in values) {
      showLevels();
      if (!view.cut) colour(null);
      off.render();
      showSelected();
    } else if ("module" in values) offerNaming();
    if ("off" in values) for (const say of treeSwitches) say();
    if ("at" in values || "off" in values) showSelected();
  });
  if (view.at) showSelected();
  else offerNaming();
  /** Whether a key does something here. @param {string} key */
  const works = (key) => {
    if (key === "X") return silences;
    if (key === " " || key === "Space") return Boolean(steps);
    if (key === "L") return LEVELS.filter((name) => circuit.levels[name].length).length > 1;
    return picture !== null || key === "?" || key === "Escape";
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || around(event, "input, select, textarea, dialog", HTMLElement)) return;
    if (event.key === "?") showKeys(works);
    else if (event.key.toLowerCase() === "l") {
      const there = LEVELS.filter((name) => circuit.levels[name].length);
      if (there.length) change({ level: there[(there.indexOf(level()) + 1) % there.length] });
    } else if (event.key === "Escape") {
      if (view.at || view.module) change({ at: "", module: "" });
      else if (view.off.length) change({ off: [] });
    } else if (event.key === " " && steps && (around(event, ".neuron", SVGElement) || !around(event, "button, a, summary, [tabindex]", Element))) {
      steps.toggle();
      event.preventDefault();
    }
  });
  field("keys").addEventListener("click", () => showKeys(works));
  panel.dataset.ready = "yes";
}

/** The cells of the form by column: numbers, texts, true or false; an empty one is missing. @param {HTMLFormElement} form */
function rowOf(form) {
  const cells = [...form.querySelectorAll("[data-column]")].filter((each) => each instanceof HTMLInputElement || each instanceof HTMLSelectElement).map(({ dataset, value }) => {
    const text = value.trim();
    if (!text) return [dataset.column, null];
    if (dataset.kind === "boolean" && /^(true|false)$/i.test(text)) return [dataset.column, /^true$/i.test(text)];
    const number = Number(text.replace(",", "."));
    return [dataset.column, ["number", "integer"].includes(dataset.kind ?? "") && !Number.isNaN(number) ? number : text];
  });
  return Object.fromEntries(cells);
}

/** @param {PredictOut} found */
function answerOf({ targets, outputs, probabilities, labels }) {
  if (labels && probabilities) {
    const [shares] = probabilities;
    const ranked = targets.map((name, at) => ({ name, share: shares[at] })).sort((a, b) => b.share - a.share);
    return `${labels[0]} (${ranked.slice(0, 3).map(({ name, share }) => `${name} ${percent(share)}`).join(", ")})`;
  }
  return targets.map((name, at) => `${name} = ${number(outputs?.[0][at])}`).join(", ");
}

/** @param {(key: string) => boolean} works */
function showKeys(works) {
  const found = document.createElement("dl");
  found.className = "keys";
  for (const [key, words] of KEYS.filter(([key]) => works(key))) {
    const [row, name, said] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    name.append(...key.split(" ").flatMap((each) => [Object.assign(document.createElement("kbd"), { textContent: each }), " "]));
    said.textContent = key === "Escape" && !works("X") ? "clear the selection" : words;
    row.append(name, said);
    found.append(row);
  }
  tell("Keys", found);
}

if (root) {
  begin(root).catch((/** @type {Error} */ problem) => {
    field("sample-words").replaceChildren(sentence(`The interactive view could not be loaded: ${problem.message}`));
  });
}
