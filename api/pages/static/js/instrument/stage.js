// A network at a step of its training, drawn on a canvas where the picture of the server has its slots, or would have.

import { connections } from "./frames.js";

const MAX_LINES = 700; // connections drawn at once, the heaviest
const RATIO = () => Math.min(2, window.devicePixelRatio || 1);
// As api/pages/network_svg.py and bimt_engine/figures/layout.py have them.
const [WIDTH, MARGIN, LEAN, SHEET_HEIGHT, FILLED] = [900, 64, 0.22, 0.5, 0.92];
const [LABEL_ABOVE, LABEL_BELOW] = [16, 28];

/**
 * @typedef {{margin: number, bottom: number, gap: number, lean: number, sheet: number, width: number, height: number}} Plan
 * what the places of a picture are computed from
 * @typedef {[number, number]} Spot
 * @typedef {{layer: string, neuron: number, lines: string[], below: boolean, size: number, bold: boolean}} Name
 * @typedef {import("./frames.js").Frame} Frame
 * @typedef {import("./frames.js").Matrices} Matrices
 */

/** That of a drawn picture. @param {SVGSVGElement} svg @returns {Plan} */
export function planOf(svg) {
  const [margin, bottom, gap, lean, sheet] = (svg.dataset.layout ?? "").split(" ").map(Number);
  const [, , width, height] = (svg.getAttribute("viewBox") ?? "").split(" ").map(Number);
  return { margin, bottom, gap, lean, sheet, width, height };
}

/** That of a network that was not drawn yet. @param {{layers: Layer[]}} geometry @returns {Plan} */
export function newPlan({ layers }) {
  const sheets = layers.some(({ positions }) => positions.some(([, deep]) => deep !== undefined && Math.abs(deep - 0.5) > 1e-9));
  const gap = Math.max(96, Math.min(sheets ? 230 : 170, (sheets ? 500 : 440) / Math.max(1, layers.length - 1)));
  const reach = sheets ? (SHEET_HEIGHT / 2) * gap : 0;
  const bottom = MARGIN + gap * (layers.length - 1) + reach;
  return { margin: MARGIN, bottom, gap, lean: sheets ? LEAN : 0, sheet: sheets ? SHEET_HEIGHT : 0, width: WIDTH, height: bottom + reach + MARGIN };
}

/** Layer → its places as [x, y], those of pruned neurons too. @param {{layers: Layer[]}} geometry @param {string[]} order @param {Plan} plan @returns {Record<string, Spot[]>} */
export function spotsOf({ layers }, order, { margin, bottom, gap, lean, sheet, width }) {
  return Object.fromEntries(
    layers.map(({ name, neurons, copies = 1, positions }) => {
      /** @type {Spot[]} */
      const places = Array.from({ length: neurons * copies }, (_, place) => {
        const [x, deep = 0.5] = positions[place % neurons];
        const across = copies > 1 ? (Math.floor(place / neurons) + 0.5 + FILLED * (x - 0.5)) / copies : x;
        const far = 1 - deep;
        return [margin + (width - 2 * margin) * (sheet ? 0.5 + (across - 0.5) * (1 - lean * far) : across), bottom - gap * (order.indexOf(name) + (sheet ? sheet * (far - 0.5) : 0))];
      });
      return [name, places];
    }),
  );
}

