// A conversation with a model: sent whole each time, answered as a stream, kept until the tab is closed.

import { ApiError, bus, events, request } from "./api.js";
import { announce, button, clear, h, memory, show } from "./dom.js";
import { MessageView } from "./message.js";
import { chooser, ready } from "./models.js";
import { Settings } from "./settings.js";

const EXAMPLES = ["Why is the sky blue?", "Write a haiku about a library.", "Show a table of three planets and their moons.", "Explain what a prefix cache is."];

export class ChatView {
  constructor(place) {
    this.messages = memory.get("chat", []);
    this.views = new Map(); // by message
    this.running = null; // the AbortController of the answer that is being written
    this.settings = new Settings();
    this.models = chooser("text");
    this.build(place);
    this.show();
    bus.addEventListener("back", () => { if (this.messages.at(-1)?.error) announce("The server is back. Try again works now."); });
  }

  build(place) {
    this.log = h("div", { class: "log", role: "log", "aria-live": "off", "aria-label": "Conversation", tabindex: "0" });
    this.input = h("textarea", { rows: 1, "aria-label": "Message", placeholder: "Ask something", enterkeyhint: "send",
      keydown: (event) => this.typed(event), input: () => this.fit() });
    this.error = h("p", { class: "notice", role: "alert", hidden: true });
    this.sendButton = button("Send", "send", () => this.send(), { quiet: false, bare: true });
    this.stopButton = button("Stop", "stop", () => this.stop(), { quiet: false, bare: true, hidden: true });
    this.panel = h("aside", { class: "panel", id: "chat-settings", "aria-label": "Settings of the chat", hidden: true },
      h("div", { class: "panel-head" }, h("h2", {}, "Settings"), button("Close the settings", "close", () => this.toggle(false), { bare: true })),
      this.settings.node);
    this.settingsButton = button("Settings", "sliders", () => this.toggle(), { "aria-expanded": "false", "aria-controls": "chat-settings" });
    place.append(
      h("div", { class: "bar" }, this.models.node, h("span", { class: "spring" }),
        button("New chat", "plus", () => this.reset()), this.settingsButton),
      h("div", { class: "split" },
        h("div", { class: "talk" }, this.log,
          h("form", { class: "composer", submit: (event) => { event.preventDefault(); this.send(); } },
            this.error, h("div", { class: "composer-box" }, this.input, this.sendButton, this.stopButton),
            h("p", { class: "hint" }, "Enter sends, Shift + Enter begins a line. What a model says may be wrong."))),
        this.panel));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // the answer goes on
      this.toggle(false);
    });
  }

  toggle(open = this.panel.hidden) {
    show(this.panel, open);
    this.settingsButton.setAttribute("aria-expanded", String(open));
    (open ? this.settings.system : this.settingsButton).focus();
  }

  focus() {
    this.input.focus();
  }

  typed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    }
  }

  fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, innerHeight * 0.4)}px`;
  }

  /** Shows all messages from the beginning. */
  show() {
    this.views.clear();
    const act = {
      edit: (view) => this.edit(view),
      regenerate: (message) => this.regenerate(message),
      answer: (message, call, text) => this.answerCall(message, call, text),
      isAnswered: (call) => this.messages.some((message) => message.call === call.id),
    };
    for (const message of this.messages) this.views.set(message, new MessageView(message, act));
    this.act = act;
    clear(this.log, ...(this.messages.length ? [...this.views.values()].map((view) => view.node) : [this.welcome()]));
    this.log.scrollTop = this.log.scrollHeight;
  }

  welcome() {
    const ask = (text) => () => { this.input.value = text; this.send(); };
    return h("div", { class: "welcome" }, h("h2", {}, "What would you like to ask?"),
      h("p", {}, "The model runs on the machine of this server. Nothing goes anywhere else, and the conversation is gone when this tab is closed."),
      h("ul", {}, EXAMPLES.map((text) => h("li", {}, h("button", { type: "button", class: "example", click: ask(text) }, text)))));
  }

  reset() {
    this.stop();
    this.messages = [];
    memory.set("chat", []);
    this.show();
    this.complain("");
    this.focus();
  }

  add(message) {
    if (!this.messages.length) clear(this.log);
    const view = new MessageView(message, this.act);
    this.messages.push(message);
    this.views.set(message, view);
    this.log.append(view.node);
    this.log.scrollTop = this.log.scrollHeight;
    return view;
  }

  complain(text) {
    show(this.error, text);
    this.error.textContent = text;
  }

  async send() {
    await ready;
    const text = this.input.value.trim();
    if (!text || this.running || !this.isReady()) return;
    this.add({ role: "user", content: text });
    this.input.value = "";
    this.fit();
    await this.answer();
  }

  /** Whether a request can be made of the settings and the model; says what is wrong otherwise. */
  isReady() {
    try {
      this.settings.values();
    } catch (error) {
      this.complain(error.message);
      return false;
    }
    this.complain(this.models.any ? "" : "No model here answers text. Start the server with one: octavo serve MODEL");
    return this.models.any;
  }

  async answerCall(message, call, text) {
    if (this.running || !this.isReady()) return;
    this.add({ role: "tool", call: call.id, content: text });
    this.views.get(message).update();
    if (message.calls.every((each) => this.act.isAnswered(each))) await this.answer();
  }

  /** Writes an answer anew, without what came after it. */
  async regenerate(message) {
    if (this.running || !this.isReady()) return;
    this.cut(this.messages.indexOf(message));
    await this.answer();
  }

  edit(view) {
    if (this.running) return;
    this.cut(this.messages.indexOf(view.message));
    this.input.value = view.message.content;
    this.fit();
    this.focus();
  }

  cut(at) {
    this.messages.length = at;
    memory.set("chat", this.messages);
    this.show();
  }

  stop() {
    this.running?.abort();
  }

  body() {
    const system = this.settings.system.value.trim();
    const messages = this.messages.filter((message) => !message.error || message.content).map(toApi);
    return {
      model: this.models.value,
      messages: system ? [{ role: "system", content: system }, ...messages] : messages,
      ...this.settings.values(),
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  async answer() {
    const body = this.body();
    const message = { role: "assistant", content: "", model: body.model };
    const view = this.add(message);
    const { signal } = (this.running = new AbortController());
    this.setRunning(true);
    view.update(true);
    try {
      await this.read(body, message, view, signal);
    } catch (error) {
      if (signal.aborted) message.stopped = true;
      else message.error = error instanceof ApiError ? error.message : `The page failed: ${error.message}`;
    }
    this.running = null;
    this.setRunning(false);
    view.update();
    this.scroll();
    memory.set("chat", this.messages);
    announce(message.error ?? (message.stopped ? "Stopped." : `Answer: ${message.content}`));
  }

  setRunning(running) {
    show(this.sendButton, !running);
    show(this.stopButton, running);
    if (running && document.activeElement === document.body) this.focus();
  }

  /** Reads the answer's stream into `message`. Raises ApiError. */
  async read(body, message, view, signal) {
    const began = performance.now();
    const frame = new Frame(() => { view.update(true); this.scroll(); });
    let done = false;
    try {
      const response = await request("v1/chat/completions", { json: body, signal });
      for await (const { data } of events(response, signal)) {
        if (data === "[DONE]") { done = true; break; }
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.message ?? String(chunk.error), 200);
        if (chunk.usage) message.usage = chunk.usage;
        const choice = chunk.choices?.[0];
        if (!choice) continue;
        if (take(message, choice.delta ?? {})) {
          message.total = (performance.now() - began) / 1000;
          message.first ??= message.total;
          frame.ask();
          announce(tail(message.content));
        }
        if (choice.finish_reason === "length") message.cut = true;
      }
    } finally {
      frame.cancel(); // it would show an answer that was stopped as one that is being written
    }
    if (!done && !signal.aborted) throw new ApiError("The answer was interrupted: the server ended the connection.");
  }

  /** Follows the answer, unless whoever reads has scrolled away. */
  scroll() {
    const left = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
    if (left < 160) this.log.scrollTop = this.log.scrollHeight;
  }
}

/** Calls a function once per frame at most, however often it is asked. */
class Frame {
  constructor(draw) {
    this.draw = draw;
    this.id = 0;
  }

  ask() {
    this.id ||= requestAnimationFrame(() => { this.id = 0; this.draw(); });
  }

  cancel() {
    cancelAnimationFrame(this.id);
    this.id = 0;
  }
}

/** Adds what a delta says to a message; whether it said anything. */
function take(message, delta) {
  const thought = delta.reasoning ?? delta.reasoning_content;
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  if (delta.content) message.content += delta.content;
  for (const call of delta.tool_calls ?? []) {
    const calls = (message.calls ??= []);
    const known = (calls[call.index ?? calls.length] ??= { id: "", name: "", arguments: "" });
    if (call.id) known.id = call.id;
    known.name += call.function?.name ?? "";
    known.arguments += call.function?.arguments ?? "";
  }
  return Boolean(thought || delta.content || delta.tool_calls);
}

/** The last whole sentence of a text that grows, which is what is read out. Only its end is looked at: this is done for each chunk. */
function tail(text) {
  const sentences = text.slice(-400).match(/[^.!?\n]+[.!?\n]/g);
  return sentences ? sentences.at(-1).trim() : "";
}

/** A message as the server takes it. */
function toApi({ role, content, reasoning, calls, call }) {
  if (role === "tool") return { role, tool_call_id: call, content };
  if (!calls?.length) return { role, content, ...(reasoning && { reasoning }) };
  const made = calls.map((each) => ({ id: each.id, type: "function", function: { name: each.name, arguments: each.arguments } }));
  return { role, content: content || null, tool_calls: made };
}
