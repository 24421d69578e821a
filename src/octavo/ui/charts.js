// Canvases that are as sharp as the screen, in the colours of the theme, and a line over time.

import { bus } from "./api.js";
import { count, h } from "./dom.js";

const probe = h("span", { hidden: true });
let colours = new Map();
let isDark = false;

/** A custom property of the style sheet as a colour that a canvas takes. */
export function colour(name) {
  if (!probe.isConnected) forget();
  if (!colours.has(name)) {
    probe.style.color = `var(--${name})`;
    colours.set(name, getComputedStyle(probe).color);
  }
  return colours.get(name);
}

function forget() {
  document.body.append(probe);
  colours = new Map();
  const chosen = document.documentElement.dataset.theme;
  isDark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
bus.addEventListener("theme", forget);

/** The colour of request number n: neighbours are far apart on the circle of hues. */
export function ownerColour(n) {
  if (!probe.isConnected) forget();
  return `oklch(${isDark ? 0.74 : 0.6} 0.13 ${(n * 137.5 + 20) % 360})`;
}

/** A canvas that is as wide as its place. `draw(context, width, height)` is called in CSS pixels. */
export class Picture {
  constructor(label, draw, height) {
    this.node = h("canvas", { role: "img", "aria-label": label });
    this.draw = draw;
    this.height = height;
    new ResizeObserver(() => this.paint()).observe(this.node);
  }

  paint() {
    const { clientWidth: width } = this.node;
    if (!width) return;
    const height = typeof this.height === "function" ? this.height(width) : this.height;
    const scale = devicePixelRatio || 1;
    if (this.node.width !== Math.round(width * scale) || this.node.height !== Math.round(height * scale)) {
      this.node.width = Math.round(width * scale);
      this.node.height = Math.round(height * scale);
      this.node.style.height = `${height}px`;
    }
    const context = this.node.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    this.draw(context, width, height);
  }

  tell(label) {
    if (this.node.getAttribute("aria-label") !== label) this.node.setAttribute("aria-label", label);
  }
}

/** A step of 1, 2 or 5 times a power of ten, of which some four are `most`. */
function niceStep(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1e-9) / 3));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => most / step <= 4);
}

/** Lines of the last `span` seconds over one axis. `points` are [time, value, value, …]; `names` are of colours. */
export function drawLines(context, width, height, { points, names, now, span }) {
  const [left, bottom, top] = [38, height - 18, 8];
  const most = Math.max(10, ...points.flatMap((point) => point.slice(1))) * 1.08;
  const x = (time) => left + (width - left - 6) * (1 - (now - time) / span);
  const y = (value) => bottom - (bottom - top) * (value / most);
  const step = niceStep(most);
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (let value = 0; value <= most; value += step) {
    context.strokeStyle = colour("line");
    context.beginPath();
    context.moveTo(left, Math.round(y(value)) + 0.5);
    context.lineTo(width - 6, Math.round(y(value)) + 0.5);
    context.stroke();
    context.fillStyle = colour("muted");
    context.fillText(count(value, 1), left - 6, y(value));
  }
  drawTimes(context, x, now, span, bottom + 10);
  names.forEach((name, i) => {
    const line = new Path2D();
    points.forEach((point, j) => line[j ? "lineTo" : "moveTo"](x(point[0]), y(point[i + 1])));
    context.strokeStyle = colour(name);
    context.lineWidth = 1.8;
    context.lineJoin = "round";
    context.setLineDash(i ? [5, 3] : []);
    context.stroke(line);
    context.setLineDash([]);
  });
}

/** Seconds ago, below a picture whose right edge is now. */
export function drawTimes(context, x, now, span, y) {
  context.fillStyle = colour("muted");
  context.textBaseline = "middle";
  for (let ago = 0; ago <= span; ago += span / (x(now) > 420 ? 3 : 1)) {
    context.textAlign = ago === 0 ? "right" : ago === span ? "left" : "center";
    context.fillText(ago ? `${Math.round(ago)} s ago` : "now", x(now - ago), y);
  }
}