/** What draws the frames of one training. */
export class Stage {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Plan} plan
   * @param {Matrices} matrices as `matricesOf` gives them
   * @param {Record<string, Spot[]>} spots
   * @param {number} scale the |weight| that is drawn boldest
   */
  constructor(canvas, plan, matrices, spots, scale) {
    this.canvas = canvas;
    this.plan = plan;
    this.matrices = matrices;
    this.spots = spots;
    this.scale = scale;
    const closest = Math.min(...Object.values(spots).map((places) => (places.length > 1 ? Math.abs(places[1][0] - places[0][0]) : 40)));
    this.radius = Math.max(2, Math.min(8, 0.4 * closest));
  }

  /**
   * The network `share` of the way from frame a to frame b.
   * @param {Frame} a @param {Frame} b @param {number} share
   * @param {(layer: string, neuron: number) => ?string} tone the colour of a neuron as the style sheet names it; null: none
   * @param {Name[]} [names] of neurons, which move with them
   */
  paint(a, b, share, tone, names = []) {
    const { canvas, plan, matrices, spots, radius } = this;
    const pen = canvas.getContext("2d");
    if (!pen) return;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * RATIO()));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const zoom = Math.min(width / plan.width, height / plan.height);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.setTransform(zoom, 0, 0, zoom, (width - plan.width * zoom) / 2, (height - plan.height * zoom) / 2);
    pen.lineCap = "round";
    const style = getComputedStyle(document.documentElement);
    /** @param {string} name */
    const colour = (name) => style.getPropertyValue(name).trim();
    const [plus, minus] = [colour("--plus"), colour("--minus")];
    /** @param {string} layer @param {number} neuron @returns {Spot} */
    const spot = (layer, neuron) => {
      const [from, to] = [a, b].map((each) => spots[layer][each.slots[layer][neuron]]);
      return [from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share];
    };
    for (const [matrix, source, target, weight] of connections(matrices, a, b, share, MAX_LINES)) {
      const strength = Math.sqrt(Math.min(1, Math.abs(weight) / this.scale));
      pen.strokeStyle = weight > 0 ? plus : minus;
      pen.globalAlpha = 0.08 + 0.85 * strength;
      pen.lineWidth = 0.6 + 3.6 * strength;
      pen.setLineDash(weight > 0 ? [] : [7, 4]); // the sign is visible without colours, too
      pen.beginPath();
      bend(pen, spot(matrices[matrix].source, source), spot(matrices[matrix].target, target));
      pen.stroke();
    }
    pen.globalAlpha = 1;
    pen.setLineDash([]);
    for (const [layer, slots] of Object.entries(b.slots)) {
      slots.forEach((_, neuron) => {
        const its = tone(layer, neuron);
        pen.fillStyle = colour(its ?? "--dead");
        pen.beginPath();
        pen.arc(...spot(layer, neuron), its ? radius : radius / 2, 0, 2 * Math.PI);
        pen.fill();
      });
    }
    pen.textAlign = "center";
    /** @type {Record<string, [from: number, to: number][]>} */
    const taken = {}; // by layer; a name that would lie over one before it is left out
    for (const { layer, neuron, lines, below, size, bold } of names) {
      const [x, y] = spot(layer, neuron);
      pen.font = `${bold ? 600 : 400} ${size}px ${colour("--sans")}`;
      const half = Math.max(...lines.map((line) => pen.measureText(line).width)) / 2;
      if ((taken[layer] ??= []).some(([from, to]) => x - half < to && x + half > from)) continue;
      taken[layer].push([x - half, x + half]);
      pen.fillStyle = colour(bold ? "--ink" : "--quiet");
      lines.forEach((line, at) => pen.fillText(line, x, below ? y + LABEL_BELOW + at * size : y - LABEL_ABOVE - (lines.length - 1 - at) * size));
    }
  }
}

/** As api/pages/network_svg.py bends them: straight upwards, an arc within a row or downwards, a loop to itself. @param {CanvasRenderingContext2D} pen @param {Spot} from @param {Spot} to */
function bend(pen, [x1, y1], [x2, y2]) {
  pen.moveTo(x1, y1);
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (length < 1e-6) return pen.bezierCurveTo(x1 - 22, y1 - 40, x1 + 22, y1 - 40, x1, y1);
  if (y2 < y1 - 1e-6) return pen.lineTo(x2, y2);
  const bow = 2 * Math.min(90, 26 + 0.2 * length);
  pen.quadraticCurveTo((x1 + x2) / 2 + (bow * (y2 - y1)) / length, (y1 + y2) / 2 - (bow * (x2 - x1)) / length, x2, y2);
}
