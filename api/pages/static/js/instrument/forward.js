// The forward pass of a probe (the answer of /runs/{id}/probe), as bimt_engine/networks computes it. Plain arithmetic
// on arrays, without the page: it runs in a worker, and in the tests.

/**
 * A hook sees the activation of a neuron layer each time that it is computed, and may change it in place.
 * @callback Hook
 * @param {string} layer
 * @param {Float64Array} values one row of places after another
 * @param {number} places
 */

/**
 * Outputs in slot order, one row of the last layer's neurons after another.
 * @callback Forward
 * @param {Network} network
 * @param {ArrayLike<number>} inputs
 * @param {Hook} hook
 * @returns {Float64Array}
 */

/** Weights of exactly 0 are left out, so that a pruned network is computed as fast as it is small. */
class Matrix {
  /** @param {Numbers} array one row for each target, one column for each source */
  constructor({ shape: [rows, columns], values }) {
    this.rows = rows;
    this.columns = columns;
    this.starts = new Int32Array(rows + 1);
    const count = values.reduce((sum, value) => sum + Number(value !== 0), 0);
    this.at = new Int32Array(count);
    this.weights = new Float64Array(count);
    for (let row = 0, kept = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const value = values[row * columns + column];
        if (value !== 0) [this.at[kept], this.weights[kept++]] = [column, value];
      }
      this.starts[row + 1] = kept;
    }
  }

  /**
   * The same matrix without some of its weights.
   * @param {(row: number, column: number, weight: number) => boolean} kept
   * @returns {Matrix}
   */
  filtered(kept) {
    const other = Object.create(Matrix.prototype);
    /** @type {number[][]} */
    const [at, weights] = [[], []];
    const starts = new Int32Array(this.rows + 1);
    for (let row = 0; row < this.rows; row++) {
      for (let i = this.starts[row]; i < this.starts[row + 1]; i++) {
        if (!kept(row, this.at[i], this.weights[i])) continue;
        at.push(this.at[i]);
        weights.push(this.weights[i]);
      }
      starts[row + 1] = at.length;
    }
    return Object.assign(other, { rows: this.rows, columns: this.columns, starts, at: Int32Array.from(at), weights: Float64Array.from(weights) });
  }

  /** Writes a row into `out`, which holds zeros there. @param {number} row @param {Float64Array} out @param {number} to */
  copyRow(row, out, to) {
    for (let i = this.starts[row]; i < this.starts[row + 1]; i++) out[to + this.at[i]] = this.weights[i];
  }

  /**
   * x · Wᵀ + bias for each row of x.
   * @param {ArrayLike<number>} x
   * @param {?ArrayLike<number>} [bias]
   */
  times(x, bias) {
    const { rows, columns, starts, at, weights } = this;
    const count = x.length / columns;
    const out = new Float64Array(count * rows);
    for (let example = 0, from = 0, to = 0; example < count; example++, from += columns) {
      for (let row = 0; row < rows; row++, to++) {
        let sum = bias ? bias[row] : 0;
        for (let i = starts[row]; i < starts[row + 1]; i++) sum += weights[i] * x[from + at[i]];
        out[to] = sum;
      }
    }
    return out;
  }
}

// --- functions of one number

/** @param {number} z */
const sigmoid = (z) => 1 / (1 + Math.exp(-z));

/** The error function, to 1.2e-7 (Numerical Recipes, section 6.2). @param {number} x */
function erf(x) {
  const z = Math.abs(x);
  const t = 1 / (1 + z / 2);
  const series = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368].reduce((sum, c) => sum * t + c, 0);
  const rest = t * Math.exp(-z * z - 1.26551223 + t * series);
  return x >= 0 ? 1 - rest : rest - 1;
}

/** @type {Record<string, (z: number) => number>} */
const ACTIVATIONS = {
  silu: (z) => z * sigmoid(z),
  relu: (z) => Math.max(z, 0),
  tanh: Math.tanh,
  gelu: (z) => 0.5 * z * (1 + erf(z * Math.SQRT1_2)),
  gelu_tanh: (z) => 0.5 * z * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z * z * z))),
};

/** @param {Float64Array} values @param {string} name */
function apply(values, name) {
  const act = ACTIVATIONS[name];
  for (let i = 0; i < values.length; i++) values[i] = act(values[i]);
  return values;
}

// --- architectures

