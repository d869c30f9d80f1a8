// Mouse, pen and fingers on the stage: one paints, the wheel zooms, two fingers zoom and pan;
// so do the middle button, and the mouse with the space key held.

const WHEEL_ZOOM = 0.0016;
const PINCH_ZOOM = 0.01;  // A trackpad's pinch comes as a wheel with Ctrl, in small steps.
const LINE_PX = 24;

export class Pointer {
  constructor({stage, view, tools, isPanning, onHover}) {
    Object.assign(this, {stage, view, tools, isPanning, onHover});
    this._fingers = new Map();
    this._gesture = null;  // "tool", "pan" or "pinch"
    this.panned = false;
    stage.addEventListener("pointerdown", event => this._down(event));
    stage.addEventListener("pointermove", event => this._move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, event => this._up(event));
    stage.addEventListener("pointerleave", () => this._gesture || this.onHover(null));
    stage.addEventListener("wheel", event => this._wheel(event), {passive: false});
    stage.addEventListener("contextmenu", event => event.preventDefault());
    stage.addEventListener("dblclick", () => tools.close());
  }

  get isBusy() {
    return this._gesture !== null;
  }

  _down(event) {
    if (event.button > 1 || !this.view.photograph || event.target.closest("[data-ui]")) return;
    this.stage.setPointerCapture(event.pointerId);
    this._fingers.set(event.pointerId, place(event));
    if (this._fingers.size === 2) return this._startPinch();
    if (this._fingers.size > 2) return;
    if (event.button === 1 || this.isPanning()) {
      this._gesture = "pan";
      this.stage.classList.add("panning");
      return;
    }
    this._gesture = "tool";
    this.tools.start(this._point(event), {erasing: event.altKey});
    this.onHover(this._point(event), event.pointerType);
  }

  _move(event) {
    const before = this._fingers.get(event.pointerId), now = place(event);
    if (before) this._fingers.set(event.pointerId, now);
    if (this._gesture === "pinch" && before) this._pinch();
    else if (this._gesture === "pan" && before) {
      this.panned = true;
      this.view.panBy(now.x - before.x, now.y - before.y);
    } else if (this._gesture === "tool" && before) {
      const events = event.getCoalescedEvents?.() ?? [];
      this.tools.move((events.length ? events : [event]).map(one => this._point(one)));
      this.onHover(this._point(event), event.pointerType);
    } else if (!this._gesture) {
      this.tools.hover(this._point(event));
      this.onHover(this._point(event), event.pointerType);
    }
  }

  _up(event) {
    if (!this._fingers.delete(event.pointerId)) return;
    if (this._gesture === "tool") {
      if (event.type === "pointerup") this.tools.end();
      else this.tools.cancel();
    }
    if (this._gesture !== "pinch" || !this._fingers.size) this._gesture = null;
    this.stage.classList.remove("panning");
    if (event.pointerType === "touch") this.onHover(null);
  }

  // A second finger makes a pinch of what the first has begun.
  _startPinch() {
    if (this._gesture === "tool") this.tools.cancel();
    this._gesture = "pinch";
    this._spread = this._measure();
    this.onHover(null);
  }

  _pinch() {
    const now = this._measure(), before = this._spread;
    if (!now) return;
    this.view.panBy(now.x - before.x, now.y - before.y);
    const box = this.stage.getBoundingClientRect();
    const middle = {x: now.x - box.left, y: now.y - box.top};
    if (before.distance > 0) this.view.zoomTo(this.view.scale * now.distance / before.distance, middle);
    this._spread = now;
  }

  _measure() {
    if (this._fingers.size < 2) return null;
    const [one, other] = this._fingers.values();
    return {
      x: (one.x + other.x) / 2, y: (one.y + other.y) / 2,
      distance: Math.hypot(one.x - other.x, one.y - other.y),
    };
  }

  _wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode ? LINE_PX : 1;
    if (event.shiftKey) return this.view.panBy(-(event.deltaX || event.deltaY) * unit, 0);
    const speed = event.ctrlKey ? PINCH_ZOOM : WHEEL_ZOOM;
    const box = this.stage.getBoundingClientRect();
    const at = {x: event.clientX - box.left, y: event.clientY - box.top};
    this.view.zoomTo(this.view.scale * Math.exp(-event.deltaY * unit * speed), at);
    this.onHover(this._point(event), "mouse");
  }

  _point(event) {
    return this.view.toPicture(event.clientX, event.clientY);
  }
}

const place = event => ({x: event.clientX, y: event.clientY});
