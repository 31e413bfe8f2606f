// The properties of a neuron or a connection: on a card beside the pointer, and in the panel when it is selected.

import { number, percent, typeset } from "../api.js";
import { partName } from "./circuit.js";
import { explained } from "../glossary.js";

/** @typedef {[term: string, label: string, value: string][]} Lines of a card; term: of the glossary or "" */
/** @typedef {{title: string, lines: Lines}} Properties */

/** @param {number} value */
const activation = (value) => number(Math.abs(value) < 1e-9 ? 0 : value); // what rounding leaves of 0 is 0
const MOST = 4; // neighbours that are named

/**
 * What a card says of a connection.
 * @param {import("./circuit.js").Circuit} circuit
 * @param {string} key
 * @param {{locality: number, spacing: number}} cost
 * @returns {?Properties}
 */
export function ofConnection(circuit, key, cost) {
  const each = circuit.byKey.get(key);
  if (!each) return null;
  const inside = levelsOf(circuit, [each.source, each.target]);
  /** @type {Lines} */
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
 * @param {import("./circuit.js").Circuit} circuit
 * @param {string} id
 * @param {import("./worker.js").Ranges} [range] least and most of its activation over the sample, where that was computed
 * @param {string} [harm] the metric without it, in words
 * @returns {Properties}
 */
export function ofNeuron(circuit, id, range, harm) {
  const neuron = circuit.neuron(id);
  const [layer, place] = [neuron.layer, neuron.slot];
  const spread = `${activation(neuron.mean)} ± ${activation(neuron.std)}`;
  const seen = range?.[layer] ? `, ${activation(range[layer].least[place])} to ${activation(range[layer].most[place])}` : "";
  /** @type {Lines} */
  const lines = [["activation axis", "activation", spread + seen]];
  if (neuron.bias !== null && neuron.bias !== undefined) lines.push(["neuron", "bias", number(neuron.bias)]);
  if (circuit.into(id).length) lines.push(["", "reads", neighbours(circuit, circuit.into(id), "source")]);
  if (circuit.outOf(id).length) lines.push(["", "feeds", neighbours(circuit, circuit.outOf(id), "target")]);
  lines.push(...levelsOf(circuit, [id]));
  if (harm) lines.push(["effect", "without it", harm]);
  return { title: circuit.called(id), lines };
}

/** @type {[import("./circuit.js").Level, string][]} */
const LEVELS = [["outputs", "module"], ["groups", "group"], ["trees", "tree"]];

/** A line for each level at which one part holds all these neurons. @param {import("./circuit.js").Circuit} circuit @param {string[]} ids @returns {Lines} */
function levelsOf(circuit, ids) {
  return LEVELS.flatMap(([level, word]) => circuit.levels[level].filter(({ neurons }) => ids.every((id) => neurons.includes(id))).map((part) => /** @type {Lines[0]} */ ([word, word, `${partName(part)}: ${part.role}`])));
}

/** @param {import("./circuit.js").Circuit} circuit @param {Connection[]} connections @param {"source"|"target"} end */
function neighbours(circuit, connections, end) {
  const shown = connections.slice(0, MOST).map((each) => `${circuit.called(each[end])} (${number(each.weight)})`);
  return shown.join(", ") + (connections.length > MOST ? ` and ${connections.length - MOST} more` : "");
}

/** The lines as a definition list. @param {Lines} lines */
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

  /** @param {?Properties} found null hides it @param {number} x in the window @param {number} y */
  show(found, x = 0, y = 0) {
    this.element.hidden = !found;
    if (!found) return;
    const title = document.createElement("strong");
    title.append(...typeset(found.title));
    this.element.replaceChildren(title, list(found.lines.map(([, label, value]) => ["", label, value])));
    this.move(x, y);
  }

  /** Puts the card beside a point of the window, within the picture's frame. @param {number} x @param {number} y */
  move(x, y) {
    const [width, height] = [this.element.offsetWidth, this.element.offsetHeight];
    const stage = (this.element.parentElement ?? this.element).getBoundingClientRect();
    const left = Math.min(Math.max(4, x - stage.left + 18), stage.width - width - 4);
    const above = y - stage.top - height - 14;
    this.element.style.setProperty("transform", `translate(${left}px, ${above > 4 ? above : y - stage.top + 20}px)`);
  }
}
