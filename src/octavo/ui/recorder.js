// Runs in the audio thread: what the microphone hears, as 16-bit samples of one channel at 24 kHz, a tenth of a second at a time.

const RATE = 24_000;
const PIECE = RATE / 10;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(PIECE);
    this.length = 0;
    this.place = 0; // between the last sample that was read and the next, in samples of the microphone
    this.before = 0;
  }

  process([channels]) {
    const input = channels?.[0];
    if (!input) return true;
    const step = sampleRate / RATE;
    for (; this.place < input.length; this.place += step) {
      const at = Math.floor(this.place);
      const left = at === 0 ? this.before : input[at - 1];
      const value = left + (input[at] - left) * (this.place - at);
      this.samples[this.length++] = Math.max(-1, Math.min(1, value)) * 32767;
      if (this.length === PIECE) this.send();
    }
    this.place -= input.length;
    this.before = input[input.length - 1];
    return true;
  }

  send() {
    const piece = this.samples;
    this.samples = new Int16Array(PIECE);
    this.length = 0;
    this.port.postMessage(piece.buffer, [piece.buffer]);
  }
}

registerProcessor("recorder", Recorder);
