// What is said, at the lower edge of the photograph: notices, progress, results, refusals.

import {at} from "./dom.js";
import {requestsInside} from "./service.js";

const NOTICE_MS = 8000;
const TICK_MS = 1000;

export class Messages {
  // current(): the photograph that is shown; position(photograph) in the page's queue.
  constructor(current, position) {
    this._current = current;
    this._position = position;
    this._notice = null;
    this._inside = null;
    this._timer = 0;
    setInterval(() => this._tick(), TICK_MS);
  }

  // Say something at once; it goes after a while, or with forget().
  say(text, wrong = false) {
    this._notice = {text, wrong};
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.forget(), NOTICE_MS);
    this.renew();
  }

  // Say something until the next edit.
  keep(text) {
    clearTimeout(this._timer);
    this._notice = {text, wrong: false};
    this.renew();
  }

  forget() {
    if (!this._notice) return;
    this._notice = null;
    this.renew();
  }

  renew() {
    const photograph = this._current();
    const {text, wrong} = this._notice ?? stateOf(photograph, this._position, this._inside);
    at("message").hidden = !text;
    at("message").classList.toggle("wrong", wrong ?? false);
    if (at("said").textContent !== text) at("said").textContent = text;
    at("cancel").hidden = !photograph?.isBusy;
    at("sent").hidden = photograph?.state !== "sending" || Boolean(this._notice);
    at("sent").value = photograph?.progress.sent ?? 0;
  }

  async _tick() {
    if (this._current()?.state !== "filling") return;
    this._inside = await requestsInside();
    this.renew();
  }
}

function stateOf(photograph, position, inside) {
  const {state, progress, result, error} = photograph ?? {};
  if (state === "waiting" && progress.busyS) return {text: `${progress.message} Trying again in ${progress.busyS} s.`};
  if (state === "waiting") return {text: `Waiting: ${position(photograph)} of yours before this one`};
  if (state === "sending") return {text: "Sending"};
  if (state === "filling") {
    const seconds = Math.round((performance.now() - photograph.started) / 1000);
    const others = inside > 1 ? `; the service works on ${inside} requests` : "";
    return {text: `Filling, ${seconds} s${others}`};
  }
  if (state === "failed") return {text: error.message, wrong: true};
  if (state === "filled") {
    const {model, holeRatio, scale, ms} = result;
    const seen = scale < 1 ? `; the hole is large: it was predicted at ${Math.round(100 * scale)} % of its size` : "";
    return {text: `${model.name}@${model.version} filled ${(100 * holeRatio).toFixed(1)} % in ${Math.round(ms)} ms${seen}`};
  }
  const isNew = photograph && !photograph.hasHole && !photograph.isChanged;
  return {text: isNew ? "Paint over what should go, then press Fill." : ""};
}
