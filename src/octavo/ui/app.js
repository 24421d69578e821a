// The page: its views, the key, the theme, the keyboard, and how the server is.

import { bus, key, probe, request } from "./api.js";
import { announce, button, clear, field, h, show } from "./dom.js";
import * as models from "./models.js";

const VIEWS = {
  chat: async (place) => new (await import("./chat.js")).ChatView(place),
  speech: async (place) => new (await import("./speech.js")).SpeechView(place),
  map: async (place) => new (await import("./map.js")).MapView(place),
  engine: async (place) => new (await import("./engine.js")).EngineView(place),
};
const NAMES = { chat: "Chat", speech: "Speech", map: "Map of embeddings", engine: "Engine room" };
const SHORTCUTS = [
  ["Alt + 1 … 4", "Chat, Speech, Map, Engine room"],
  ["/", "write a message"],
  ["Enter", "send; Shift + Enter begins a new line"],
  ["Escape", "stop the answer; close a dialog or the settings"],
  ["Alt + N", "new chat"],
  ["Alt + S", "settings of the chat"],
  ["Space", "in the engine room: pause and go on"],
  ["?", "this help"],
];
const making = {}; // promises of the views that were asked for
const opened = {}; // the views that were made
let current = null;

async function open(name) {
  if (current === name) return making[name];
  opened[current]?.leave?.();
  current = name;
  history.replaceState(null, "", `#${name}`);
  for (const view of Object.keys(VIEWS)) {
    show(document.getElementById(`view-${view}`), view === name);
    const link = document.querySelector(`nav a[data-view=${view}]`);
    link.toggleAttribute("aria-current", view === name);
    if (view === name) link.setAttribute("aria-current", "page");
  }
  document.title = `${NAMES[name]} · Octavo`;
  making[name] ??= VIEWS[name](document.getElementById(`view-${name}`));
  opened[name] = await making[name];
  if (current === name) opened[name].enter?.();
  return opened[name];
}

function route() {
  const name = location.hash.slice(1);
  open(name in VIEWS ? name : "chat");
}

// The key

const keyInput = h("input", { type: "password", autocomplete: "off", spellcheck: "false" });
const keyReason = h("p", { class: "notice", role: "alert", hidden: true });
const keyDialog = h("dialog", { "aria-labelledby": "key-title" },
  h("form", { method: "dialog", submit: saveKey },
    h("h2", { id: "key-title" }, "API key"),
    h("p", {}, "This server wants a key. It is kept in this tab alone, until the tab is closed, and sent to this server alone."),
    keyReason, field("Key", keyInput),
    h("div", { class: "dialog-buttons" },
      h("button", { type: "button", class: "quiet", click: forgetKey }, "Forget it"),
      h("button", { type: "submit", class: "solid" }, "Use this key"))));

function askKey(reason) {
  show(keyReason, reason);
  keyReason.textContent = reason;
  if (!keyDialog.open) keyDialog.showModal();
  keyInput.select();
}

async function saveKey(event) {
  event.preventDefault();
  if (!/^[ -~]*$/.test(keyInput.value.trim())) return askKey("A key that browsers can send has only ASCII characters.");
  key.set(keyInput.value.trim());
  try {
    await request("v1/models", { quiet: true });
  } catch (error) {
    return askKey(error.status === 401 ? `The server does not take this key: ${error.message}.` : error.message);
  }
  await refresh();
  keyDialog.close();
  announce("The key is right.");
  bus.dispatchEvent(new Event("unlocked"));
}

function forgetKey() {
  key.set("");
  keyInput.value = "";
  keyDialog.close();
  refresh();
}

// Help

const helpDialog = h("dialog", { "aria-labelledby": "help-title" },
  h("div", { class: "panel-head" }, h("h2", { id: "help-title" }, "Keyboard"), button("Close", "close", () => helpDialog.close(), { bare: true })),
  h("table", { class: "keys" }, h("tbody", {}, SHORTCUTS.map(([keys, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, keys)), h("td", {}, what))))),
  h("p", { class: "hint" }, "All of this page comes from this server, and it asks no other. Conversations and keys stay in this tab."));

function pressed(event) {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "Escape" && current === "chat" && !document.querySelector("dialog[open]")) opened.chat?.stop();
  if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const name = Object.keys(VIEWS)[["Digit1", "Digit2", "Digit3", "Digit4"].indexOf(event.code)]; // Alt + 1 writes "¡" on a Mac
    if (name) location.hash = name;
    else if (event.code === "KeyN" && current === "chat") opened.chat?.reset();
    else if (event.code === "KeyS" && current === "chat") opened.chat?.toggle();
    else return;
    event.preventDefault();
  } else if (!typing && !event.ctrlKey && !event.metaKey) {
    if (event.key === "?") helpDialog.showModal();
    else if (event.key === "/") open("chat").then((chat) => chat.focus());
    else return opened[current]?.pressed?.(event);
    event.preventDefault();
  }
}

// Light and dark

function switchTheme() {
  const { dataset } = document.documentElement;
  const isDark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("octavo.theme", dataset.theme);
  } catch { /* it is forgotten with the page then */ }
  bus.dispatchEvent(new Event("theme"));
  announce(`${isDark ? "Light" : "Dark"} colours.`);
}

// How the server is

const banner = document.getElementById("banner");
const state = document.getElementById("server-state");

function tell(kind, text) {
  state.dataset.state = kind;
  state.querySelector(".server-text").textContent = text;
}

async function watch() {
  const found = document.hidden ? undefined : await probe();
  if (found) {
    const loading = Object.entries(found.models ?? {}).filter(([, phase]) => phase !== "ready");
    const before = state.dataset.state;
    if (found.ready) tell("ready", "Ready");
    else tell("waiting", loading.length ? loading.map((pair) => pair.join(": ")).join(", ") : found.reason ?? "not ready");
    if (found.ready && before === "waiting") refresh();
  }
  setTimeout(watch, found === null || !found?.ready ? 1000 : 5000);
}

bus.addEventListener("gone", () => {
  tell("gone", "No answer");
  clear(banner, h("strong", {}, "The server does not answer."), " It is asked again every second; what you wrote is kept.");
  show(banner, true);
});
bus.addEventListener("back", () => {
  show(banner, false);
  tell("ready", "Ready");
});
bus.addEventListener("key", ({ detail }) => askKey(detail));

async function refresh() {
  try {
    await models.refresh();
  } catch { /* the banner or the dialog says why */ }
}

document.body.append(keyDialog, helpDialog);
document.getElementById("theme-button").addEventListener("click", switchTheme);
document.getElementById("key-button").addEventListener("click", () => { keyInput.value = key.get(); askKey(""); });
document.getElementById("help-button").addEventListener("click", () => helpDialog.showModal());
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
document.addEventListener("keydown", pressed);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => bus.dispatchEvent(new Event("theme")));
addEventListener("hashchange", route);
route();
refresh();
watch();
