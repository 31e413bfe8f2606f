// A web worker that holds a probe and answers what becomes of its outputs. One message in, one message out.

import { asProblem, waitFor } from "../api.js";
import { Network, holding, isComputedHere } from "./forward.js";
import { effects, metrics } from "./metrics.js";

/** @typedef {Record<string, {least: Float64Array, most: Float64Array}>} Ranges of the activation of each place, by layer */
/** @typedef {{neurons: string[], connections: string[], how: string, below: number}} Asked what is off; connections lighter than `below`, too */
/** @typedef {{computed: false, geometry: Geometry} | {computed: true, geometry: Geometry, before: Record<string, number>, ranges: Ranges, heldOut: number, ofHeldOut: number}} Loaded */
/** @typedef {{metrics: Record<string, number>, effects: Record<string, number>}} Tried */
/** @typedef {typeof ANSWERS} Answers */

/** @type {{probe: ProbeOut, network: Network, before: Float64Array}} */
let loaded; // the first question loads it
/** @type {Ranges} */
const ranges = {};
let last = { question: "", answer: /** @type {?Tried} */ (null) }; // silencing a neuron asks for its harm as well

const ANSWERS = {
  /** Loads the probe and computes what nothing is changed in. */
  /** @param {{address: string}} asked @returns {Promise<Loaded>} */
  async load({ address }) {
    /** @type {ProbeOut} */
    const probe = await waitFor("GET", `${address}?wait=20`);
    const geometry = { layers: probe.layers, connections: probe.connections };
    if (!isComputedHere(probe)) return { computed: false, geometry };
    const network = new Network(probe);
    const before = network.outputs(probe.examples.inputs.values, remember);
    loaded = { probe, network, before };
    return { computed: true, geometry, before: metrics(probe, before), ranges, heldOut: probe.examples.held_out, ofHeldOut: probe.examples.of_held_out };
  },
  /** Metrics and effects while neurons are held, connections gone, and those lighter than a threshold gone as well. @param {Asked} asked */
  trial({ neurons, connections, how, below }) {
    const question = JSON.stringify([neurons, connections, how, below]);
    if (last.answer && last.question === question) return last.answer;
    const { probe, before } = loaded;
    const after = changed(connections, below).outputs(probe.examples.inputs.values, holding(probe, neurons, how));
    const answer = { metrics: metrics(probe, after), effects: effects(probe.targets, probe.examples.count, before, after) };
    last = { question, answer };
    return answer;
  },
  /** What is lost without a single neuron that was selected. @param {Asked} asked */
  harm: (asked) => ANSWERS.trial(asked),
  /** The same while the threshold moves; a question of its own, so that neither replaces the other. @param {Asked} asked */
  cut: (asked) => ANSWERS.trial(asked),
  /** What every place holds for one row, as the network reads it; of layers that are computed again and again, at last. @param {{values: number[]}} asked */
  row({ values }) {
    /** @type {Record<string, number[]>} */
    const held = {};
    loaded.network.outputs(values, (layer, found, places) => (held[layer] = Array.from(found.slice(-places))));
    return { held };
  },
  /** The loss at each threshold. @param {{thresholds: number[]}} asked */
  curve({ thresholds }) {
    const { probe } = loaded;
    return { losses: thresholds.map((below) => metrics(probe, changed([], below).outputs(probe.examples.inputs.values)).validation_prediction_loss) };
  },
};

/** @param {string[]} connections @param {number} below */
function changed(connections, below) {
  if (!connections.length && !below) return loaded.network;
  const off = new Set(connections);
  return loaded.network.without((parameter, row, column, weight) => Math.abs(weight) >= below && !off.has(`${parameter}[${row},${column}]`));
}

/** The smallest and largest activation of each place, over the sample. @type {import("./forward.js").Hook} */
function remember(layer, values, places) {
  const of = (ranges[layer] ??= { least: new Float64Array(places).fill(Infinity), most: new Float64Array(places).fill(-Infinity) });
  for (let i = 0; i < values.length; i++) {
    const place = i % places;
    if (values[i] < of.least[place]) of.least[place] = values[i];
    if (values[i] > of.most[place]) of.most[place] = values[i];
  }
}

addEventListener("message", async ({ data: { id, kind, ...asked } }) => {
  try {
    postMessage({ id, answer: await ANSWERS[/** @type {keyof typeof ANSWERS} */ (kind)](asked) });
  } catch (problem) {
    postMessage({ id, problem: asProblem(problem).message });
  }
});
