// The blocks of the KV cache, cell by cell: whose, shared, cached, free.

import { colour, ownerColour } from "./charts.js";

const GAP = 1;

export class Blocks {
  constructor() {
    this.kv = null;
    this.cells = []; // the owner of each
    this.size = 8; // pixels of a cell, with its gap
    this.columns = 1;
  }

  take(kv) {
    this.kv = kv;
    this.cells = [];
    for (const [count, owner] of kv?.blocks ?? []) for (let i = 0; i < count; i++) this.cells.push(owner);
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
    for (const kind of ["free", "cached", "shared"]) {
      context.fillStyle = colour(kind);
      this.fill(context, side, (owner) => owner === kind, kind);
    }
    const owners = new Set(this.cells.filter((owner) => typeof owner === "number"));
    for (const n of owners) {
      context.fillStyle = ownerColour(n);
      this.fill(context, side, (owner) => owner === n, "owned");
    }
  }

  /** Cells of a kind. Those that are cached are smaller, and those that are shared have a hole: colours are not needed. */
  fill(context, side, matches, kind) {
    const inset = kind === "cached" ? Math.max(0.5, side * 0.18) : 0;
    for (let i = 0; i < this.cells.length; i++) {
      if (!matches(this.cells[i])) continue;
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
