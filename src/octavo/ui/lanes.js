// Requests as lanes over time: waiting in the queue, prefill, decode.

import { colour, drawTimes, ownerColour } from "./charts.js";

export const SPAN = 30; // seconds that are shown
const ROW = 20;
const HEAD = 46; // pixels for the number of a request
const MOST_ROWS = 40;
// Each state has a colour and a height of its own, so that it can be told without colours.
export const STATES = {
  waiting: { name: "queue", text: "in the queue", height: 3 },
  prefill: { name: "prefill", text: "prefill", height: 14 },
  decode: { name: "decode", text: "decode", height: 8 },
};
const UNSEEN = { name: "edge", height: 1.5 }; // what a request did before anybody looked

export class Lanes {
  constructor() {
    this.rows = []; // each the lanes that were in it, the oldest first
    this.live = new Map(); // by number and name of the request
    this.now = 0;
    this.hidden = 0;
  }

  /** Takes what the requests are at a time. */
  take(requests, now) {
    this.before = this.now;
    this.now = now;
    const seen = new Set();
    this.hidden = 0;
    for (const request of requests) {
      const name = `${request.n}/${request.id}`;
      seen.add(name);
      const lane = this.live.get(name) ?? this.begin(name, request, now);
      if (!lane) continue;
      this.extend(lane.parts, request.state);
    }
    for (const name of this.live.keys()) if (!seen.has(name)) this.live.delete(name);
    for (const row of this.rows) while (row.length && row[0].parts.at(-1).to < now - SPAN) row.shift();
    while (this.rows.length && !this.rows.at(-1).length) this.rows.pop();
  }

  /** Goes on with a lane. What went from the queue to decode between two looks had its prefill there. */
  extend(parts, state) {
    const last = parts.at(-1);
    const skipped = last.state === "waiting" && state === "decode";
    last.to = skipped ? this.before : this.now;
    if (skipped) parts.push({ state: "prefill", from: this.before, to: this.now });
    if (last.state !== state) parts.push({ state, from: this.now, to: this.now });
  }

  /** A new lane, in the first row that is free; null where there is none. */
  begin(name, request, now) {
    const from = now - Math.min(request.age, SPAN);
    const isFree = (row) => !row.length || (!this.isLive(row.at(-1)) && row.at(-1).parts.at(-1).to <= from + 0.5);
    let row = this.rows.find(isFree);
    if (!row) {
      if (this.rows.length >= MOST_ROWS) {
        this.hidden++;
        return null;
      }
      this.rows.push((row = []));
    }
    const parts = [{ state: request.state, from, to: now }];
    if (request.state === "decode") parts.unshift({ state: from >= this.before ? "prefill" : "unseen", from, to: (parts[0].from = now) });
    const lane = { n: request.n, name, parts };
    row.push(lane);
    this.live.set(name, lane);
    return lane;
  }

  isLive(lane) {
    return this.live.get(lane.name) === lane;
  }

  height() {
    return Math.max(6, this.rows.length) * ROW + 26;
  }

  draw(context, width, height) {
    const x = (time) => HEAD + (width - HEAD - 6) * (1 - (this.now - time) / SPAN);
    this.rows.forEach((row, i) => {
      const middle = i * ROW + ROW / 2 + 2;
      context.strokeStyle = colour("line");
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(HEAD, Math.round(middle) + 0.5);
      context.lineTo(width - 6, Math.round(middle) + 0.5);
      context.stroke();
      for (const lane of row) this.drawLane(context, lane, x, middle);
      const lane = row.at(-1);
      if (lane) drawHead(context, lane.n, middle, this.isLive(lane));
    });
    if (!this.rows.length) {
      context.fillStyle = colour("muted");
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.font = "14px system-ui, sans-serif";
      context.fillText("No requests. What is asked of this model appears here.", width / 2, (height - 20) / 2);
      context.font = "11px system-ui, sans-serif";
    }
    drawTimes(context, x, this.now, SPAN, height - 9);
  }

  drawLane(context, lane, x, middle) {
    for (const { state, from, to } of lane.parts) {
      const { name, height } = STATES[state] ?? UNSEEN;
      const left = Math.max(HEAD, x(from));
      context.fillStyle = colour(name);
      context.beginPath();
      context.roundRect(left, middle - height / 2, Math.max(2, x(to) - left), height, Math.min(3, height / 2));
      context.fill();
    }
    const end = lane.parts.at(-1).to;
    if (!this.isLive(lane) && x(end) > HEAD) {
      context.fillStyle = colour("muted");
      context.fillRect(x(end) + 1, middle - 5, 1.5, 10);
    }
  }
}

function drawHead(context, n, middle, isLive) {
  context.globalAlpha = isLive ? 1 : 0.45;
  context.fillStyle = ownerColour(n);
  context.beginPath();
  context.roundRect(4, middle - 5, 10, 10, 2.5);
  context.fill();
  context.fillStyle = colour("ink");
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(String(n), 19, middle + 0.5);
  context.globalAlpha = 1;
}
