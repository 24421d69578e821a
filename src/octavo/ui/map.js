// Lines of text as a map: those that mean alike are near each other.

import { ApiError, getJson } from "./api.js";
import { announce, button, clear, count, field, h, memory, percent, s, show } from "./dom.js";
import { chooser, ready } from "./models.js";
import { cosines, neighbours, principal, spread } from "./projection.js";

const MOST = 400; // lines
const BATCH = 32; // lines of one request
const NEAREST = 3;
const [WIDTH, HEIGHT, MARGIN] = [800, 540, 50];
const EXAMPLE = ["The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Dogs love long walks in the park.", "Puppies chase their own tails.",
  "The stock market fell sharply today.", "Shares lost ground in heavy trading.", "The central bank raised interest rates.", "She plays the violin in an orchestra.",
  "The pianist gave a moving concert.", "Heavy rain is expected tomorrow.", "The storm will reach the coast tonight.", "Bake the bread for forty minutes.",
  "Add two eggs and a cup of flour.", "The soup needs more salt."].join("\n");

export class MapView {
  constructor(place) {
    this.models = chooser("embed");
    this.lines = [];
    this.build(place);
  }

  build(place) {
    this.text = h("textarea", { rows: 14, placeholder: "One text per line", input: () => memory.set("lines", this.text.value) });
    this.text.value = memory.get("lines", EXAMPLE);
    this.method = h("select", { change: () => this.matrix && this.place() }, h("option", { value: "spread" }, "By distances"), h("option", { value: "principal" }, "Principal components"));
    this.labels = h("input", { type: "checkbox", checked: true, change: () => this.svg.classList.toggle("bare", !this.labels.checked) });
    this.run = button("Make the map", "again", () => this.make(), { quiet: false });
    this.notice = h("p", { class: "notice", role: "alert", hidden: true });
    this.state = h("p", { class: "hint", role: "status" });
    this.svg = s("svg", { class: "map", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Map of the lines" });
    this.svg.addEventListener("keydown", (event) => this.walk(event));
    this.table = h("tbody");
    this.result = h("div", { class: "map-result", hidden: true },
      h("section", { class: "card", "aria-label": "Map" }, this.svg, this.state),
      h("section", { class: "card", "aria-label": "Nearest lines" }, h("div", { class: "card-head" }, h("h2", {}, "Nearest lines")),
        h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the nearest lines" }, h("table", { class: "nearest" },
          h("thead", {}, h("tr", {}, ["", "Line", "Nearest to it, with the cosine"].map((name) => h("th", { scope: "col" }, name)))), this.table))));
    place.append(
      h("div", { class: "bar" }, this.models.node, field("Places", this.method), h("label", { class: "check" }, this.labels, "Texts"), h("span", { class: "spring" }), this.run),
      h("div", { class: "room map-room" }, h("div", { class: "card" }, field("Lines", this.text, `Up to ${MOST}. Ctrl + Enter makes the map.`), this.notice), this.result));
    this.text.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.make(); });
  }

  complain(text) {
    this.notice.textContent = text;
    show(this.notice, text);
  }

  async make() {
    const lines = [...new Set(this.text.value.split("\n").map((line) => line.trim()).filter(Boolean))];
    await ready;
    if (!this.models.any) return this.complain("No model here makes vectors. Start the server with one beside the others: octavo serve MODEL sentence-transformers/all-MiniLM-L6-v2");
    if (lines.length < 3) return this.complain("A map needs at least three different lines.");
    if (lines.length > MOST) return this.complain(`These are ${count(lines.length)} lines; a map has at most ${MOST}.`);
    this.complain("");
    this.run.disabled = true;
    try {
      const began = performance.now();
      this.matrix = cosines(await this.embed(lines));
      this.lines = lines;
      this.took = performance.now() - began;
      show(this.result, true);
      this.place();
      announce(`A map of ${lines.length} lines.`);
    } catch (error) {
      this.complain(error instanceof ApiError ? error.message : `The page failed: ${error.message}`);
    }
    this.run.disabled = false;
  }

  async embed(lines) {
    const vectors = [];
    for (let at = 0; at < lines.length; at += BATCH) {
      const answer = await getJson("v1/embeddings", { json: { model: this.models.value, input: lines.slice(at, at + BATCH) } });
      vectors.push(...answer.data.map((entry) => entry.embedding));
    }
    this.size = vectors[0].length;
    return vectors;
  }

  place() {
    const { points, share } = principal(this.matrix);
    const isSpread = this.method.value === "spread";
    this.nearest = neighbours(this.matrix, NEAREST);
    this.draw(fit(isSpread ? spread(points, this.matrix) : points));
    const how = isSpread ? "Distances are kept as well as two dimensions can." : `Two principal components, which have ${percent(share)} of the variance.`;
    this.state.textContent = `${count(this.lines.length)} lines, ${count(this.size)} dimensions, ${count(this.took)} ms. ${how}`;
    const list = (i) => this.nearest[i].map((j) => h("li", {}, h("span", { class: "cosine" }, this.matrix[i][j].toFixed(2)), this.lines[j]));
    clear(this.table, ...this.lines.map((line, i) => h("tr", {}, h("td", { class: "align-right" }, String(i + 1)), h("th", { scope: "row" }, line), h("td", {}, h("ol", {}, list(i))))));
  }

  draw(points) {
    this.edges = s("g", { class: "edges" });
    this.dots = points.map(([x, y], i) => {
      const near = this.nearest[i].map((j) => `${this.lines[j]} (${this.matrix[i][j].toFixed(2)})`).join("; ");
      const isRight = x > WIDTH * 0.6;
      const label = s("text", { x: isRight ? -9 : 9, y: 4, "text-anchor": isRight ? "end" : "start" });
      label.textContent = this.lines[i].length > 34 ? `${this.lines[i].slice(0, 33)}…` : this.lines[i];
      const pick = () => this.pick(i, points);
      return s("g", { class: "dot-place", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, tabindex: i ? "-1" : "0", role: "img",
        "aria-label": `${this.lines[i]}. Nearest: ${near}`, focus: pick, pointerenter: pick }, s("circle", { r: 5 }), label);
    });
    this.svg.replaceChildren(this.edges, ...this.dots);
    this.svg.classList.toggle("bare", !this.labels.checked);
    untangle(this.dots, points);
  }

  /** Shows a line's nearest ones. */
  pick(i, points) {
    this.picked = i;
    const edge = (j) => s("line", { x1: points[i][0], y1: points[i][1], x2: points[j][0], y2: points[j][1] });
    this.edges.replaceChildren(...this.nearest[i].map(edge));
    this.dots.forEach((dot, j) => {
      dot.classList.toggle("picked", j === i);
      dot.classList.toggle("near", this.nearest[i].includes(j));
      dot.setAttribute("tabindex", j === i ? "0" : "-1");
    });
  }

  walk(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !this.dots) return;
    event.preventDefault();
    const next = ((this.picked ?? 0) + step + this.dots.length) % this.dots.length;
    this.dots[next].focus();
  }
}

/** Points in the picture, as large as it allows, in the proportions that they have. */
function fit(points) {
  const range = (axis) => [Math.min(...points.map((point) => point[axis])), Math.max(...points.map((point) => point[axis]))];
  const [[left, right], [top, bottom]] = [range(0), range(1)];
  const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (bottom - top || 1));
  return points.map(([x, y]) => [WIDTH / 2 + (x - (left + right) / 2) * scale, HEIGHT / 2 + (y - (top + bottom) / 2) * scale]);
}

/** Moves labels up or down where they lie on each other. */
function untangle(dots, points) {
  const placed = [];
  for (const [i, dot] of dots.entries()) {
    const label = dot.querySelector("text");
    const width = label.textContent.length * 6.2;
    const from = label.getAttribute("text-anchor") === "end" ? points[i][0] - 9 - width : points[i][0] + 9;
    const free = [0, -16, 16, -31, 31].find((shift) => !placed.some((box) => Math.abs(box.y - points[i][1] - shift) < 15 && from < box.to && box.from < from + width));
    label.setAttribute("y", String(4 + (free ?? 0)));
    placed.push({ y: points[i][1] + (free ?? 0), from, to: from + width });
  }
}
