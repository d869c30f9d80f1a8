// Fills one photograph after another. A result goes to the photograph it was requested for,
// whichever one is shown by then.

import {blend} from "./blend.js";
import {clear} from "./mask_operations.js";
import {maskFile} from "./mask.js";
import {inpaint} from "./service.js";

// A fill in the history: the picture and the hole before it, exchanged for those after it.
class FillEdit {
  constructor(photograph, before, samples, maskEdit) {
    Object.assign(this, {photograph, samples, maskEdit, shown: 0, other: before});
    this.bytes = before.size + maskEdit.bytes + samples.reduce((sum, one) => sum + one.size, 0);
  }

  async swap() {
    const {photograph, other} = this;
    this.other = photograph.picture;
    await photograph.setPicture(other);
    this.maskEdit.swap();
  }
}

export class FillQueue {
  // settings() gives {fields, key}; onChange(photograph) is called after each change of state.
  constructor(settings, onChange) {
    this._settings = settings;
    this._onChange = onChange;
    this._waiting = [];
    this._running = null;
  }

  add(photograph) {
    if (photograph.isBusy || photograph.mask.isEmpty) return;
    photograph.canceller = new AbortController();
    photograph.progress = {};
    this._set(photograph, "waiting");
    this._waiting.push({photograph, ...this._settings()});
    this._next();
  }

  cancel(photograph) {
    const index = this._waiting.findIndex(job => job.photograph === photograph);
    photograph.canceller?.abort();
    if (index < 0) return;
    this._waiting.splice(index, 1);
    this._set(photograph, "open");
    this._tellPositions();
  }

  // How many photographs of this page are before one.
  position(photograph) {
    const index = this._waiting.findIndex(job => job.photograph === photograph);
    return index < 0 ? 0 : index + (this._running ? 1 : 0);
  }

  async _next() {
    if (this._running || !this._waiting.length) return;
    const job = this._waiting.shift();
    this._running = job.photograph;
    this._tellPositions();
    try {
      await this._fill(job);
    } catch (error) {
      const cancelled = job.photograph.canceller.signal.aborted;
      this._set(job.photograph, cancelled ? "open" : "failed", cancelled ? null : error);
    }
    this._running = null;
    this._next();
  }

  async _fill({photograph, fields, key}) {
    const {mask, canceller: {signal}} = photograph;
    photograph.started = performance.now();
    this._set(photograph, "sending");
    const before = photograph.picture, bounds = mask.bounds, soft = mask.isSoft;
    const result = await inpaint({
      picture: before, mask: await maskFile(mask), fields, key, signal,
      onState: state => this._hear(photograph, state),
    });
    const samples = [];
    for (const picture of result.pictures) {
      samples.push(soft ? await blend(before, picture, mask, bounds) : picture);
    }
    signal.throwIfAborted();
    await photograph.setPicture(samples[0]);
    photograph.history.push(new FillEdit(photograph, before, samples, clear(mask)));
    photograph.result = result;
    this._set(photograph, "filled");
  }

  _hear(photograph, state) {
    photograph.progress = state;
    this._set(photograph, state.filling ? "filling" : state.busyS ? "waiting" : "sending");
  }

  _set(photograph, state, error = null) {
    photograph.state = state;
    photograph.error = error;
    this._onChange(photograph);
  }

  _tellPositions() {
    for (const job of this._waiting) this._onChange(job.photograph);
  }
}
