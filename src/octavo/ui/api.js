// Requests to the server that this page came from, and to no other.

import { memory } from "./dom.js";

const BASE = new URL(".", location.href);
export const bus = new EventTarget(); // "key": one is needed; "unlocked": one was taken; "gone": no answer; "back": there are answers again
let isGone = false;

/** What went wrong, in words for whoever reads the page. Status 0: there was no answer. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export const key = {
  get: () => memory.get("key", ""),
  set: (value) => memory.set("key", value),
};

export function url(path) {
  return new URL(path, BASE);
}

function emit(name, detail) {
  bus.dispatchEvent(new CustomEvent(name, { detail }));
}

function lose() {
  if (!isGone) {
    isGone = true;
    emit("gone");
  }
  return new ApiError("The server does not answer. It may have ended, or the network is interrupted.");
}

function find() {
  if (isGone) {
    isGone = false;
    emit("back");
  }
}

/** An answer whose status is good. Raises ApiError, or AbortError where `signal` says so. */
export async function request(path, { json, quiet = false, headers = {}, ...options } = {}) {
  const sent = { ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (json !== undefined) {
    sent["Content-Type"] = "application/json";
    Object.assign(options, { method: options.method ?? "POST", body: JSON.stringify(json) });
  }
  let response;
  try {
    response = await fetch(url(path), { ...options, headers: sent, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    throw options.signal?.aborted ? error : lose();
  }
  find();
  if (response.ok) return response;
  const told = await describe(response);
  if (told.status === 401 && !quiet) emit("key", key.get() ? told.message : "");
  throw told;
}

async function describe(response) {
  let message = `The server answered with status ${response.status}.`;
  let code = null;
  try {
    const { error } = await response.json();
    message = typeof error === "string" ? error : error.message;
    code = error.code;
  } catch { /* no JSON: a proxy's page, perhaps */ }
  const later = response.headers.get("retry-after");
  if (later && response.status !== 401) message += ` Try again in ${later} s.`;
  return new ApiError(message.charAt(0).toUpperCase() + message.slice(1), response.status, code);
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

/** The events of a stream, as {type, data}, until it ends. Raises ApiError where the connection breaks. */
export async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    throw signal?.aborted || error instanceof ApiError ? error : lose();
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const event = { type: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("data:")) event.data += (event.data && "\n") + line.slice(5).trimStart();
    else if (line.startsWith("event:")) event.type = line.slice(6).trim();
  }
  return event.data ? event : null;
}

/** Asks a probe, which needs no key: the phases of the models, or null where nothing answers. */
export async function probe() {
  try {
    const response = await fetch(url("readyz"), { cache: "no-store" });
    const answer = await response.json();
    find();
    return { ready: response.ok, ...answer };
  } catch {
    lose();
    return null;
  }
}
