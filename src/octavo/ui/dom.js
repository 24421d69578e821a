// Elements, icons and figures. Text goes into text nodes only; nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  send: ["M5 12h13M12.5 6l6 6-6 6"],
  stop: ["M7 7h10v10H7z"],
  again: ["M19 8a8 8 0 1 0 1 6", "M19.5 3.500V8H15"],
  copy: ["M9 9h10v11H9z", "M15 9V5H5v11h4"],
  edit: ["M5 19l1-4L16 5l3 3L9 18z", "M14 7l3 3"],
  sliders: ["M4 7h8M16 7h4M4 17h4M12 17h8", "M14 5v4M10 15v4"],
  plus: ["M12 5v14M5 12h14"],
  close: ["M6 6l12 12M18 6L6 18"],
  file: ["M6 3.500h8l4 4v13H6z", "M14 3.500v4h4"],
  mic: ["M9 6.500a3 3 0 0 1 6 0v5a3 3 0 0 1-6 0z", "M5.5 11.500a6.5 6.5 0 0 0 13 0M12 18v3"],
  down: ["M12 4v11M7 11l5 5 5-5M5 20h14"],
  pause: ["M8.5 6v12M15.5 6v12"],
  play: ["M8 5.500v13l10-6.500z"],
  tool: ["M14.5 6.500a4 4 0 0 1 5-1l-2.5 2.5 1 2 2 .5L22 8a4 4 0 0 1-5.5 4L9 19.5 6.5 17 14 9.500z"],
  power: ["M12 4v8", "M7.5 7a7 7 0 1 0 9 0"],
};

/** An element. Attributes with a function are listeners, `class` and `text` are what they say, null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "text") node.textContent = value;
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element of SVG. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function icon(name) {
  return s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, ...ICONS[name].map((d) => s("path", { d })));
}

/** A button with an icon, and its name beside it or for screen readers only. */
export function button(name, iconName, click, { quiet = true, bare = false, ...attributes } = {}) {
  const kind = [quiet ? "quiet" : "solid", bare ? "icon" : ""].join(" ").trim();
  const label = h("span", { class: bare ? "hidden" : "label" }, name);
  return h("button", { type: "button", class: kind, title: bare ? name : null, click, ...attributes }, iconName && icon(iconName), label);
}

let serial = 0;

/** A field with its label above it, and a hint under it. */
export function field(label, control, hint) {
  control.id ||= `field-${++serial}`;
  const told = hint && h("span", { class: "hint", id: `${control.id}-hint` }, hint);
  if (told) control.setAttribute("aria-describedby", told.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, told);
}

export function clear(node, ...children) {
  node.replaceChildren(...children.filter(Boolean));
  return node;
}

export function show(node, visible) {
  node.hidden = !visible;
}

export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}

export function count(value, digits = 0) {
  return Number.isFinite(value) ? value.toLocaleString("en", { maximumFractionDigits: digits }) : "–";
}

export function percent(share) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %` : "–";
}

let lastSaid = 0;
let waiting = null;

/** Tells screen readers, at most every 2.5 s; what is said later replaces what waits. */
export function announce(text) {
  const say = () => {
    lastSaid = performance.now();
    waiting = null;
    document.getElementById("announcer").textContent = text;
  };
  clearTimeout(waiting);
  waiting = setTimeout(say, Math.max(50, lastSaid + 2500 - performance.now()));
}

/** Offers a text as a file. */
export function download(name, text, type = "text/plain") {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Copies, and says so on the button. */
export async function copy(text, pressed) {
  const label = pressed.querySelector("span");
  const before = label.textContent;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {
    label.textContent = "Not allowed";
  }
  announce(label.textContent);
  setTimeout(() => { label.textContent = before; }, 1500);
}

/** What this tab keeps, as JSON, until it is closed. */
export const memory = {
  get(name, otherwise) {
    try {
      return JSON.parse(sessionStorage.getItem(`octavo.${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      sessionStorage.setItem(`octavo.${name}`, JSON.stringify(value));
    } catch { /* full or switched off: the page goes on without */ }
  },
};
