// What outputs are worth: loss, accuracy and effects, as bimt_engine/analysis measures them.

/** @typedef {(i: number) => number} Row an entry of a row by its number */

/**
 * Targets of a probe as rows: numbers of the steps that count side by side, or labels.
 * @param {ProbeOut} probe
 */
function targetsOf({ examples: { targets, count }, steps }) {
  const { shape, values } = targets;
  if (!steps || shape.length === 1) return { values, each: values.length / count };
  const width = values.length / (count * shape[1]);
  const rows = [];
  for (let example = 0; example < count; example++) for (const step of steps) for (let i = 0; i < width; i++) rows.push(values[(example * shape[1] + step) * width + i]);
  return { values: rows, each: steps.length * width };
}

/**
 * Loss and accuracy of each example.
 * @param {ProbeOut} probe
 * @param {Float64Array} outputs as `Network.outputs` gives them
 * @returns {{loss: Float64Array, right: ?Float64Array}} right: the share of its labels that are named rightly
 */
export function scores(probe, outputs) {
  const { values, each } = targetsOf(probe);
  const [count, classes] = [probe.examples.count, probe.targets.length];
  const width = outputs.length / count;
  const loss = new Float64Array(count);
  const classified = probe.task === "classification";
  const groups = classified ? [] : probe.label_groups ?? [];
  const right = classified || groups.length ? new Float64Array(count) : null;
  /** @param {Row} row @param {number[]} among */
  const largest = (row, among) => among.reduce((best, i) => (row(i) > row(best) ? i : best), among[0]);
  const all = Array.from({ length: classes }, (_, i) => i);
  for (let example = 0; example < count; example++) {
    /** @type {Row} */
    const output = (i) => outputs[example * width + i];
    /** @type {Row} */
    const target = (i) => values[example * each + i];
    if (classified) {
      for (let label = 0; label < each; label++) {
        /** @type {Row} */
        const score = (i) => output(label * classes + i);
        if (probe.loss === "cross_entropy") loss[example] += crossEntropy(score, classes, target(label)) / each;
        else for (let i = 0; i < classes; i++) loss[example] += ((score(i) - Number(i === target(label))) ** 2 * (probe.output_weights?.[i] ?? 1)) / classes;
        if (right) right[example] += Number(largest(score, all) === target(label)) / each;
      }
      continue;
    }
    for (let i = 0; i < width; i++) loss[example] += ((output(i) - target(i)) ** 2 * (probe.output_weights?.[i] ?? 1)) / width;
    if (right) for (const group of groups) right[example] += Number(largest(output, group) === largest(target, group)) / groups.length;
  }
  return { loss, right };
}

/** @param {Row} score @param {number} classes @param {number} label */
function crossEntropy(score, classes, label) {
  let most = -Infinity;
  for (let i = 0; i < classes; i++) most = Math.max(most, score(i));
  let sum = 0;
  for (let i = 0; i < classes; i++) sum += Math.exp(score(i) - most);
  return most + Math.log(sum) - score(label);
}

/**
 * Means over the validation examples of the sample, by the names that the service gives them.
 * @param {ProbeOut} probe
 * @param {Float64Array} outputs
 * @returns {Record<string, number> & {validation_prediction_loss: number}}
 */
export function metrics(probe, outputs) {
  const { loss, right } = scores(probe, outputs);
  const rows = probe.examples.held_out;
  /** @param {Float64Array} of */
  const mean = (of) => of.subarray(0, rows).reduce((sum, value) => sum + value, 0) / rows;
  const found = { validation_prediction_loss: mean(loss) };
  return right ? { validation_accuracy: mean(right), ...found } : found;
}

/**
 * The mean squared change of each output as a share of its variance.
 * @param {string[]} names of the outputs
 * @param {number} count of examples
 * @param {Float64Array} before
 * @param {Float64Array} after
 * @returns {Record<string, number>}
 */
export function effects(names, count, before, after) {
  const width = before.length / count;
  const moved = new Float64Array(width);
  for (let i = 0; i < width; i++) {
    let [mean, square, change] = [0, 0, 0];
    for (let at = i; at < before.length; at += width) mean += before[at] / count;
    for (let at = i; at < before.length; at += width) {
      square += (before[at] - mean) ** 2 / count;
      change += (after[at] - before[at]) ** 2 / count;
    }
    moved[i] = square > 1e-300 ? change / square : 0;
  }
  const steps = width / names.length;
  return Object.fromEntries(names.map((name, output) => [name, Array.from({ length: steps }, (_, step) => moved[step * names.length + output]).reduce((sum, value) => sum + value, 0) / steps]));
}
