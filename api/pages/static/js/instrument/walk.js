// Neurons by keyboard: one stop for Tab, arrows from neuron to neuron, Enter selects, X silences, Escape lets go.

export const KEYS = [
  ["← →", "the neuron beside it in its layer"],
  ["↑ ↓", "along its strongest connection, towards the outputs or the inputs"],
  ["Home End", "the first and the last neuron of its layer"],
  ["Enter", "select it"],
  ["X", "silence it, or restore it"],
  ["Escape", "let go of what is selected, or restore everything that is silenced"],
  ["L", "the next level of modules"],
  ["Space", "play the training, or pause"],
  ["?", "these keys"],
];

/** @param {{circuit: import("./circuit.js").Circuit, picture: import("./picture.js").Picture, look: Function, select: Function, silence: Function}} instrument */
export function walk({ circuit, picture, look, select, silence }) {
  const stops = [...picture.neurons.values()].filter((each) => circuit.isWired(each.dataset.neuron));
  if (!stops.length) return;
  const x = (each) => Number(each.querySelector("circle").getAttribute("cx"));
  const layerOf = (each) => circuit.neurons.get(each.dataset.neuron).layer;
  const rows = new Map(circuit.layers.map((layer) => [layer, stops.filter((each) => layerOf(each) === layer).sort((a, b) => x(a) - x(b))]));
  let here = stops.find((each) => layerOf(each) === circuit.layers.at(-1)) ?? stops[0];
  picture.svg.setAttribute("role", "group");
  for (const each of stops) {
    each.setAttribute("role", "button");
    each.setAttribute("aria-label", each.querySelector("title").textContent);
    each.setAttribute("tabindex", each === here ? "0" : "-1");
  }

  function go(next) {
    if (!next) return;
    here.setAttribute("tabindex", "-1");
    here = next;
    here.setAttribute("tabindex", "0");
    here.focus();
  }
  const along = (connections, end) => picture.neurons.get(connections.find((each) => each.source !== each.target)?.[end]);
  const moves = {
    ArrowLeft: (id, row, at) => row[at - 1],
    ArrowRight: (id, row, at) => row[at + 1],
    ArrowUp: (id) => along(circuit.outOf(id), "target"),
    ArrowDown: (id) => along(circuit.into(id), "source"),
    Home: (id, row) => row[0],
    End: (id, row) => row.at(-1),
  };
  picture.svg.addEventListener("focusin", ({ target }) => {
    const neuron = target.closest(".neuron");
    if (!neuron || !neuron.matches(":focus-visible")) return;
    look("neuron", neuron.dataset.neuron);
  });
  picture.svg.addEventListener("focusout", () => look(null));
  picture.svg.addEventListener("keydown", (event) => {
    const neuron = event.target.closest(".neuron");
    if (!neuron || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") return event.preventDefault(); // the page would scroll; instrument.js plays the training
    const id = neuron.dataset.neuron;
    const row = rows.get(layerOf(neuron));
    if (event.key in moves) go(moves[event.key](id, row, row.indexOf(neuron)));
    else if (event.key === "Enter") select("neuron", id);
    else if (event.key.toLowerCase() === "x") silence("neuron", id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}
