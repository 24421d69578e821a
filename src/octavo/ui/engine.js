// The engine room: what the engines do now, drawn from /engine/events as long as somebody looks.

import { bus, events, request } from "./api.js";
import { Blocks } from "./blocks.js";
import { Picture, drawLines } from "./charts.js";
import { button, bytes, clear, count, field, h, memory, percent, seconds, show } from "./dom.js";
import { Lanes, STATES } from "./lanes.js";

const PACES = [["0.1", "10 a second"], ["0.2", "5 a second"], ["0.5", "2 a second"], ["1", "1 a second"], ["5", "every 5 s"]];
const LINE_SPAN = 60; // seconds of tokens per second that are shown
const PHASES = { plan: "chooses what is computed", run: "computes it", commit: "notes what was computed", land: "gives tokens to their requests", other: "masks, draws and the rest" };
const COLUMNS = ["Request", "State", "Age", "Prompt", "Cached", "Computed", "Written", "Longest", "Blocks", "Sequences"];

export class EngineView {
  constructor(place) {
    this.histories = new Map(); // by model
    this.chosen = memory.get("engine.model", "");
    this.open = this.paused = false;
    this.stream = null;
    this.shown = { tables: 0 }; // when tables were written
    this.build(place);
    bus.addEventListener("theme", () => this.draw());
    for (const name of ["back", "unlocked"]) bus.addEventListener(name, () => this.start());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.halt() : this.start()));
  }

  build(place) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.select = h("select", { change: () => { this.chosen = this.select.value; memory.set("engine.model", this.chosen); this.draw(); } });
    this.pace = h("select", { change: () => { memory.set("engine.pace", this.pace.value); this.again(); } }, PACES.map(([value, text]) => h("option", { value }, text)));
    this.pace.value = memory.get("engine.pace", still ? "1" : "0.1");
    this.pauseButton = button("Pause", "pause", () => this.pause(), { "aria-pressed": "false" });
    this.figures = h("dl", { class: "figures" });
    this.notice = h("p", { class: "notice", role: "alert", hidden: true });
    this.makePictures();
    this.step = h("div", { class: "step" });
    this.table = h("tbody");
    this.tables = h("details", { class: "card wide", toggle: () => { this.shown.tables = 0; this.draw(); } }, h("summary", {}, "Requests as a table"),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col" }, name)))), this.table)));
    const card = (title, legend, ...inside) => h("section", { class: "card", "aria-label": title }, h("div", { class: "card-head" }, h("h2", {}, title), legend), ...inside);
    this.blocksCard = card("Blocks of the KV cache", key([["owned", "of a request"], ["shared", "shared"], ["cached", "cached"], ["free", "free"]]), this.blocksPicture.node, this.blocksText);
    const lanes = card("Requests", key(Object.values(STATES).map(({ name, text }) => [name, text])), this.lanesPicture.node, this.more);
    lanes.classList.add("wide");
    place.append(
      h("div", { class: "bar" }, h("div", { class: "chooser" }, field("Model", this.select)), field("Updates", this.pace), h("span", { class: "spring" }), this.pauseButton),
      h("div", { class: "room", tabindex: "0", role: "region", "aria-label": "What the engine does" }, this.notice, this.figures,
        h("div", { class: "cards" }, lanes, this.blocksCard,
          h("div", { class: "stack" },
            card("Tokens per second", key([["decode", "written"], ["prefill", "read (dashed)"]]), this.linesPicture.node),
            card("A step's time", null, this.step)),
          this.tables)));
  }

  makePictures() {
    this.lanesPicture = new Picture("Requests over time", (...args) => this.history?.lanes.draw(...args), () => this.history?.lanes.height() ?? 146);
    this.linesPicture = new Picture("Tokens per second", (context, width, height) =>
      this.history && drawLines(context, width, height, { points: this.history.points, names: ["decode", "prefill"], now: this.history.now, span: LINE_SPAN }), 150);
    this.blocksPicture = new Picture("Blocks of the KV cache", (context) => this.blocks.draw(context), (width) => this.blocks.height(width));
    this.blocks = new Blocks();
    this.blocksText = h("p", { class: "hint figures-line" });
    this.more = h("p", { class: "hint", hidden: true });
    const canvas = this.blocksPicture.node;
    canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => { canvas.title = this.blocks.at(offsetX, offsetY); });
  }

  get history() {
    return this.histories.get(this.chosen);
  }

  // The stream

  enter() {
    this.open = true;
    this.start();
  }

  leave() {
    this.open = false;
    this.halt();
  }

  /** Asks for events where somebody looks at them. */
  start() {
    if (this.open && !this.stream && !this.paused && !document.hidden) this.follow();
  }

  halt() {
    this.stream?.abort();
    this.stream = null;
  }

  again() {
    this.halt();
    this.start();
  }

  pause() {
    this.paused = !this.paused;
    const name = this.paused ? "Go on" : "Pause";
    this.pauseButton.replaceWith((this.pauseButton = button(name, this.paused ? "play" : "pause", () => this.pause(), { "aria-pressed": String(this.paused) })));
    this.pauseButton.focus();
    if (this.paused) this.halt();
    else this.start();
  }

  pressed(event) {
    if (event.key !== " " || event.target.closest("button, summary, a")) return;
    event.preventDefault();
    this.pause();
  }

  async follow() {
    const stream = (this.stream = new AbortController());
    try {
      const response = await request(`engine/events?interval=${this.pace.value}`, { signal: stream.signal });
      show(this.notice, false);
      for await (const { type, data } of events(response, stream.signal)) if (type === "stats") this.take(JSON.parse(data));
    } catch (error) {
      if (stream.signal.aborted) return;
      this.notice.textContent = error.message;
      show(this.notice, error.status);
      if (error.status === 401) {
        this.stream = null; // until "unlocked": who closed the dialog is not asked again
        return;
      }
    }
    if (this.stream !== stream) return;
    this.stream = null;
    setTimeout(() => this.start(), 2000); // a server that is back is found here, too
  }

  take(stats) {
    this.stats = stats;
    for (const model of stats.models) {
      if (!this.histories.has(model.id)) this.histories.set(model.id, { lanes: new Lanes(), points: [], now: 0 });
      const history = this.histories.get(model.id);
      history.now = stats.time;
      history.lanes.take(model.requests, stats.time);
      history.points.push([stats.time, model.rates.output_tokens_per_s, model.rates.prompt_tokens_per_s]);
      while (history.points[0][0] < stats.time - LINE_SPAN) history.points.shift();
    }
    this.list(stats.models);
    this.draw();
  }

  list(models) {
    const ids = models.map((model) => model.id);
    if (!ids.includes(this.chosen)) this.chosen = ids[0];
    if ([...this.select.options].map((option) => option.value).join("\n") === ids.join("\n")) return;
    clear(this.select, ...ids.map((id) => h("option", { value: id }, id.split("/").at(-1))));
    this.select.value = this.chosen;
  }

  // Drawing

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      const model = this.stats?.models.find((each) => each.id === this.chosen);
      if (model) this.paint(model);
    });
  }

  paint(model) {
    this.showFigures(model);
    this.lanesPicture.paint();
    this.linesPicture.paint();
    show(this.blocksCard, model.kv);
    if (model.kv) this.showBlocks(model.kv);
    this.showStep(model.step);
    const left = this.history.lanes.hidden + (model.more_requests ?? 0);
    show(this.more, left);
    this.more.textContent = `${count(left)} more requests are not shown.`;
    if (performance.now() - this.shown.tables > 1000) this.showTables(model);
  }

  showFigures(model) {
    const { machine } = this.stats;
    const kv = model.kv;
    const rows = [
      ["Written", `${count(model.rates.output_tokens_per_s, 1)}`, "tokens/s"],
      ["Read", `${count(model.rates.prompt_tokens_per_s, 0)}`, "tokens/s"],
      ["Batch", `${count(model.running)}`, `of ${count(model.max_num_seqs)}`],
      ["Queue", `${count(model.waiting)}`, `${count(model.queued_tokens)} tokens`],
      ["Prefix hits", percent(model.rates.prefix_hit_share), "of prompts"],
      ["Cache", kv ? percent(kv.used / kv.num_blocks) : "–", kv ? `of ${bytes(kv.bytes)}` : "none"],
      ["Memory", bytes(machine.memory_process), `${bytes(machine.memory_free)} free`],
      ["Machine", machine.device, `${machine.isa ?? ""}, ${machine.threads} threads`],
    ];
    if (model.stale) rows.push(["Engine", "busy", "has not answered"]);
    if (model.state !== "ready") rows.push(["State", model.state, model.phase ?? ""]);
    if (model.preemptions || model.restarts) rows.push(["Preempted", count(model.preemptions), `${count(model.restarts)} restarts`]);
    while (this.figures.children.length > rows.length) this.figures.lastChild.remove();
    rows.forEach(([name, value, unit], i) => {
      const cell = this.figures.children[i] ?? this.figures.appendChild(h("div", {}, h("dt"), h("dd", {}, h("b"), " ", h("span"))));
      write(cell.querySelector("dt"), name);
      write(cell.querySelector("b"), value);
      write(cell.querySelector("span"), unit);
    });
  }

  showBlocks(kv) {
    this.blocks.take(kv);
    this.blocksPicture.paint();
    const wide = kv.blocks_per_cell > 1 ? ` A cell is ${kv.blocks_per_cell} blocks.` : "";
    write(this.blocksText, `${count(kv.used)} used, ${count(kv.cached)} cached, ${count(kv.free)} free of ${count(kv.num_blocks)} blocks of ${kv.block_size} tokens.${wide}`);
  }

  showStep({ mean, last, count: steps }) {
    const total = Object.values(mean).reduce((sum, value) => sum + value, 0);
    if (!this.step.children.length) {
      this.stepBar = h("div", { class: "step-bar", "aria-hidden": "true" }, Object.keys(PHASES).map((phase) => h("span", { class: `phase-${phase}` })));
      this.stepRows = h("tbody", {}, Object.entries(PHASES).map(([phase, what]) => h("tr", {},
        h("th", { scope: "row" }, h("span", { class: `swatch phase-${phase}` }), phase), h("td", { class: "align-right" }), h("td", { class: "align-right" }), h("td", { class: "what" }, what))));
      this.stepText = h("p", { class: "hint figures-line" });
      this.step.append(this.stepBar, h("table", { "aria-label": "What a step's time goes to" }, this.stepRows), this.stepText);
    }
    Object.keys(PHASES).forEach((phase, i) => {
      this.stepBar.children[i].style.flexGrow = total ? mean[phase] / total : 0;
      const cells = this.stepRows.children[i].children;
      write(cells[1], total ? seconds(mean[phase]) : "–");
      write(cells[2], total ? percent(mean[phase] / total) : "–");
    });
    const mix = last && `, ${count(last.sequences)} sequences, ${count(last.tokens)} tokens${last.prefill_tokens ? `, ${count(last.prefill_tokens)} of prompts` : ""}`;
    write(this.stepText, last ? `${count(steps)} steps. The last: ${seconds(last.seconds)}${mix}.` : "No step yet.");
  }

  /** What screen readers get: a table, and a sentence for each picture. */
  showTables(model) {
    this.shown.tables = performance.now();
    const inState = (state) => model.requests.filter((each) => each.state === state).length;
    this.lanesPicture.tell(`Requests over the last 30 s. Now ${inState("waiting")} wait in the queue, ${inState("prefill")} are in prefill, ${inState("decode")} in decode.`);
    this.linesPicture.tell(`Tokens per second over the last minute. Now ${count(model.rates.output_tokens_per_s)} written, ${count(model.rates.prompt_tokens_per_s)} read.`);
    if (model.kv) this.blocksPicture.tell(`Blocks of the KV cache: ${this.blocksText.textContent}`);
    if (!this.tables.open) return;
    const row = (each) => [each.n, each.state, seconds(each.age), count(each.prompt_tokens), count(each.cached_tokens), count(each.computed_tokens),
      count(each.output_tokens), count(each.max_tokens), count(each.blocks), count(each.sequences)];
    clear(this.table, ...model.requests.map((each) => h("tr", {}, row(each).map((cell) => h("td", {}, String(cell))))));
    if (!model.requests.length) this.table.append(h("tr", {}, h("td", { colspan: String(COLUMNS.length) }, "No requests.")));
  }
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function key(entries) {
  return h("ul", { class: "legend" }, entries.map(([name, text]) => h("li", {}, h("span", { class: `swatch of-${name}` }), text)));
}