/** @type {Forward} */
function perceptron(network, inputs, hook) {
  const { spec, matrices, values, sizes, layers } = network;
  /** @type {Float64Array} */
  let here;
  if (values.embedding) {
    const width = sizes.input;
    here = new Float64Array(inputs.length * width);
    for (let i = 0; i < inputs.length; i++) here.set(values.embedding.subarray(inputs[i] * width, (inputs[i] + 1) * width), i * width);
  } else here = network.inSlots(inputs);
  layers.forEach((layer, number) => {
    if (number > 0) here = matrices[`weights.${number - 1}`].times(here, values[`biases.${number - 1}`]);
    if (number > 0 && number < layers.length - 1) apply(here, spec.activation);
    hook(layer.name, here, layer.neurons * (layer.copies ?? 1));
  });
  return here;
}

/** @type {Forward} */
function recurrent(network, inputs, hook) {
  const { spec, probe, matrices, values, sizes, steps } = network;
  const read = network.inSlots(inputs);
  hook("input", read, sizes.input);
  const driven = matrices.read_in.times(read, values.hidden_bias);
  const [hidden, gates] = [sizes.hidden1, spec.kind === "gru" ? 3 : 1];
  const count = inputs.length / (steps * sizes.input);
  const sheet = new Float64Array(count * steps * hidden);
  let state = new Float64Array(count * hidden);
  for (let time = 0; time < steps; time++) {
    const recalled = matrices.recur.times(state, values.recur_bias ?? null);
    const next = new Float64Array(count * hidden);
    for (let example = 0; example < count; example++) {
      const [x, h, to] = [(example * steps + time) * gates * hidden, example * gates * hidden, example * hidden];
      for (let i = 0; i < hidden; i++) {
        if (gates === 1) next[to + i] = driven[x + i] + recalled[h + i];
        else {
          const reset = sigmoid(driven[x + i] + recalled[h + i]);
          const update = sigmoid(driven[x + hidden + i] + recalled[h + hidden + i]);
          const candidate = Math.tanh(driven[x + 2 * hidden + i] + reset * recalled[h + 2 * hidden + i]);
          next[to + i] = (1 - update) * candidate + update * state[to + i];
        }
      }
    }
    if (gates === 1) apply(next, spec.activation);
    hook("hidden1", next, hidden);
    for (let example = 0; example < count; example++) sheet.set(next.subarray(example * hidden, (example + 1) * hidden), (example * steps + time) * hidden);
    state = next;
  }
  const outputs = matrices.read_out.times(sheet, values.output_bias);
  hook("output", outputs, sizes.output);
  return outputs;
}

/** @type {Forward} */
function transformer(network, inputs, hook) {
  const { spec, probe, matrices, values, sizes, steps } = network;
  const residual = spec.tied ? "input" : "residual"; // tied, tokens are looked up in the read-out
  const width = sizes[residual];
  /** @param {string} name @param {Float64Array} x */
  const part = (name, x) => matrices[`${name}.weight`].times(x, values[`${name}.bias`]);
  /** @type {Float64Array} */
  let stream;
  if (spec.tied) {
    stream = new Float64Array(inputs.length * width);
    const slots = inverse(probe.orders.output);
    for (let i = 0; i < inputs.length; i++) matrices["read_out.weight"].copyRow(slots[inputs[i]], stream, i * width);
  } else {
    let read;
    if (probe.tokens !== null) {
      read = new Float64Array(inputs.length * sizes.input); // 1 where the token stands
      const slots = inverse(probe.orders.input);
      for (let i = 0; i < inputs.length; i++) read[i * sizes.input + slots[inputs[i]]] = 1;
    } else read = network.inSlots(inputs);
    hook("input", read, sizes.input);
    stream = part("read_in", read);
  }
  if (values.positions) stream.forEach((_, i) => (stream[i] += values.positions[i % (steps * width)]));
  hook(residual, stream, width);
  const epsilon = spec.norm_epsilon ?? 1e-5;
  /** @param {number} number */
  const normed = (number) => (spec.layer_norm ? norm(stream, width, spec.norm ?? "layer", epsilon, values[`norms.${number}.weight`], values[`norms.${number}.bias`]) : stream);
  /** @param {Float64Array} change */
  const add = (change) => {
    stream = stream.map((value, i) => value + change[i]);
    hook(residual, stream, width);
  };
  const heads = spec.key_value_heads ?? spec.heads; // each is shared by so many heads of queries:
  const queries = spec.heads / heads;
  for (let block = 0; block < spec.blocks; block++) {
    const mixed = attention(part(`attend.${block}`, normed(2 * block)), { queries, heads, size: width / spec.heads, steps, base: spec.rotary ?? null });
    hook(`attention${block + 1}`, mixed, sizes[`attention${block + 1}`]);
    add(part(`gather.${block}`, mixed));
    const rows = part(`expand.${block}`, normed(2 * block + 1));
    const many = sizes[`hidden${block + 1}`];
    const hidden = spec.gated ? gated(rows, many, spec.activation) : apply(rows, spec.activation);
    hook(`hidden${block + 1}`, hidden, many);
    add(part(`contract.${block}`, hidden));
  }
  const outputs = part("read_out", normed(2 * spec.blocks));
  hook("output", outputs, sizes.output);
  return outputs;
}

