// Snapshots of a training as frames: every weight by the neurons that it joins, whatever slots these are in. Nothing here
// reads the page.

/**
 * How the entries of a matrix lie between places. Folds that are no copies, such as the taps of a kernel or the gates of
 * a unit, are drawn as one connection, the heaviest of them.
 * @param {Geometry} geometry layers and connections of a probe
 */
export function matricesOf({ layers, connections }) {
  const places = Object.fromEntries(layers.map(({ name, neurons, copies }) => [name, { neurons, places: neurons * (copies ?? 1) }]));
  return connections.map(({ parameter, source, target }) => ({ parameter, source, target, from: places[source], to: places[target] }));
}

/**
 * @typedef {{step: number, slots: Record<string, Int32Array>, weights: Float32Array[]}} Frame
 * slots: layer → the place of each neuron, copy by copy; weights: one matrix (targets, sources) by neuron each
 * @typedef {ReturnType<typeof matricesOf>} Matrices
 */

/**
 * @param {Matrices} matrices
 * @param {SnapshotWeights} snapshot the answer of /runs/{id}/snapshots/{step}
 * @returns {Frame}
 */
export function frameOf(matrices, snapshot) {
  /** @param {string} layer @param {{neurons: number}} size @param {number} place */
  const neuronAt = (layer, { neurons }, place) => Math.floor(place / neurons) * neurons + snapshot.orders[layer][place % neurons];
  /** @type {Frame["slots"]} */
  const slots = {};
  for (const { source, target, from, to } of matrices) {
    for (const { layer, size } of [{ layer: source, size: from }, { layer: target, size: to }]) {
      if (slots[layer]) continue;
      slots[layer] = new Int32Array(size.places);
      for (let place = 0; place < size.places; place++) slots[layer][neuronAt(layer, size, place)] = place;
    }
  }
  const weights = matrices.map(({ parameter, source, target, from, to }) => {
    const { shape: [rows, columns], values } = snapshot.weights[parameter];
    const byNeuron = new Float32Array(to.places * from.places);
    const sources = Int32Array.from({ length: columns }, (_, column) => neuronAt(source, from, column % from.places));
    for (let row = 0; row < rows; row++) {
      const start = neuronAt(target, to, row % to.places) * from.places;
      for (let column = 0; column < columns; column++) {
        const [value, at] = [values[row * columns + column], start + sources[column]];
        if (Math.abs(value) > Math.abs(byNeuron[at])) byNeuron[at] = value;
      }
    }
    return byNeuron;
  });
  return { step: snapshot.step, slots, weights };
}

/**
 * The heaviest connections, `share` of the way from one frame to the next.
 * @param {Matrices} matrices @param {Frame} a @param {Frame} b @param {number} share @param {number} most
 * @returns {[number, number, number, number][]} [matrix, source, target, weight], the heaviest last
 */
export function connections(matrices, a, b, share, most) {
  /** @type {ReturnType<typeof connections>} */
  const found = [];
  matrices.forEach(({ from }, matrix) => {
    const [first, second] = [a.weights[matrix], b.weights[matrix]];
    for (let i = 0; i < first.length; i++) {
      const weight = first[i] + (second[i] - first[i]) * share;
      if (weight) found.push([matrix, i % from.places, Math.floor(i / from.places), weight]);
    }
  });
  found.sort((p, q) => Math.abs(q[3]) - Math.abs(p[3]));
  return found.slice(0, most).reverse();
}

/** The largest |weight| of a frame. @param {Frame} frame */
export const heaviest = (frame) => frame.weights.reduce((most, matrix) => matrix.reduce((so, weight) => Math.max(so, Math.abs(weight)), most), 1e-9);

/** How many neurons are in other slots than before, of those that count. @param {Frame} before @param {Frame} after @param {(layer: string, neuron: number) => boolean} counts */
export const moved = (before, after, counts) =>
  Object.entries(after.slots).reduce((sum, [layer, slots]) => sum + slots.reduce((count, slot, neuron) => count + Number(slot !== before.slots[layer][neuron] && counts(layer, neuron)), 0), 0);
