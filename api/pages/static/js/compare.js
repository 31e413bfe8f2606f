// Two networks side by side, linked: what is pointed at or selected in one is marked in the other where the same inputs
// lead to it and it leads to the same outputs.

import { all, around, asProblem, call, field, find, sentence, typeset } from "./api.js";
import { Circuit, listed } from "./instrument/circuit.js";
import { Picture, idOf, walk } from "./instrument/picture.js";

const words = field("linked-words");

/** @typedef {{inputs: string[], outputs: string[], place: string, key: string}} Ends of a neuron: what leads to it, and what it leads to */

/** One of the two: its circuit, its picture, and neuron → what leads to it and what it leads to, as text. */
class Side {
  /** @param {HTMLElement} figure @param {GraphOut} graph */
  constructor(figure, graph) {
    this.circuit = new Circuit(graph, null, []);
    this.picture = new Picture(find(figure, "svg.network", SVGSVGElement));
    /** @type {Map<string, Ends>} */
    const ends = new Map();
    const [first, last] = [this.circuit.layers[0], this.circuit.layers.at(-1)];
    for (const id of this.circuit.neurons.keys()) {
      if (!this.circuit.isWired(id)) continue;
      const inputs = this.names(id, "into", "source", first);
      const outputs = this.names(id, "outOf", "target", last);
      const layer = this.circuit.neuron(id).layer;
      const place = layer === first ? "input" : layer === last ? "output" : "hidden";
      const own = place === "hidden" ? "" : this.circuit.called(id);
      ends.set(id, { inputs, outputs, place, key: own ? `${place} ${own}` : JSON.stringify([inputs, outputs]) });
    }
    this.ends = ends;
  }

  /** Names of the neurons of a layer that are reached from a neuron along its connections. @param {string} id @param {"into"|"outOf"} step @param {"source"|"target"} end @param {string|undefined} layer */
  names(id, step, end, layer) {
    const [seen, left] = [new Set([id]), [id]];
    for (let here; (here = left.pop()) !== undefined; ) {
      for (const each of this.circuit[step](here)) {
        if (seen.has(each[end])) continue;
        seen.add(each[end]);
        left.push(each[end]);
      }
    }
    return [...seen].filter((each) => this.circuit.neuron(each).layer === layer).map((each) => this.circuit.called(each)).sort();
  }

  /** @param {string} key */
  like(key) {
    return [...this.ends].filter(([, each]) => each.key === key).map(([id]) => id);
  }

  /** @param {string} [name] */
  inModule(name) {
    return [...this.circuit.neurons.values()].filter((each) => name && each.module === name).map(({ id }) => id);
  }

  /** Marks neurons with the connections between them; of a single one, with those that touch it. @param {string[]} ids */
  mark(ids) {
    const inside = new Set(ids);
    const near = this.circuit.connections.filter(({ source, target }) => (ids.length === 1 ? inside.has(source) || inside.has(target) : inside.has(source) && inside.has(target)));
    this.picture.light(ids, near.map(({ key }) => key));
  }
}

async function begin() {
  const figures = all(document, "figure[data-graph]", HTMLElement);
  if (figures.length !== 2 || figures.some((figure) => !figure.querySelector("svg.network"))) return;
  const sides = await Promise.all(figures.map(async (figure) => new Side(figure, await call("GET", figure.dataset.graph ?? ""))));
  /** @type {?{name: string, show: () => void}} */
  let pinned = null; // what is selected: marks both when nothing is pointed at

  /** @param {string[][]} ids @param {string} said */
  function mark(ids, said) {
    sides.forEach((side, which) => side.mark(ids[which]));
    words.replaceChildren(...typeset(said));
  }

  /** @param {number} which @param {string} id @param {Ends} ends */
  function ofNeuron(which, id, { key, place, inputs, outputs }) {
    const other = sides[1 - which].like(key);
    const ids = which ? [other, [id]] : [[id], other];
    const name = sides[which].circuit.called(id);
    const role = place === "hidden" ? `${listed(inputs, 6)} → ${listed(outputs, 6)}` : `an ${place}`;
    const found = other.length ? other.map((each) => sides[1 - which].circuit.called(each)).join(", ") : "none";
    return () => mark(ids, `${name}: ${role}. In the other: ${found}.`);
  }

  /** @param {?() => void} [show] */
  const look = (show) => (show ?? pinned?.show ?? (() => mark([[], []], "")))();

  /** @param {string} name @param {() => void} [show] null or the selected one again: nothing is selected */
  function select(name, show) {
    pinned = pinned?.name === name || !show ? null : { name, show };
    history.replaceState(null, "", pinned ? `#${name}` : location.pathname + location.search);
    for (const button of all(document, "button[data-pair]", HTMLButtonElement)) button.setAttribute("aria-pressed", String(pinned?.name === button.dataset.pair));
    look(null);
  }

  /** @type {Map<string, () => void>} */
  const named = new Map(); // name in the address → what shows it
  sides.forEach((side, which) => {
    /** @param {string} id */
    const name = (id) => `${"ab"[which]}:${id}`;
    for (const [id, ends] of side.ends) named.set(name(id), ofNeuron(which, id, ends));
    const { svg } = side.picture;
    /** @param {Event} event */
    const aimed = (event) => {
      const neuron = around(event, ".neuron:not(.unused)", SVGElement);
      return neuron && name(idOf(neuron));
    };
    svg.classList.add("pressable");
    svg.addEventListener("pointermove", (event) => look(named.get(aimed(event) ?? "")));
    svg.addEventListener("pointerleave", () => look(null));
    svg.addEventListener("click", (event) => {
      const aim = aimed(event);
      if (aim) select(aim, named.get(aim));
    });
    walk({ circuit: side.circuit, picture: side.picture, look: (kind, id) => look(kind ? named.get(name(id)) : null), select: (_, id) => select(name(id), named.get(name(id))), silence: () => {} });
  });
  for (const button of all(document, "button[data-pair]", HTMLButtonElement)) {
    const { a, b, pair = "" } = button.dataset;
    const show = () => mark([sides[0].inModule(a), sides[1].inModule(b)], a && b ? `Module ${a} here and module ${b} there.` : `Module ${a || b} has no counterpart.`);
    named.set(pair, show);
    button.addEventListener("click", () => select(pair, show));
    button.addEventListener("pointerenter", () => look(show));
    button.addEventListener("pointerleave", () => look(null));
  }
  const asked = decodeURIComponent(location.hash.slice(1));
  if (named.has(asked)) select(asked, named.get(asked));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && pinned) select(pinned.name);
  });
  field("sides").dataset.ready = "yes";
}

begin().catch((problem) => (words.replaceChildren(sentence(`The two are not linked: ${asProblem(problem).message}`))));
