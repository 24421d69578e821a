// The microphone over the realtime WebSocket: samples go out, turns and their texts come in.

import { key, url } from "./api.js";

const HEARD = "conversation.item.input_audio_transcription";

/** Listens until `stop`. `on` has started(id, seconds), stopped(id, seconds), text(id, text, isWhole), level(0..1), failed(message), ended(). */
export class Microphone {
  constructor(model, language, on) {
    Object.assign(this, { model, language, on });
    this.open = 0; // turns whose text is still to come
  }

  /** Raises an Error that says what is missing, or that it was stopped before it began. */
  async start() {
    if (!navigator.mediaDevices) throw new Error("Browsers give pages the microphone over https or on localhost only. Open this page as http://localhost:PORT, or serve it with --ssl-certfile.");
    this.media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } }).catch((error) => {
      throw new Error(error.name === "NotAllowedError" ? "The browser does not allow this page to use the microphone." : "There is no microphone.");
    });
    this.check();
    await this.connect();
    this.check();
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("recorder.js", import.meta.url).href);
    this.check();
    const source = this.context.createMediaStreamSource(this.media);
    this.recorder = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    this.recorder.port.onmessage = ({ data }) => this.send(data);
    source.connect(this.recorder);
  }

  /** Whoever pressed Stop while something was awaited gets no microphone: it is closed again, and an Error raised. */
  check() {
    if (!this.ended) return;
    this.release();
    throw new Error("Stopped.");
  }

  connect() {
    const address = url(`v1/realtime?intent=transcription&model=${encodeURIComponent(this.model)}`);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = ["realtime", ...(key.get() ? [`openai-insecure-api-key.${asToken(key.get())}`] : [])];
    this.socket = new WebSocket(address, protocols);
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    return new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        const transcription = { model: this.model, ...(this.language && { language: this.language }) };
        const detection = { type: "server_vad", silence_duration_ms: 350 };
        this.tell({ type: "session.update", session: { type: "transcription", audio: { input: { transcription, turn_detection: detection } } } });
        resolve();
      };
      this.socket.onclose = ({ reason }) => {
        reject(new Error("The server refused the connection."));
        this.release();
        if (!this.ended) this.on.failed(reason ? `The server ended the session: ${reason}.` : "The connection to the server was interrupted.");
        this.end();
      };
    });
  }

  tell(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  send(buffer) {
    const samples = new Int16Array(buffer);
    let loudest = 0;
    for (const sample of samples) loudest = Math.max(loudest, Math.abs(sample));
    this.on.level(loudest / 32768);
    this.tell({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...new Uint8Array(buffer))) });
  }

  take(event) {
    const { type, item_id: id } = event;
    if (type === "input_audio_buffer.speech_started") {
      this.open++;
      this.on.started(id, event.audio_start_ms / 1000);
    } else if (type === "input_audio_buffer.speech_stopped") this.on.stopped(id, event.audio_end_ms / 1000);
    else if (type === `${HEARD}.delta`) this.on.text(id, event.delta, false);
    else if (type === `${HEARD}.completed`) this.close(() => this.on.text(id, event.transcript, true));
    else if (type === `${HEARD}.failed`) this.close(() => { this.on.text(id, "", true); this.on.failed(event.error.message); });
    else if (type === "error" && event.error.code !== "input_audio_buffer_commit_empty") this.on.failed(event.error.message);
    else if (type === "error" && this.stopping) this.finish();
  }

  close(then) {
    this.open--;
    then();
    if (this.stopping && this.open <= 0) this.finish();
  }

  /** Takes no more sound; what was said is still written down. */
  stop() {
    this.release();
    this.stopping = true;
    if (!this.open) this.finish();
    else this.tell({ type: "input_audio_buffer.append", audio: btoa("\0".repeat(48_000)) }); // a second of silence ends the turn
  }

  release() {
    for (const track of this.media?.getTracks() ?? []) track.stop();
    if (this.context?.state !== "closed") this.context?.close();
  }

  finish() {
    this.ended = true;
    if (this.socket) this.socket.close();
    else this.end();
  }

  end() {
    this.on.ended();
  }
}

/** A key as a subprotocol may have it, which is a token of HTTP: percent-encoded, with the two characters that encodeURIComponent leaves. */
function asToken(text) {
  return encodeURIComponent(text).replace(/[()]/g, (each) => (each === "(" ? "%28" : "%29"));
}
