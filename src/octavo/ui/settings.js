// What a chat is sent with: the system prompt, sampling, thinking, tools. Empty fields are left to the model.

import { field, h, memory } from "./dom.js";

const NUMBERS = [
  ["temperature", "Temperature", 0, 2, 0.1, "0 takes the likeliest token each time"],
  ["top_p", "Top p", 0, 1, 0.05, "the likeliest tokens that make up this share"],
  ["top_k", "Top k", -1, null, 1, "so many of the likeliest tokens"],
  ["min_p", "Min p", 0, 1, 0.01, "a share of the likeliest token's probability"],
  ["max_tokens", "Max tokens", 1, null, 1],
  ["seed", "Seed", null, null, 1, "the same seed gives the same answer"],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1],
  ["repetition_penalty", "Repetition penalty", 0.01, null, 0.05],
];
const EXAMPLE = JSON.stringify([{
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}], null, 2);

/** The panel of settings. `values()` is what they add to a request; it raises an Error that names the field. */
export class Settings {
  constructor() {
    const saved = memory.get("settings", {});
    this.controls = {};
    this.system = this.keep("system", h("textarea", { rows: 4, spellcheck: "false", placeholder: "You are …" }), saved);
    this.tools = this.keep("tools", h("textarea", { rows: 6, spellcheck: "false", class: "mono", placeholder: EXAMPLE }), saved);
    this.thinking = this.keep("enable_thinking", h("select", {},
      h("option", { value: "" }, "As the model does"), h("option", { value: "true" }, "On"), h("option", { value: "false" }, "Off")), saved);
    this.choice = this.keep("tool_choice", h("select", {},
      h("option", { value: "" }, "The model decides"), h("option", { value: "required" }, "It must call one"), h("option", { value: "none" }, "None")), saved);
    this.node = h("div", { class: "settings" },
      field("System prompt", this.system),
      h("fieldset", {}, h("legend", {}, "Sampling"),
        h("p", { class: "hint" }, "An empty field is left to the model."),
        h("div", { class: "pairs" }, NUMBERS.map((number) => this.number(number, saved)))),
      field("Thinking", this.thinking, "for models whose template can switch it"),
      field("Tools", this.tools, "functions in OpenAI's form, a list in JSON; you type their results"),
      field("Use of tools", this.choice),
      h("button", { type: "button", class: "quiet small", click: () => this.reset() }, "Reset all"));
  }

  number([name, label, min, max, step, hint], saved) {
    const input = h("input", { type: "number", min, max, step: step < 1 ? "any" : step, inputmode: "decimal", placeholder: "model's own" });
    return field(label, this.keep(name, input, saved), hint);
  }

  keep(name, control, saved) {
    this.controls[name] = control;
    control.value = saved[name] ?? "";
    control.name = name;
    control.addEventListener("input", () => this.save());
    return control;
  }

  save() {
    const given = Object.entries(this.controls).filter(([, control]) => control.value !== "");
    memory.set("settings", Object.fromEntries(given.map(([name, control]) => [name, control.value])));
  }

  reset() {
    for (const control of Object.values(this.controls)) control.value = "";
    this.save();
  }

  values() {
    const found = {};
    for (const [name, label] of NUMBERS) {
      const control = this.controls[name];
      if (!control.validity.valid) throw new Error(`${label}: ${control.validationMessage || "must be a number"}`);
      if (control.value !== "") found[name] = Number(control.value);
    }
    if (this.thinking.value) found.enable_thinking = this.thinking.value === "true";
    const tools = this.parseTools();
    if (tools) found.tools = tools;
    if (tools && this.choice.value) found.tool_choice = this.choice.value;
    return found;
  }

  parseTools() {
    const text = this.tools.value.trim();
    if (!text) return null;
    let tools;
    try {
      tools = JSON.parse(text);
    } catch (error) {
      throw new Error(`Tools: this is no JSON: ${error.message}`);
    }
    if (!Array.isArray(tools)) tools = [tools];
    return tools.map((tool) => (tool?.function || tool?.type ? tool : { type: "function", function: tool }));
  }
}
