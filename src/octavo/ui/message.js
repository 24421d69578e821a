// How one message of a conversation looks.

import { button, clear, copy, count, h, seconds, show } from "./dom.js";
import { MarkdownView } from "./markdown.js";

/** What the usage and the times of an answer come to, in a line. */
function figures({ usage, first, total, model }) {
  const written = usage?.completion_tokens;
  const parts = [];
  if (written !== undefined) parts.push(`${count(written)} token${written === 1 ? "" : "s"}`);
  if (written > 1 && total > first) parts.push(`${count((written - 1) / (total - first), 1)} tok/s`);
  if (first !== undefined) parts.push(`first after ${seconds(first)}`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    parts.push(`prompt ${count(usage.prompt_tokens)}${cached ? `, ${count(cached)} cached` : ""}`);
  }
  if (model) parts.push(model);
  return parts.join(" · ");
}

/** An article that shows `message` and is told when it has changed. `act` has what its buttons do. */
export class MessageView {
  constructor(message, act) {
    Object.assign(this, { message, act });
    this.body = h("div", { class: "prose" });
    this.thought = h("div", { class: "prose" });
    this.thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, "Thinking"), this.thought);
    this.calls = h("div", { class: "calls" });
    this.notice = h("p", { class: "notice", role: "alert", hidden: true });
    this.stats = h("p", { class: "stats" });
    this.buttons = h("div", { class: "message-buttons" });
    const name = { user: "You", assistant: "Model", tool: "Result of a tool" }[message.role];
    this.node = h("article", { class: `message ${message.role}`, "aria-label": name },
      this.thinking, this.body, this.calls, this.notice, h("footer", {}, this.stats, this.buttons));
    this.markdown = new MarkdownView(this.body);
    this.thoughts = new MarkdownView(this.thought);
    this.update();
  }

  /** Shows what the message is now; `running` while it is being written. */
  update(running = false) {
    const { role, content, reasoning, error, calls = [], stopped } = this.message;
    if (role === "assistant") this.markdown.update(content ?? "");
    else this.body.textContent = content;
    show(this.thinking, reasoning);
    if (reasoning) this.thoughts.update(reasoning);
    this.node.classList.toggle("running", running);
    this.node.setAttribute("aria-busy", String(running));
    show(this.notice, error);
    this.notice.textContent = error ?? "";
    const state = stopped ? "Stopped. " : this.message.cut ? "Cut at the longest answer. " : "";
    this.stats.textContent = running || role !== "assistant" ? "" : state + figures(this.message);
    if (running) this.buttons.replaceChildren();
    else this.finish(calls);
  }

  finish(calls) {
    const { role, content, error } = this.message;
    const buttons = [];
    if (content) {
      const press = button("Copy", "copy", () => copy(content, press), { bare: true });
      buttons.push(press);
    }
    if (role === "user") buttons.push(button("Edit and send again", "edit", () => this.act.edit(this), { bare: true }));
    if (role === "assistant") {
      const again = error ? "Try again" : "Regenerate";
      buttons.push(button(again, "again", () => this.act.regenerate(this.message), { bare: !error, quiet: !error }));
    }
    clear(this.buttons, ...buttons);
    clear(this.calls, ...calls.map((call) => this.card(call)));
  }

  /** A call of a tool, with a place for its result as long as there is none. */
  card(call) {
    const result = h("textarea", { rows: 2, class: "mono", placeholder: "What the tool answers", "aria-label": `Result of ${call.name}` });
    const send = button("Send the result", "send", () => this.act.answer(this.message, call, result.value), { quiet: false });
    const answered = this.act.isAnswered(call);
    return h("section", { class: "call", "aria-label": `Call of ${call.name}` },
      h("p", { class: "call-name" }, h("code", {}, call.name), h("span", {}, answered ? "answered" : "asks for a result")),
      h("pre", { tabindex: "0", "aria-label": "Arguments" }, pretty(call.arguments)),
      !answered && h("div", { class: "call-result" }, result, send));
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
