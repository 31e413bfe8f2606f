// A moment of a training on a canvas. Colours come from the style sheet; it knows no arithmetic of networks.

const RATIO = Math.min(2, window.devicePixelRatio || 1);
const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// lines: [x1, y1, x2, y2, weight as a share of the heaviest] · dots: { x, y, radius, tone, label, below }
// Places are shares of the canvas, y upwards.
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
  const [plus, minus] = [tone("--plus"), tone("--minus")];
  for (const [x1, y1, x2, y2, weight] of lines) {
    const share = Math.sqrt(Math.abs(weight));
    pen.strokeStyle = weight > 0 ? plus : minus;
    pen.globalAlpha = 0.08 + 0.85 * share;
    pen.lineWidth = 0.5 + 3.2 * share;
    pen.setLineDash(weight > 0 ? [] : [5, 4]); // the sign is told by more than colour
    pen.beginPath();
    pen.moveTo(x(x1), y(y1));
    pen.lineTo(x(x2), y(y2));
    pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.setLineDash([]);
  pen.font = `600 13px ${tone("--sans")}`;
  pen.textAlign = "center";
  for (const dot of dots) {
    pen.fillStyle = tone(dot.tone);
    pen.beginPath();
    pen.arc(x(dot.x), y(dot.y), dot.radius, 0, 2 * Math.PI);
    pen.fill();
    if (!dot.label) continue;
    pen.fillStyle = tone("--ink");
    pen.fillText(dot.label, x(dot.x), y(dot.y) + (dot.below ? 22 : -13));
  }
}
