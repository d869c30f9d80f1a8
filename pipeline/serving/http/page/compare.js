// Before and after: the original left of a line that can be moved.

import {at, press} from "./dom.js";

const KEY_STEP = 0.05;

export class Compare {
  constructor(view) {
    this.view = view;
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
    return this.view.original !== null;
  }

  async toggle() {
    const {photograph} = this.view;
    if (this.isOn || !photograph?.isChanged) return this.stop();
    const original = await photograph.awakeOriginal();
    if (this.view.photograph !== photograph) return;
    this.view.original = original;
    this._show(true);
    this._place(0.5);
    this._grip.focus({preventScroll: true});
  }

  stop() {
    if (!this.isOn) return;
    this.view.original = null;
    this._show(false);
    this.view.renew();
  }

  _show(on) {
    at("split").hidden = !on;
    press(at("compare"), on);
  }

  _place(share) {
    this.view.split = Math.min(1, Math.max(0, share));
    const left = `${100 * this.view.split}%`;
    at("split-line").style.left = this._grip.style.left = left;
    this._grip.setAttribute("aria-valuenow", String(Math.round(100 * this.view.split)));
    this.view.renew();
  }
}
