// A web worker that holds a probe and answers what becomes of its outputs. One message in, one message out.

import { waitFor } from "../api.js";
import { Network, holding, isComputedHere } from "./forward.js";
import { effects, metrics } from "./metrics.js";

/** @type {?Network} */
let network = null;
let [probe, before, ranges] = [null, null, {}];

const ANSWERS = {
  /** Loads the probe and computes what nothing is changed in. */
  async load({ address }) {
    probe = await waitFor("GET", `${address}?wait=20`);
    const geometry = { layers: probe.layers, connections: probe.connections };
    if (!isComputedHere(probe)) return { computed: false, geometry };
    network = new Network(probe);
    before = network.outputs(probe.examples.inputs.values, remember);
    return { computed: true, geometry, before: metrics(probe, before), ranges, heldOut: probe.examples.held_out, ofHeldOut: probe.examples.of_held_out };
  },
  /** Metrics and effects while neurons are held, connections gone, and those lighter than a threshold gone as well. */
  trial({ neurons, connections, how, below }) {
    const after = changed(connections, below).outputs(probe.examples.inputs.values, holding(probe, neurons, how));
    return { metrics: metrics(probe, after), effects: effects(probe.targets, probe.examples.count, before, after) };
  },
  /** What is lost without a single neuron that was selected. */
  harm: (asked) => ANSWERS.trial(asked),
  /** The same while the threshold moves; a question of its own, so that neither replaces the other. */
  cut: (asked) => ANSWERS.trial(asked),
  /** What every place holds for one row, as the network reads it; of layers that are computed again and again, at last. */
  row({ values }) {
    const held = {};
    network.outputs(values, (layer, found, places) => (held[layer] = Array.from(found.slice(-places))));
    return { held };
  },
  /** The loss at each threshold. */
  curve({ thresholds }) {
    return { losses: thresholds.map((below) => metrics(probe, changed([], below).outputs(probe.examples.inputs.values)).validation_prediction_loss) };
  },
};

function changed(connections, below) {
  if (!connections.length && !below) return network;
  const off = new Set(connections);
  return network.without((parameter, row, column, weight) => Math.abs(weight) >= below && !off.has(`${parameter}[${row},${column}]`));
}

// The smallest and largest activation of each place, over the sample.
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
    postMessage({ id, answer: await ANSWERS[kind](asked) });
  } catch (problem) {
    postMessage({ id, problem: problem.message });
  }
});
