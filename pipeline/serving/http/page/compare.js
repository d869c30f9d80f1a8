// Before and after: the original left of a line that can be moved.

import {at, press} from "./dom.js";

const KEY_STEP = 0.05;

export class Compare {
  constructor(view) {
    this.view = view;
    this._turn = null;  // The press of the button that is in force.
    this._grip = at("split-grip");
    this._grip.addEventListener("pointerdown", event => this._grip.setPointerCapture(event.pointerId));
    this._grip.addEventListener("pointermove", event => {
      if (!this._grip.hasPointerCapture(event.pointerId)) return;
      const box = view.stage.getBoundingClientRect();
      this._place((event.clientX - box.left) / box.width);
    });
    this._grip.addEventListener("keydown", event => {
      const way = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1}[event.key];
      if (!way) return;
      event.preventDefault();
      this._place(view.split + way * KEY_STEP);
    });
  }

  get isOn() {
    return this._turn !== null;
  }

  // On at once; the line appears when the original is decoded, unless stop() came first.
  // Rejects, and is off again, if the original cannot be decoded.
  async toggle() {
    const {photograph} = this.view;
    if (this.isOn || !photograph?.isChanged) return this.stop();
    const turn = this._turn = {};
    press(at("compare"), true);
    try {
      const original = await photograph.awakeOriginal();
      if (this._turn === turn) this._start(original);
    } catch (error) {
      if (this._turn === turn) this.stop();
      throw error;
    }
  }

  stop() {
    if (!this.isOn) return;
    this._turn = null;
    this.view.original = null;
    this._show(false);
    this.view.renew();
  }

  _start(original) {
    this.view.original = original;
    this._show(true);
    this._place(0.5);
    this._grip.focus({preventScroll: true});
  }

  // Keep line and labels on the photograph when the view has moved.
  follow() {
    if (this.view.original) this._place(this.view.split);
  }

  _show(on) {
    at("split").hidden = !on;
    document.body.classList.toggle("comparing", on);
    press(at("compare"), on);
  }

  // Put the line at a share of the stage's width, within what is seen of the photograph.
  _place(share) {
    const {stage, photograph, scale, x, y} = this.view;
    const left = Math.max(0, x), right = Math.min(stage.clientWidth, x + photograph.width * scale);
    const top = Math.max(0, y), bottom = Math.min(stage.clientHeight, y + photograph.height * scale);
    const line = Math.min(right, Math.max(left, share * stage.clientWidth));
    this.view.split = line / stage.clientWidth;
    const box = {left, top, width: right - left, height: bottom - top};
    for (const [name, px] of Object.entries(box)) at("split").style[name] = `${px}px`;
    at("split-line").style.left = this._grip.style.left = `${line - left}px`;
    const seen = right > left ? (line - left) / (right - left) : 0;
    this._grip.setAttribute("aria-valuenow", String(Math.round(100 * seen)));
    this.view.renew();
  }
}
