// Subtitles: pieces of text with their times, shown as they come, and written as srt, vtt or text.

import { button, clear, count, download, h, show } from "./dom.js";

function stamp(time, mark) {
  const total = Math.max(0, Math.round(time * 1000));
  const pad = (value, width = 2) => String(value).padStart(width, "0");
  return `${pad(Math.floor(total / 3_600_000))}:${pad(Math.floor(total / 60_000) % 60)}:${pad(Math.floor(total / 1000) % 60)}${mark}${pad(total % 1000, 3)}`;
}

const line = (text) => text.trim().replaceAll(/\s*\n\s*/g, " ").replaceAll("-->", "->");

export function toSrt(cues) {
  return cues.map((cue, i) => `${i + 1}\n${stamp(cue.start, ",")} --> ${stamp(cue.end, ",")}\n${line(cue.text)}\n`).join("\n");
}

export function toVtt(cues) {
  return `WEBVTT\n\n${cues.map((cue) => `${stamp(cue.start, ".")} --> ${stamp(cue.end, ".")}\n${line(cue.text)}\n`).join("\n")}`;
}

export function toText(cues) {
  return `${cues.map((cue) => line(cue.text)).join("\n")}\n`;
}

const FORMATS = { srt: [toSrt, "application/x-subrip"], vtt: [toVtt, "text/vtt"], txt: [toText, "text/plain"] };

/** The list of subtitles, the one of this moment, and the buttons that save them. `seek` is called with a time. */
export class Subtitles {
  constructor(seek) {
    this.seek = seek;
    this.name = "subtitles";
    this.cues = [];
    this.now = h("p", { class: "subtitle", "aria-live": "polite" });
    this.list = h("ol", { class: "cues" });
    this.buttons = h("div", { class: "exports", hidden: true }, h("span", { class: "hint" }, "Save as"),
      Object.keys(FORMATS).map((form) => button(form, "down", () => this.save(form), { class: "quiet small", "aria-label": `Save as ${form}` })));
    this.node = h("section", { class: "card transcript", "aria-label": "What was said" },
      h("div", { class: "card-head" }, h("h2", {}, "What was said"), this.buttons), this.now, this.list);
  }

  start(name) {
    this.name = name;
    this.cues = [];
    clear(this.list);
    this.say("");
    show(this.buttons, false);
  }

  say(text, muted = false) {
    this.now.textContent = text;
    this.now.classList.toggle("muted", muted);
  }

  /** A cue at its place in time; text that comes later for the same one is set by `change`. */
  add(cue) {
    const row = h("li", {}, h("button", { type: "button", class: "quiet time", click: () => this.seek(cue.start), "aria-label": `From ${stamp(cue.start, ".")}` }, shortTime(cue.start)), h("span", {}, cue.text.trim()));
    cue.row = row;
    this.cues.push(cue);
    this.list.append(row);
    this.change(cue);
    return cue;
  }

  change(cue, text = cue.text) {
    cue.text = text;
    cue.row.lastChild.textContent = text.trim() || "…";
    if (text.trim()) {
      this.say(text.trim());
      show(this.buttons, true);
    }
    this.list.scrollTop = this.list.scrollHeight;
  }

  remove(cue) {
    cue.row.remove();
    this.cues = this.cues.filter((each) => each !== cue);
  }

  /** Marks and shows what is said at a time of the recording. */
  at(time) {
    const found = this.cues.findLast((cue) => cue.start <= time && time < cue.end + 0.3);
    for (const cue of this.cues) cue.row.classList.toggle("spoken", cue === found);
    if (found && found !== this.spoken) {
      this.say(found.text.trim());
      found.row.scrollIntoView({ block: "nearest" });
    }
    this.spoken = found;
  }

  save(form) {
    const [write, type] = FORMATS[form];
    download(`${this.name.replace(/\.\w{1,5}$/, "")}.${form}`, write(this.cues.filter((cue) => cue.text.trim())), type);
  }
}

export function shortTime(time) {
  return `${count(Math.floor(time / 60))}:${(time % 60).toFixed(1).padStart(4, "0")}`;
}
