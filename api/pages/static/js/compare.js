// Two networks side by side, linked: what is pointed at or selected in one is marked in the other where the same inputs
// lead to it and it leads to the same outputs.

import { call, sentence, typeset } from "./api.js";
import { Circuit, listed } from "./instrument/circuit.js";
import { Picture, walk } from "./instrument/picture.js";

const words = document.getElementById("linked-words");

/** One of the two: its circuit, its picture, and neuron → what leads to it and what it leads to, as text. */
class Side {
  constructor(figure, graph) {
    this.circuit = new Circuit(graph, null, []);
    this.picture = new Picture(figure.querySelector("svg.network"));
    const ends = new Map();
    const [first, last] = [this.circuit.layers[0], this.circuit.layers.at(-1)];
    for (const id of this.circuit.neurons.keys()) {
      if (!this.circuit.isWired(id)) continue;
      const inputs = this.names(id, "into", "source", first);
      const outputs = this.names(id, "outOf", "target", last);
      const layer = this.circuit.neurons.get(id).layer;
      const place = layer === first ? "input" : layer === last ? "output" : "hidden";
      const own = place === "hidden" ? "" : this.circuit.called(id);
      ends.set(id, { inputs, outputs, place, key: own ? `${place} ${own}` : JSON.stringify([inputs, outputs]) });
    }
    this.ends = ends;
  }

  /** Names of the neurons of a layer that are reached from a neuron along its connections. */
  names(id, step, end, layer) {
    const [seen, left] = [new Set([id]), [id]];
    while (left.length) {
      for (const each of this.circuit[step](left.pop())) {
        if (seen.has(each[end])) continue;
        seen.add(each[end]);
        left.push(each[end]);
      }
    }
    return [...seen].filter((each) => this.circuit.neurons.get(each).layer === layer).map((each) => this.circuit.called(each)).sort();
  }

  like(key) {
    return [...this.ends].filter(([, each]) => each.key === key).map(([id]) => id);
  }

  inModule(name) {
    return [...this.circuit.neurons.values()].filter((each) => name && each.module === name).map(({ id }) => id);
  }

  /** Marks neurons with the connections between them; of a single one, with those that touch it. */
  mark(ids) {
    const inside = new Set(ids);
    const near = this.circuit.connections.filter(({ source, target }) => (ids.length === 1 ? inside.has(source) || inside.has(target) : inside.has(source) && inside.has(target)));
    this.picture.light(ids, near.map(({ key }) => key));
  }
}

async function begin() {
  const figures = [...document.querySelectorAll("figure[data-graph]")];
  if (figures.length !== 2 || figures.some((figure) => !figure.querySelector("svg.network"))) return;
  const sides = (await Promise.all(figures.map((figure) => call("GET", figure.dataset.graph)))).map((graph, which) => new Side(figures[which], graph));
  let pinned = null; // what is selected: marks both when nothing is pointed at

  function mark(ids, said) {
    sides.forEach((side, which) => side.mark(ids[which]));
    words.replaceChildren(...typeset(said));
  }

  function ofNeuron(which, id) {
    const { key, place, inputs, outputs } = sides[which].ends.get(id);
    const other = sides[1 - which].like(key);
    const ids = which ? [other, [id]] : [[id], other];
    const name = sides[which].circuit.called(id);
    const role = place === "hidden" ? `${listed(inputs, 6)} → ${listed(outputs, 6)}` : `an ${place}`;
    const found = other.length ? other.map((each) => sides[1 - which].circuit.called(each)).join(", ") : "none";
    return () => mark(ids, `${name}: ${role}. In the other: ${found}.`);
  }

  const look = (show) => (show ?? pinned?.show ?? (() => mark([[], []], "")))();

  function select(name, show) {
    pinned = pinned?.name === name ? null : { name, show };
    history.replaceState(null, "", pinned ? `#${name}` : location.pathname + location.search);
    for (const button of document.querySelectorAll("button[data-pair]")) button.setAttribute("aria-pressed", String(pinned?.name === button.dataset.pair));
    look(null);
  }

  const named = new Map(); // name in the address → what shows it
  sides.forEach((side, which) => {
    for (const id of side.ends.keys()) named.set(`${"ab"[which]}:${id}`, ofNeuron(which, id));
    const shown = (id) => named.get(`${"ab"[which]}:${id}`);
    const { svg } = side.picture;
    const aimed = (event) => event.target.closest(".neuron:not(.unused)")?.dataset.neuron;
    svg.classList.add("pressable");
    svg.addEventListener("pointermove", (event) => look(shown(aimed(event))));
    svg.addEventListener("pointerleave", () => look(null));
    svg.addEventListener("click", (event) => aimed(event) && select(`${"ab"[which]}:${aimed(event)}`, shown(aimed(event))));
    walk({ circuit: side.circuit, picture: side.picture, look: (kind, id) => look(kind && shown(id)), select: (_, id) => select(`${"ab"[which]}:${id}`, shown(id)), silence: () => {} });
  });
  for (const button of document.querySelectorAll("button[data-pair]")) {
    const { a, b, pair } = button.dataset;
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
  document.getElementById("sides").dataset.ready = "yes";
}

begin().catch((problem) => (words.replaceChildren(sentence(`The two are not linked: ${problem.message}`))));
