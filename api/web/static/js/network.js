// A network as numbers: who sits where at a step of the training, and what joins them. It knows no page.

// What stays the same through a training: neuron layers with the places of their slots, and the weight matrices.
export function geometry(probe) {
  const layers = probe.layers.map((layer, depth) => ({ name: layer.name, depth, places: layer.positions }));
  const across = layers.flatMap((layer) => layer.places.map((place) => place[0]));
  const deep = layers.flatMap((layer) => layer.places.filter((place) => place.length > 1).map((place) => place[1]));
  return {
    layers,
    byName: Object.fromEntries(layers.map((layer) => [layer.name, layer])),
    matrices: probe.connections.map(({ parameter, source, target }) => ({ parameter, source, target })),
    across: [Math.min(...across), Math.max(...across)],
    deep: deep.length ? [Math.min(...deep), Math.max(...deep)] : null,
  };
}

// The network at one step: for every layer the slot of each neuron, and every weight by the two neurons that it joins,
// whatever slots they sit in, so that two steps can be compared neuron by neuron.
export function momentOf(shape, snapshot) {
  const slots = Object.fromEntries(
    shape.layers.map(({ name, places }) => {
      const slotOf = new Int32Array(places.length);
      snapshot.orders[name].forEach((neuron, slot) => (slotOf[neuron] = slot));
      return [name, slotOf];
    }),
  );
  const weights = shape.matrices.map(({ parameter, source, target }) => {
    const { shape: [rows, columns], values } = snapshot.weights[parameter];
    const [from, to] = [snapshot.orders[source], snapshot.orders[target]];
    const byNeuron = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        byNeuron[to[row] * columns + from[column]] = values[row * columns + column];
      }
    }
    return byNeuron;
  });
  return { step: snapshot.step, slots, weights };
}

// Whether every layer has one copy of its neurons, so that rows and columns of the matrices are neurons.
export const isPlain = (probe) =>
  probe.connections.every(({ parameter, source, target }) => {
    const size = (name) => probe.layers.find((layer) => layer.name === name)?.neurons;
    const [rows, columns] = probe.parameters[parameter]?.shape ?? [];
    return rows === size(target) && columns === size(source);
  });

// How many neurons sit in other slots than before, of those that count.
export const moved = (shape, before, after, counts) =>
  shape.layers.reduce((sum, { name }) => sum + after.slots[name].reduce((count, slot, neuron) => count + (slot !== before.slots[name][neuron] && counts(name, neuron)), 0), 0);

// The heaviest connections between two moments, `share` of the way from a to b: [matrix, source, target, weight].
export function strands(shape, a, b, share, most) {
  const found = [];
  shape.matrices.forEach(({ source }, matrix) => {
    const [first, second, columns] = [a.weights[matrix], b.weights[matrix], shape.byName[source].places.length];
    for (let i = 0; i < first.length; i++) {
      const weight = first[i] + (second[i] - first[i]) * share;
      if (weight) found.push([matrix, i % columns, Math.floor(i / columns), weight]);
    }
  });
  found.sort((p, q) => Math.abs(q[3]) - Math.abs(p[3]));
  return found.slice(0, most).reverse();
}

export const heaviest = (moment) => Math.max(1e-9, ...moment.weights.map((matrix) => matrix.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0)));

// Where a neuron stands, `share` of the way from a to b, in the picture's own units: x from 0 to 1, y from 0 (the inputs)
// to 1 (the outputs). Sheets lie down, each a little above the last.
export function place(shape, layer, neuron, a, b, share) {
  const { places, depth } = shape.byName[layer];
  const [from, to] = [places[a.slots[layer][neuron]], places[b.slots[layer][neuron]]];
  const at = from.map((value, axis) => value + (to[axis] - value) * share);
  const spread = (value, [low, high]) => (value - low) / (high - low || 1);
  const [x, rows] = [spread(at[0], shape.across), shape.layers.length - 1 || 1];
  if (!shape.deep) return [x, depth / rows];
  const back = at.length > 1 ? spread(at[1], shape.deep) - 0.5 : 0;
  return [0.82 * x + 0.18 * (back + 0.5), (depth + 0.5 * back) / rows];
}
