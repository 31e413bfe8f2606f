// The network at a step of its training: geometry, interpolation between two steps, and drawing on a canvas. Nothing here
// reads the page, except the colours of the style sheet.

/**
 * What stays the same through a training: neuron layers with the positions of their slots, and the weight matrices.
 * @param {object} probe the answer of /runs/{id}/probe
 */
export function geometry(probe) {
  const layers = probe.layers.map((layer, depth) => ({ name: layer.name, depth, places: layer.positions }));
  return {
    layers,
    byName: Object.fromEntries(layers.map((layer) => [layer.name, layer])),
    matrices: probe.connections.map(({ parameter, source, target }) => ({ parameter, source, target })),
    sheets: layers.some((layer) => layer.places.some((place) => place.length > 1 && Math.abs(place[1] - 0.5) > 1e-9)),
  };
}

/**
 * The network at one step: the slot of each neuron, and every weight indexed by its two neurons, whatever slots they are
 * in, so that two steps can be compared neuron by neuron.
 * @param {ReturnType<typeof geometry>} shape
 * @param {object} snapshot the answer of /runs/{id}/snapshots/{step}
 */
export function frameOf(shape, snapshot) {
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

/** @returns {boolean} whether rows and columns of every matrix are neurons: no layer is folded */
export const isPlain = (probe) =>
  probe.connections.every(({ parameter, source, target }) => {
    const size = (name) => probe.layers.find((layer) => layer.name === name)?.neurons;
    const [rows, columns] = probe.parameters[parameter]?.shape ?? [];
    return rows === size(target) && columns === size(source);
  });

/** @returns {number} how many neurons are in other slots than before, of those for which `counts(layer, neuron)` holds */
export const moved = (shape, before, after, counts) =>
  shape.layers.reduce((sum, { name }) => sum + after.slots[name].reduce((count, slot, neuron) => count + (slot !== before.slots[name][neuron] && counts(name, neuron)), 0), 0);

/**
 * The heaviest connections, `share` of the way from frame a to frame b.
 * @returns {[number, number, number, number][]} [matrix, source, target, weight], the heaviest last
 */
export function connections(shape, a, b, share, most) {
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

/** @returns {number} the largest |weight| of a frame */
export const heaviest = (frame) => Math.max(1e-9, ...frame.weights.map((matrix) => matrix.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0)));

const [LEAN, SHEET_HEIGHT] = [0.22, 0.5]; // as in bimt_engine/figures/layout.py, so that film and picture look the same

/**
 * The place of a neuron, `share` of the way from frame a to frame b. Sheets are drawn in perspective.
 * @returns {[number, number]} x from 0 to 1, y from 0 (inputs) to 1 (outputs)
 */
export function place(shape, layer, neuron, a, b, share) {
  const { places, depth } = shape.byName[layer];
  const [from, to] = [places[a.slots[layer][neuron]], places[b.slots[layer][neuron]]];
  const at = from.map((value, axis) => value + (to[axis] - value) * share);
  const rows = shape.layers.length - 1 || 1;
  if (!shape.sheets) return [at[0], depth / rows];
  const far = 1 - (at[1] ?? 0.5);
  return [0.5 + (at[0] - 0.5) * (1 - LEAN * far), (depth + SHEET_HEIGHT * (far - 0.5)) / rows];
}

// --- drawing

const RATIO = Math.min(2, window.devicePixelRatio || 1);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Draws lines and dots; places are shares of the canvas, y upwards.
 * @param {HTMLCanvasElement} canvas
 * @param {number[][]} lines [x1, y1, x2, y2, weight as a share of the heaviest]
 * @param {{x: number, y: number, radius: number, tone: string, label: string, below: boolean}[]} dots
 */
export function draw(canvas, lines, dots) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== width * RATIO || canvas.height !== height * RATIO) [canvas.width, canvas.height] = [width * RATIO, height * RATIO];
  const pen = canvas.getContext("2d");
  const [side, edge] = [28, 34];
  const x = (share) => side + share * (width - 2 * side);
  const y = (share) => height - edge - share * (height - 2 * edge);
  pen.setTransform(RATIO, 0, 0, RATIO, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.lineCap = "round";
  const [plus, minus] = [colour("--plus"), colour("--minus")];
  for (const [x1, y1, x2, y2, weight] of lines) {
    const share = Math.sqrt(Math.abs(weight));
    pen.strokeStyle = weight > 0 ? plus : minus;
    pen.globalAlpha = 0.08 + 0.85 * share;
    pen.lineWidth = 0.5 + 3.2 * share;
    pen.setLineDash(weight > 0 ? [] : [5, 4]); // the sign is visible without colours, too
    pen.beginPath();
    pen.moveTo(x(x1), y(y1));
    pen.lineTo(x(x2), y(y2));
    pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.setLineDash([]);
  pen.font = `600 13px ${colour("--sans")}`;
  pen.textAlign = "center";
  for (const dot of dots) {
    pen.fillStyle = colour(dot.tone);
    pen.beginPath();
    pen.arc(x(dot.x), y(dot.y), dot.radius, 0, 2 * Math.PI);
    pen.fill();
    if (!dot.label) continue;
    pen.fillStyle = colour("--ink");
    pen.fillText(dot.label, x(dot.x), y(dot.y) + (dot.below ? 22 : -13));
  }
}
