// The properties of a neuron or a connection: on a card beside the pointer, and in the panel when it is selected.

import { number, percent, typeset } from "../api.js";
import { partName } from "./circuit.js";
import { explained } from "../glossary.js";

const activation = (value) => number(Math.abs(value) < 1e-9 ? 0 : value); // what rounding leaves of 0 is 0
const MOST = 4; // neighbours that are named

/**
 * Lines of a card: [term of the glossary or "", label, value].
 * @param {import("./circuit.js").Circuit} circuit
 * @param {string} key
 * @param {{locality: number, spacing: number}} cost
 */
export function ofConnection(circuit, key, cost) {
  const each = circuit.byKey.get(key);
  if (!each) return null;
  const inside = levelsOf(circuit, [each.source, each.target]);
  const harm = each.effect === null || each.effect === undefined ? [] : [["prediction loss", "loss without it", `${each.effect > 0 ? "+" : ""}${number(each.effect)}`]];
  return {
    title: `${circuit.called(each.source)} → ${circuit.called(each.target)}`,
    lines: [
      ["weight layer", "weight", number(each.weight)],
      ["connection cost", "length", `${number(each.length)} layer widths`],
      ["connection cost", "share of the cost", percent(circuit.costShare(each, cost))],
      ...inside,
      ...harm,
    ],
  };
}

/**
 * The same of a neuron.
 * @param {?object} range least and most of its activation over the sample, where that was computed
 * @param {?string} harm the metric without it, in words
 */
export function ofNeuron(circuit, id, range, harm) {
  const neuron = circuit.neurons.get(id);
  const [layer, place] = [neuron.layer, neuron.slot];
  const spread = `${activation(neuron.mean)} ± ${activation(neuron.std)}`;
  const seen = range?.[layer] ? `, ${activation(range[layer].least[place])} to ${activation(range[layer].most[place])}` : "";
  return {
    title: circuit.called(id),
    lines: [
      ["activation axis", "activation", spread + seen],
      ...(neuron.bias === null || neuron.bias === undefined ? [] : [["neuron", "bias", number(neuron.bias)]]),
      ...(circuit.into(id).length ? [["", "reads", neighbours(circuit, circuit.into(id), "source")]] : []),
      ...(circuit.outOf(id).length ? [["", "feeds", neighbours(circuit, circuit.outOf(id), "target")]] : []),
      ...levelsOf(circuit, [id]),
      ...(harm ? [["effect", "without it", harm]] : []),
    ],
  };
}

const LEVELS = { outputs: "module", groups: "group", trees: "tree" };

/** A line for each level at which one part holds all these neurons. */
function levelsOf(circuit, ids) {
  return Object.entries(circuit.levels).flatMap(([level, parts]) => parts.filter(({ neurons }) => ids.every((id) => neurons.includes(id))).map((part) => [LEVELS[level], LEVELS[level], `${partName(part)}: ${part.role}`]));
}

function neighbours(circuit, connections, end) {
  const shown = connections.slice(0, MOST).map((each) => `${circuit.called(each[end])} (${number(each.weight)})`);
  return shown.join(", ") + (connections.length > MOST ? ` and ${connections.length - MOST} more` : "");
}

/** The lines as a definition list. */
export function list(lines) {
  const found = document.createElement("dl");
  found.className = "properties";
  for (const [term, label, value] of lines) {
    const [row, name, words] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    name.append(term ? explained(term, label) : label);
    words.append(...typeset(value));
    row.append(name, words);
    found.append(row);
  }
  return found;
}

/** The card beside the pointer. */
export class Card {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
  }

  /** @param {?{title: string, lines: string[][]}} found null hides it · x, y in the window */
  show(found, x = 0, y = 0) {
    this.element.hidden = !found;
    if (!found) return;
    const title = document.createElement("strong");
    title.append(...typeset(found.title));
    this.element.replaceChildren(title, list(found.lines.map(([, label, value]) => ["", label, value])));
    this.move(x, y);
  }

  /** Puts the card beside a point of the window, within the picture's frame. */
  move(x, y) {
    const [width, height] = [this.element.offsetWidth, this.element.offsetHeight];
    const stage = this.element.parentElement.getBoundingClientRect();
    const left = Math.min(Math.max(4, x - stage.left + 18), stage.width - width - 4);
    const above = y - stage.top - height - 14;
    this.element.style.setProperty("transform", `translate(${left}px, ${above > 4 ? above : y - stage.top + 20}px)`);
  }
}
