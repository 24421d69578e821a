// Markdown as DOM nodes. Whatever a model writes becomes text nodes inside elements that are made here: HTML shows as text.

import { button, copy, h } from "./dom.js";

const DEEPEST = 12; // lists and quotes within each other
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const ITEM = /^( {0,8})([-*+]|\d{1,9}[.)])( +|$)/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const SCHEME = /^(https?:\/\/|mailto:)/i;

/** Shows a text that grows in `place`: only blocks that are new or changed are made again. */
export class MarkdownView {
  constructor(place) {
    this.place = place;
    this.shown = []; // the source of each block
  }

  update(text) {
    const blocks = split(text);
    let same = 0;
    while (same < blocks.length && blocks[same] === this.shown[same]) same++;
    while (this.place.childNodes.length > same) this.place.lastChild.remove();
    for (const source of blocks.slice(same)) this.place.append(block(source, 0));
    this.shown = blocks;
  }
}

/** The sources of a text's blocks. */
function split(text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    const end = blockEnd(lines, at);
    const source = lines.slice(at, end).join("\n");
    if (source.trim()) blocks.push(source);
    at = end;
  }
  return blocks;
}

/** The line after the block that begins at a line. */
function blockEnd(lines, at) {
  const first = lines[at];
  const fence = FENCE.exec(first);
  if (fence) {
    const closing = lines.findIndex((line, i) => i > at && line.trim().startsWith(fence[1]) && /^[`~]+\s*$/.test(line.trim()));
    return closing < 0 ? lines.length : closing + 1;
  }
  if (!first.trim() || HEADING.test(first) || RULE.test(first)) return at + 1;
  if (ITEM.test(first)) return listEnd(lines, at);
  const isQuote = first.startsWith(">");
  const isTable = first.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-");
  let end = at + (isTable ? 2 : 1);
  while (end < lines.length && lines[end].trim()) {
    if (isQuote ? !lines[end].startsWith(">") : begins(lines, end)) break;
    end++;
  }
  return end;
}

function begins(lines, at) {
  const line = lines[at];
  const table = line.includes("|") && (lines[at + 1] ?? "").includes("|") && DIVIDER.test(lines[at + 1]);
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || line.startsWith(">") || table;
}

/** A list goes on over blank lines as long as what follows is indented or another item of its kind. */
function listEnd(lines, at) {
  const numbered = /\d/.test(ITEM.exec(lines[at])[2]);
  let end = at + 1;
  let fenced = null;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const fence = FENCE.exec(line.trim());
    if (fenced) {
      if (line.trim() === fenced) fenced = null;
      continue;
    }
    const item = ITEM.exec(line);
    const inside = /^ {2,}\S/.test(line);
    if (fence && inside) fenced = fence[1];
    if (!line.trim() || inside) continue;
    if (item && /\d/.test(item[2]) === numbered && !RULE.test(line)) continue;
    if (lines[end - 1].trim() && !begins(lines, end)) continue; // a line that goes on lazily
    break;
  }
  while (end > at + 1 && !lines[end - 1].trim()) end--;
  return end;
}

function block(source, depth) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(lines[0]);
  if (heading) return h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2]));
  if (RULE.test(lines[0])) return h("hr");
  if (depth < DEEPEST && ITEM.test(lines[0])) return list(lines, depth);
  if (depth < DEEPEST && source.startsWith(">")) {
    const inner = lines.map((line) => line.replace(/^> ?/, "")).join("\n");
    return h("blockquote", {}, split(inner).map((each) => block(each, depth + 1)));
  }
  if (lines.length > 1 && lines[0].includes("|") && DIVIDER.test(lines[1])) return table(lines);
  return h("p", {}, inline(source));
}

function code(lines, fence) {
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(fence[1]);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const press = button("Copy", "copy", () => copy(text, press));
  const language = fence[2] || "text";
  return h("figure", { class: "code" },
    h("figcaption", {}, h("span", {}, language), press),
    h("pre", { tabindex: "0", "aria-label": `Code, ${language}` }, h("code", {}, text)));
}

function list(lines, depth) {
  const numbered = /\d/.test(ITEM.exec(lines[0])[2]);
  const base = ITEM.exec(lines[0])[1].length;
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= base + 1) items.push([line.slice(item[0].length)]);
    else items.at(-1).push(line);
  }
  const start = numbered ? parseInt(ITEM.exec(lines[0])[2], 10) : 1;
  return h(numbered ? "ol" : "ul", { start: start === 1 ? null : String(start) }, items.map((item) => listItem(item, depth)));
}

function listItem(lines, depth) {
  const rest = lines.slice(1);
  const indents = rest.filter((line) => line.trim()).map((line) => /^ */.exec(line)[0].length);
  const indent = Math.min(8, ...indents);
  const text = [lines[0], ...rest.map((line) => line.slice(indent))].join("\n");
  const blocks = split(text);
  if (blocks.length && !begins(blocks[0].split("\n"), 0)) {
    return h("li", {}, inline(blocks[0]), blocks.slice(1).map((each) => block(each, depth + 1)));
  }
  return h("li", {}, blocks.map((each) => block(each, depth + 1)));
}

function cells(line) {
  const trimmed = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return trimmed.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines) {
  const sides = cells(lines[1]).map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left"));
  const row = (tag) => (line) => h("tr", {}, cells(line).slice(0, 64).map((cell, i) =>
    h(tag, { class: `align-${sides[i] ?? "left"}`, scope: tag === "th" ? "col" : null }, inline(cell))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" },
    h("table", {}, h("thead", {}, row("th")(lines[0])), h("tbody", {}, lines.slice(2).map(row("td")))));
}

/** The nodes of a text with marks inside lines. A mark without an end is text, and is looked for only once. */
function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set();
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(plain);
    plain = "";
  };
  for (let at = 0; at < text.length;) {
    const found = depth < 6 ? span(text, at, missing, depth) : null;
    if (found) {
      flush();
      nodes.push(found.node);
      at = found.end;
    } else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else {
      plain += text[at++];
    }
  }
  flush();
  return nodes;
}

function span(text, at, missing, depth) {
  const mark = text[at];
  if (mark === "\n") return lineBreak(text, at);
  if (mark === "`") return codeSpan(text, at, missing);
  if (mark === "[" || (mark === "!" && text[at + 1] === "[")) return link(text, at, missing, depth);
  if (mark === "*" || mark === "_" || mark === "~") return emphasis(text, at, missing, depth);
  if (mark === "<" || mark === "h") return bareLink(text, at);
  return null;
}

function lineBreak(text, at) {
  const hard = text.slice(Math.max(0, at - 2), at) === "  " || text[at - 1] === "\\";
  return { node: hard ? h("br") : "\n", end: at + 1 };
}

function find(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  const at = text.indexOf(mark, from);
  if (at < 0) missing.add(mark);
  return at;
}

function codeSpan(text, at, missing) {
  const ticks = /^`+/.exec(text.slice(at, at + 16))[0];
  const end = find(text, ticks, at + ticks.length, missing);
  if (end < 0) return null;
  return { node: h("code", {}, text.slice(at + ticks.length, end).trim()), end: end + ticks.length };
}

function emphasis(text, at, missing, depth) {
  const mark = text[at + 1] === text[at] ? text[at].repeat(2) : text[at];
  if (mark === "~" || (mark[0] === "_" && /\w/.test(text[at - 1] ?? ""))) return null;
  const from = at + mark.length;
  if (/\s|^$/.test(text[from] ?? "")) return null;
  let tries = 64; // of ends that are none: a text of stars alone is not searched forever
  for (let end = find(text, mark, from + 1, missing); end > 0 && tries--; end = find(text, mark, end + 1, missing)) {
    if (/\s/.test(text[end - 1]) || (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? ""))) continue;
    if (mark.length === 1 && text[end + 1] === mark) { end++; continue; }
    const tag = { "**": "strong", __: "strong", "~~": "del" }[mark] ?? "em";
    return { node: h(tag, {}, inline(text.slice(from, end), depth + 1)), end: end + mark.length };
  }
  return null;
}

/** [text](address). A picture becomes a link, too: the page loads nothing that a model names. */
function link(text, at, missing, depth) {
  const from = text[at] === "!" ? at + 2 : at + 1;
  const middle = find(text, "](", from, missing);
  const end = middle < 0 ? -1 : find(text, ")", middle, missing);
  if (end < 0 || text.slice(from, middle).includes("\n\n")) return null;
  const address = text.slice(middle + 2, end).trim().split(/\s/)[0].replace(/^<|>$/g, "");
  if (!SCHEME.test(address)) return null;
  const inner = inline(text.slice(from, middle), Math.max(depth + 1, 5));
  return { node: anchor(address, inner.length ? inner : [address]), end: end + 1 };
}

function bareLink(text, at) {
  const bracket = text[at] === "<";
  const found = /^(https?:\/\/|mailto:)[^\s<>"'`)\]]+/i.exec(text.slice(bracket ? at + 1 : at, at + 2000));
  if (!found || (!bracket && /\w/.test(text[at - 1] ?? ""))) return null;
  const address = bracket ? found[0] : found[0].replace(/[.,;:!?*_]+$/, "");
  const end = at + address.length + (bracket ? 1 : 0);
  if (bracket && text[end] !== ">") return null;
  return { node: anchor(address, [address]), end: end + (bracket ? 1 : 0) };
}

function anchor(address, children) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}
