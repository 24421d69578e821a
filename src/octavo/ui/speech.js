// Speech to text: a file or the microphone, with subtitles as they come.

import { ApiError, events, request } from "./api.js";
import { announce, button, field, h, seconds, show } from "./dom.js";
import { Microphone } from "./microphone.js";
import { chooser, ready } from "./models.js";
import { Subtitles } from "./subtitles.js";

export class SpeechView {
  constructor(place) {
    this.models = chooser("transcribe");
    this.subtitles = new Subtitles((time) => this.seek(time));
    this.running = null; // what stops the work that goes on
    this.build(place);
  }

  build(place) {
    this.language = h("input", { placeholder: "found by itself", autocomplete: "off", maxlength: "40", spellcheck: "false", size: "14" });
    this.input = h("input", { type: "file", accept: "audio/*,video/*", class: "hidden", tabindex: "-1", "aria-label": "A file of sound", change: () => this.read(this.input.files[0]) });
    this.fileButton = button("Choose a file", "file", () => this.input.click(), { quiet: false });
    this.micButton = button("Listen", "mic", () => this.listen(), { class: "outlined" });
    this.stopButton = button("Stop", "stop", () => this.running?.(), { class: "outlined", hidden: true });
    this.level = h("meter", { min: "0", max: "1", value: "0", "aria-label": "Loudness", hidden: true });
    this.notice = h("p", { class: "notice", role: "alert", hidden: true });
    this.state = h("p", { class: "hint", role: "status" }, "Any format of sound or video: wav, mp3, m4a, ogg, flac, webm and more. It can be dropped here, too.");
    this.player = h("audio", { controls: true, hidden: true, timeupdate: () => this.subtitles.at(this.player.currentTime), error: () => show(this.player, false) });
    const source = h("section", { class: "card source", "aria-label": "Where the sound comes from" },
      h("div", { class: "source-buttons" }, this.fileButton, this.micButton, this.stopButton, this.level, this.input), this.state, this.notice, this.player);
    place.append(
      h("div", { class: "bar" }, this.models.node, field("Language", this.language)),
      h("div", { class: "room narrow" }, source, this.subtitles.node));
    place.addEventListener("dragover", (event) => { event.preventDefault(); source.classList.add("over"); });
    place.addEventListener("dragleave", () => source.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      source.classList.remove("over");
      this.read(event.dataTransfer.files[0]);
    });
  }

  seek(time) {
    if (this.player.hidden) return;
    this.player.currentTime = time;
    this.player.play().catch(() => {});
  }

  complain(text) {
    this.notice.textContent = text;
    show(this.notice, text);
  }

  /** Whether work may begin. */
  isReady() {
    this.complain(this.models.any ? "" : "No model here writes down speech. Start the server with one beside the others: octavo serve MODEL whisper-tiny.en");
    return this.models.any && !this.running;
  }

  setRunning(stop) {
    this.running = stop;
    show(this.stopButton, stop);
    show(this.fileButton, !stop);
    show(this.micButton, !stop);
    (stop ? this.stopButton : this.fileButton).focus();
  }

  // A file

  async read(file) {
    await ready;
    this.input.value = "";
    if (!file || !this.isReady()) return;
    const work = new AbortController();
    this.setRunning(() => work.abort());
    this.subtitles.start(file.name);
    this.play(file);
    const began = performance.now();
    this.state.textContent = `Reads ${file.name} …`;
    try {
      await this.follow(file, work.signal);
      this.state.textContent = `${file.name}: written down in ${seconds((performance.now() - began) / 1000)}.`;
      if (!this.subtitles.cues.length) this.subtitles.say("Nobody speaks in it.", true);
      announce(`Done, ${this.subtitles.cues.length} subtitles.`);
    } catch (error) {
      this.state.textContent = work.signal.aborted ? "Stopped. What was written so far is kept." : "";
      if (!work.signal.aborted) this.complain(error instanceof ApiError ? error.message : `The page failed: ${error.message}`);
    }
    this.setRunning(null);
  }

  play(file) {
    URL.revokeObjectURL(this.player.src);
    this.player.src = URL.createObjectURL(file);
    show(this.player, true);
  }

  async follow(file, signal) {
    const body = new FormData();
    const fields = { model: this.models.value, language: this.language.value.trim(), response_format: "verbose_json", stream: "true" };
    for (const [name, value] of Object.entries(fields)) if (value) body.append(name, value);
    body.append("file", file, file.name);
    const response = await request("v1/audio/transcriptions", { method: "POST", body, signal });
    let done = false;
    for await (const { data } of events(response, signal)) {
      if (data === "[DONE]") { done = true; break; }
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message, 200);
      if (event.type !== "transcript.text.segment") continue;
      this.subtitles.add({ start: event.start, end: event.end, text: event.text });
      this.state.textContent = `${seconds(event.end)} of ${file.name} are text …`;
    }
    if (!done && !signal.aborted) throw new ApiError("The transcription was interrupted: the server ended the connection.");
  }

  // The microphone

  async listen() {
    await ready;
    if (!this.isReady()) return;
    const cues = new Map(); // by item
    const microphone = new Microphone(this.models.value, this.language.value.trim(), {
      started: (id, start) => {
        cues.set(id, this.subtitles.add({ start, end: start, text: "" }));
        this.subtitles.say("Somebody speaks …", true);
      },
      stopped: (id, end) => { cues.get(id).end = end; },
      text: (id, text, isWhole) => this.hear(cues.get(id), text, isWhole),
      level: (value) => { this.level.value = value; },
      failed: (message) => this.complain(message),
      ended: () => this.ended(),
    });
    this.state.textContent = "Asks for the microphone …";
    this.setRunning(() => microphone.stop());
    this.subtitles.start(`microphone-${new Date().toISOString().slice(0, 16).replace(":", "-")}`);
    show(this.player, false);
    try {
      await microphone.start();
      show(this.level, true);
      this.state.textContent = "Listens. Text comes at each pause.";
    } catch (error) {
      microphone.release();
      if (microphone.ended) return; // the view was told; another one may listen by now
      this.complain(error.message);
      this.ended();
    }
  }

  hear(cue, text, isWhole) {
    if (!cue) return;
    const all = isWhole ? text : cue.text + text;
    if (isWhole && !all.trim()) this.subtitles.remove(cue);
    else this.subtitles.change(cue, all);
  }

  ended() {
    if (!this.running) return;
    show(this.level, false);
    this.state.textContent = "The microphone is off.";
    this.setRunning(null);
  }

  leave() { /* a transcription goes on while another view is open */ }
}
