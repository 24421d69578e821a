// The models of the server: which there are, what each can do, and how each is.

import { bus, getJson, request } from "./api.js";
import { button, clear, field, h, memory, show } from "./dom.js";

let models = [];
let waiting = 0; // the timer while a model loads
const lists = new Set(); // functions that show them
let settle;
export const ready = new Promise((resolve) => { settle = resolve; }); // when the server was first asked for them

export function all() {
  return models;
}

/** Those that can do something. Where the server does not say what one can, it is offered for everything. */
export function able(skill) {
  return models.filter((model) => !model.skills?.length || model.skills.includes(skill));
}

export async function refresh() {
  const listed = (await getJson("v1/models").catch(fail)).data;
  const skills = await askSkills();
  models = listed.map((model) => ({ status: "ready", ...model, skills: model.skills ?? skills.get(model.id) }));
  lists.forEach((update) => update());
  settle();
  clearTimeout(waiting);
  if (models.some((model) => model.status === "loading")) waiting = setTimeout(() => refresh().catch(() => {}), 1500);
}

function fail(error) {
  settle();
  throw error;
}

/** What each model can do, by id. Servers that do not tell it are asked once. */
let tellsSkills = true;
const known = new Map(); // also of models that are not loaded any more
async function askSkills() {
  if (!tellsSkills) return known;
  try {
    const stats = await getJson("engine/stats");
    for (const { id, skills } of stats.models) if (skills?.length) known.set(id, skills);
  } catch (error) {
    tellsSkills = error.status !== 404;
  }
  return known;
}

bus.addEventListener("back", () => refresh().catch(() => {}));

/** A choice of the models with a skill, with a button that loads or unloads the chosen one where the server can. */
export function chooser(skill, label = "Model") {
  const select = h("select", { change: () => { memory.set(`model.${skill}`, select.value); update(); } });
  const state = h("span", { class: "chip", "aria-live": "polite" });
  const load = button("Load", "power", () => change(select.value, load.dataset.act, state), { class: "quiet small" });
  const node = h("div", { class: "chooser" }, field(label, select), state, load);
  const update = () => {
    const found = able(skill);
    const wanted = memory.get(`model.${skill}`, select.value);
    const options = found.map((model) => h("option", { value: model.id }, shortName(model.id)));
    clear(select, ...(options.length ? options : [h("option", { value: "" }, "none is served")]));
    select.disabled = !options.length;
    if (found.some((model) => model.id === wanted)) select.value = wanted;
    const model = found.find((each) => each.id === select.value);
    show(state, model && model.status !== "ready");
    state.textContent = model?.status ?? "";
    show(load, model && "pinned" in model && !model.pinned && ["ready", "unloaded", "sleeping"].includes(model.status));
    load.dataset.act = { ready: "unload", sleeping: "wake" }[model?.status] ?? "load";
    load.querySelector("span").textContent = { unload: "Unload", wake: "Wake", load: "Load" }[load.dataset.act];
    node.dispatchEvent(new CustomEvent("change-model"));
  };
  lists.add(update);
  update();
  return { node, get value() { return select.value; }, get any() { return !select.disabled; } };
}

/** The last part of an id, unless another model has the same. */
function shortName(id) {
  const short = (each) => each.split("/").at(-1);
  return models.filter((model) => short(model.id) === short(id)).length > 1 ? id : short(id);
}

async function change(id, act, state) {
  show(state, true);
  state.textContent = { load: "loading", unload: "unloading", wake: "waking" }[act];
  try {
    await request(`v1/models/${id.split("/").map(encodeURIComponent).join("/")}/${act}`, { json: {} });
  } catch (error) {
    state.textContent = error.message;
    return;
  }
  await refresh().catch(() => {});
}
