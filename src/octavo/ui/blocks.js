// The blocks of the KV cache, cell by cell: whose, shared, cached, free.

import { colour, ownerColour } from "./charts.js";

const GAP = 1;

export class Blocks {
  constructor() {
    this.kv = null;
    this.cells = []; // the owner of each
    this.places = new Map(); // the indices of each owner's cells
    this.size = 8; // pixels of a cell, with its gap
    this.columns = 1;
  }

  take(kv) {
    this.kv = kv;
    this.cells = [];
    this.places = new Map();
    for (const [count, owner] of kv?.blocks ?? []) {
      if (!this.places.has(owner)) this.places.set(owner, []);
      const places = this.places.get(owner);
      for (let i = 0; i < count; i++) places.push(this.cells.push(owner) - 1);
    }
  }

  /** As large cells as fit into some 260 pixels of height, from 3 to 14 pixels each. */
  height(width) {
    const fit = Math.floor(Math.sqrt((width * 260) / Math.max(1, this.cells.length)));
    this.size = Math.max(3, Math.min(14, fit));
    this.columns = Math.max(1, Math.floor(width / this.size));
    return Math.max(this.size, Math.ceil(this.cells.length / this.columns) * this.size);
  }

  draw(context) {
    const side = this.size - GAP;
    for (const [owner, places] of this.places) {
      context.fillStyle = typeof owner === "number" ? ownerColour(owner) : colour(owner);
      this.fill(context, side, places, owner);
    }
  }

  /** Cells of a kind. Those that are cached are smaller, and those that are shared have a hole: colours are not needed. */
  fill(context, side, places, kind) {
    const inset = kind === "cached" ? Math.max(0.5, side * 0.18) : 0;
    for (const i of places) {
      const x = (i % this.columns) * this.size + inset;
      const y = Math.floor(i / this.columns) * this.size + inset;
      context.fillRect(x, y, side - 2 * inset, side - 2 * inset);
      if (kind === "shared" && side > 4) context.clearRect(x + side * 0.35, y + side * 0.35, side * 0.3, side * 0.3);
    }
  }

  /** What is at a place of the picture, in words; "" where there is no cell. */
  at(x, y) {
    const column = Math.floor(x / this.size);
    const index = Math.floor(y / this.size) * this.columns + column;
    if (column >= this.columns || !(index in this.cells)) return "";
    const owner = this.cells[index];
    const wide = this.kv.blocks_per_cell ?? 1;
    const which = wide > 1 ? `blocks ${index * wide} to ${index * wide + wide - 1}` : `block ${index}`;
    return `${which}: ${typeof owner === "number" ? `request ${owner}` : owner}`;
  }
}
