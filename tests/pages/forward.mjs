// node forward.mjs PROBE REQUESTS: outputs of a probe, then metrics and effects under each request, as JSON.
import { readFileSync } from "node:fs";
import { Network, holding, isComputedHere } from "../../api/pages/static/js/instrument/forward.js";
import { effects, metrics } from "../../api/pages/static/js/instrument/metrics.js";

const [probe, requests] = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, "utf8")));
if (!isComputedHere(probe)) throw new Error(`${probe.network.kind} is not computed in a browser`);
const network = new Network(probe);
const inputs = probe.examples.inputs.values;
const before = network.outputs(inputs);
const under = requests.map(({ neurons, connections, how }) => {
  const off = new Set(connections);
  const changed = off.size ? network.without((parameter, row, column) => !off.has(`${parameter}[${row},${column}]`)) : network;
  const after = changed.outputs(inputs, holding(probe, neurons, how));
  return { metrics: metrics(probe, after), effects: effects(probe.targets, probe.examples.count, before, after) };
});
console.log(JSON.stringify({ outputs: [...before], before: metrics(probe, before), under }));