/** activation(gate) · up of each neuron; a row holds the gates of all, then what goes up. @param {Float64Array} rows @param {number} many @param {string} activation */
function gated(rows, many, activation) {
  const out = new Float64Array(rows.length / 2);
  const act = ACTIVATIONS[activation];
  for (let i = 0; i < out.length; i++) {
    const gate = 2 * i - (i % many);
    out[i] = act(rows[gate]) * rows[gate + many];
  }
  return out;
}

/** @param {Float64Array} x @param {number} width @param {string} kind @param {number} epsilon @param {Float64Array} gain @param {Float64Array} [shift] */
function norm(x, width, kind, epsilon, gain, shift) {
  const out = new Float64Array(x.length);
  for (let from = 0; from < x.length; from += width) {
    let [mean, square] = [0, 0];
    if (kind === "layer") for (let i = 0; i < width; i++) mean += x[from + i] / width;
    for (let i = 0; i < width; i++) square += (x[from + i] - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(square + epsilon);
    for (let i = 0; i < width; i++) out[from + i] = (x[from + i] - mean) * scale * gain[i] + (shift ? shift[i] : 0);
  }
  return out;
}

/**
 * Causal attention. A row holds the queries, one set of all heads after another, then keys, then values of all heads;
 * a row of the result holds what each set of queries reads, one after another.
 * @param {Float64Array} rows
 * @param {{queries: number, heads: number, size: number, steps: number, base: ?number}} shape queries: sets; base of
 *   rotary positions, null: none
 */
function attention(rows, { queries, heads, size, steps, base }) {
  const width = heads * size; // of one set
  const row = (queries + 2) * width;
  if (base !== null) turn(rows, { row, turned: (queries + 1) * width, size, steps, base });
  const out = new Float64Array((rows.length / row) * queries * width);
  const scores = new Float64Array(steps);
  for (let first = 0; first < rows.length / row; first += steps) {
    for (let each = 0; each < queries * heads; each++) {
      const head = each % heads;
      for (let time = 0; time < steps; time++) {
        const query = (first + time) * row + each * size;
        let most = -Infinity;
        for (let seen = 0; seen <= time; seen++) {
          const key = (first + seen) * row + queries * width + head * size;
          let sum = 0;
          for (let i = 0; i < size; i++) sum += rows[query + i] * rows[key + i];
          scores[seen] = sum / Math.sqrt(size);
          most = Math.max(most, scores[seen]);
        }
        let total = 0;
        for (let seen = 0; seen <= time; seen++) total += scores[seen] = Math.exp(scores[seen] - most);
        const to = (first + time) * queries * width + each * size;
        for (let seen = 0; seen <= time; seen++) {
          const value = (first + seen) * row + (queries + 1) * width + head * size;
          for (let i = 0; i < size; i++) out[to + i] += (scores[seen] / total) * rows[value + i];
        }
      }
    }
  }
  return out;
}

/** Turns each pair (i, i + size/2) of a head by time · base^(-2i/size), in place; `turned`: queries and keys of a row. @param {Float64Array} rows @param {{row: number, turned: number, size: number, steps: number, base: number}} shape */
function turn(rows, { row, turned, size, steps, base }) {
  const half = size / 2;
  for (let at = 0; at < rows.length; at += row) {
    const time = (at / row) % steps;
    for (let i = 0; i < half; i++) {
      const angle = time * base ** ((-2 * i) / size);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (let head = at; head < at + turned; head += size) {
        const [a, b] = [rows[head + i], rows[head + half + i]];
        rows[head + i] = a * cos - b * sin;
        rows[head + half + i] = b * cos + a * sin;
      }
    }
  }
}

/** Images lie as one row of channels for each pixel. @type {Forward} */
function convolutional(network, inputs, hook) {
  const { spec, probe, matrices, values, sizes, count } = network;
  const colours = sizes.input;
  let size = Math.round(Math.sqrt(inputs.length / count(inputs) / colours));
  /** @type {Float64Array} */
  let here = new Float64Array(inputs.length);
  const pixels = size * size;
  for (let example = 0, to = 0; example < inputs.length; example += pixels * colours) {
    for (let pixel = 0; pixel < pixels; pixel++) for (let channel = 0; channel < colours; channel++) here[to++] = inputs[example + probe.orders.input[channel] * pixels + pixel];
  }
  hook("input", here, colours);
  /** @param {string} name @param {Float64Array} x */
  const convolved = (name, x) => {
    const bias = values[`${name}.bias`];
    const made = convolution(matrices[`${name}.weight`], x, size, spec.kernel, spec.batch_norm ? null : bias);
    if (!spec.batch_norm) return made;
    const [mean, variance, gain] = ["mean", "variance", "gain"].map((statistic) => values[`${name}.${statistic}`]);
    return made.map((value, i) => ((value - mean[i % mean.length]) / Math.sqrt(variance[i % mean.length] + 1e-5)) * gain[i % mean.length] + bias[i % mean.length]);
  };
  spec.channels.forEach((channels, stage) => {
    const name = `stage${stage + 1}`;
    let stream = apply(convolved(`enter.${stage}`, here), spec.activation);
    hook(name, stream, channels);
    if (spec.residual) {
      const inner = apply(convolved(`inner.${stage}`, stream), spec.activation);
      hook(`block${stage + 1}`, inner, channels);
      const back = convolved(`back.${stage}`, inner);
      stream = stream.map((value, i) => value + back[i]);
      hook(name, stream, channels);
    }
    const smaller = Math.max(1, Math.floor(size / 2));
    here = smaller < size ? pooled(stream, size, channels, spec.pooling) : stream;
    size = smaller;
  });
  const outputs = matrices["read_out.weight"].times(here, values["read_out.bias"]);
  hook("output", outputs, sizes.output);
  return outputs;
}

/** @param {Matrix} matrix @param {Float64Array} x @param {number} size @param {number} kernel @param {?Float64Array} bias */
function convolution({ rows, columns, starts, at, weights }, x, size, kernel, bias) {
  const [channels, edge, pixels] = [columns / kernel ** 2, kernel >> 1, size * size];
  const count = x.length / (pixels * channels);
  const out = new Float64Array(count * pixels * rows);
  if (bias) for (let i = 0; i < out.length; i++) out[i] = bias[i % rows];
  for (let row = 0; row < rows; row++) {
    for (let i = starts[row]; i < starts[row + 1]; i++) {
      const [tap, channel, weight] = [Math.floor(at[i] / channels), at[i] % channels, weights[i]];
      const [down, right] = [Math.floor(tap / kernel) - edge, (tap % kernel) - edge];
      for (let example = 0; example < count; example++) {
        for (let y = Math.max(0, -down); y < Math.min(size, size - down); y++) {
          for (let z = Math.max(0, -right); z < Math.min(size, size - right); z++) {
            out[(example * pixels + y * size + z) * rows + row] += weight * x[(example * pixels + (y + down) * size + z + right) * channels + channel];
          }
        }
      }
    }
  }
  return out;
}

/** @param {Float64Array} x @param {number} size @param {number} channels @param {string} how */
function pooled(x, size, channels, how) {
  const [half, pixels] = [Math.floor(size / 2), size * size];
  const count = x.length / (pixels * channels);
  const out = new Float64Array(count * half * half * channels);
  for (let example = 0, to = 0; example < count; example++) {
    for (let y = 0; y < half; y++) {
      for (let z = 0; z < half; z++) {
        for (let channel = 0; channel < channels; channel++, to++) {
          const of = [0, 1, size, size + 1].map((step) => x[(example * pixels + 2 * y * size + 2 * z + step) * channels + channel]);
          out[to] = how === "max" ? Math.max(...of) : (of[0] + of[1] + of[2] + of[3]) / 4;
        }
      }
    }
  }
  return out;
}

/** @type {Record<string, Forward>} */
const COMPUTED = { mlp: perceptron, grid_mlp: perceptron, recurrent, gru: recurrent, transformer, conv: convolutional };

// --- orders

/** Numbers in the order of the data → in slot order, row by row. @param {ArrayLike<number>} x @param {number[]} order */
function permuted(x, order) {
  const [out, width] = [new Float64Array(x.length), order.length];
  for (let from = 0; from < x.length; from += width) for (let slot = 0; slot < width; slot++) out[from + slot] = x[from + order[slot]];
  return out;
}

/** @param {number[]} order */
function inverse(order) {
  const slots = new Int32Array(order.length);
  order.forEach((neuron, slot) => (slots[neuron] = slot));
  return slots;
}

// --- a network

/** Whether this network can be computed here; others are asked of a worker of the service. @param {ProbeOut} probe */
export const isComputedHere = (probe) => probe.network.kind in COMPUTED && Boolean(probe.means);

/** A network out of a probe. */
export class Network {
  /** @param {ProbeOut} probe for which `isComputedHere` holds */
  constructor(probe) {
    this.probe = probe;
    this.spec = probe.network;
    this.layers = probe.layers;
    this.sizes = Object.fromEntries(probe.layers.map((layer) => [layer.name, layer.neurons]));
    const weights = new Set(probe.connections.map((each) => each.parameter));
    /** @type {Record<string, Matrix>} */
    this.matrices = {};
    /** @type {Record<string, Float64Array>} */
    this.values = {};
    for (const [name, array] of Object.entries(probe.parameters)) {
      if (weights.has(name)) this.matrices[name] = new Matrix(array);
      else this.values[name] = Float64Array.from(array.values);
    }
    const { shape } = probe.examples.inputs;
    this.each = shape.slice(1).reduce((product, length) => product * length, 1); // numbers of one example
    this.steps = shape.length > 1 ? shape[1] : 1;
    /** @param {ArrayLike<number>} inputs */
    this.count = (inputs) => inputs.length / this.each;
    /** @type {WeakMap<object, Float64Array>} inputs that were asked for before: the examples, again and again */
    this.slotted = new WeakMap();
  }

  /** Numbers in the order of the data → in slot order, in an array that may be changed. @param {ArrayLike<number>} inputs */
  inSlots(inputs) {
    if (!this.slotted.has(inputs)) this.slotted.set(inputs, permuted(inputs, this.probe.orders.input));
    return /** @type {Float64Array} */ (this.slotted.get(inputs)).slice();
  }

  /**
   * The same network without some of its connections.
   * @param {(parameter: string, row: number, column: number, weight: number) => boolean} kept
   * @returns {Network}
   */
  without(kept) {
    const matrices = Object.fromEntries(Object.entries(this.matrices).map(([name, matrix]) => [name, matrix.filtered((row, column, weight) => kept(name, row, column, weight))]));
    return Object.assign(Object.create(Network.prototype), this, { matrices });
  }

  /**
   * Outputs in the order of the data, one row for each example; of sequences the steps that count, side by side.
   * @param {ArrayLike<number>} inputs as the probe has them
   * @param {Hook} [hook]
   * @returns {Float64Array}
   */
  outputs(inputs, hook = () => {}) {
    const inSlots = COMPUTED[this.spec.kind](this, inputs, hook);
    const [order, count] = [this.probe.orders.output, this.count(inputs)];
    const width = order.length;
    const rows = inSlots.length / (count * width); // of one example: its time steps
    const steps = this.probe.steps ?? [0];
    const out = new Float64Array(count * steps.length * width);
    let to = 0;
    for (let example = 0; example < count; example++) {
      for (const step of steps) {
        const from = (example * rows + step) * width;
        for (let slot = 0; slot < width; slot++) out[to + order[slot]] = inSlots[from + slot];
        to += width;
      }
    }
    return out;
  }
}

/**
 * A hook that holds places at their means, or at zero, as an intervention of the service does.
 * @param {ProbeOut} probe
 * @param {Iterable<string>} neurons ids `layer:place`
 * @param {string} how "mean" or "zero"
 * @returns {Hook}
 */
export function holding(probe, neurons, how) {
  /** @type {Map<string, number[]>} */
  const held = new Map();
  for (const id of neurons) {
    const cut = id.lastIndexOf(":");
    const layer = id.slice(0, cut);
    held.set(layer, [...(held.get(layer) ?? []), Number(id.slice(cut + 1))]);
  }
  /** @type {Record<string, number>} */
  const calls = {}; // how often each layer was seen: its means differ from one time step to the next
  const { means } = probe;
  if (!means) throw new TypeError("The probe holds no means.");
  return (layer, values, places) => {
    const its = held.get(layer);
    if (!its) return;
    const call = (calls[layer] = (calls[layer] ?? -1) + 1);
    for (const place of its) {
      const value = how === "zero" ? 0 : means[layer][call][place];
      for (let at = place; at < values.length; at += places) values[at] = value;
    }
  };
}
