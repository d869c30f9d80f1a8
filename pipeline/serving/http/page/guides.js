// Lines over the photograph that do not belong to it: the brush's ring, outlines of areas.

import {at} from "./dom.js";

const LEAST_RING_PX = 5;

export class Guides {
  constructor(view) {
    this.view = view;
    this._lines = at("guide").querySelectorAll("polyline");
    this._points = [];
    this._closed = false;
    this._spot = null;
  }

  // Show an outline; points in pixels of the photograph.
  outline(points, closed) {
    this._points = points;
    this._closed = closed;
    const seen = points.map(point => this.view.toStage(point));
    if (closed && seen.length) seen.push(seen[0]);
    const text = seen.map(point => `${point.x.toFixed(1)},${point.y.toFixed(1)}`).join(" ");
    for (const line of this._lines) line.setAttribute("points", text);
  }

  // Show the brush's ring at a point; null hides it.
  point(spot, size) {
    this._spot = spot;
    const ring = at("cursor");
    ring.hidden = !spot || !this.view.photograph;
    if (ring.hidden) return;
    const seen = this.view.toStage(spot), width = Math.max(LEAST_RING_PX, size * this.view.scale);
    ring.style.width = ring.style.height = `${width}px`;
    ring.style.transform = `translate(${seen.x - width / 2}px, ${seen.y - width / 2}px)`;
  }

  // The view has moved, or the brush has another size.
  renew(tools) {
    this.outline(this._points, this._closed);
    this.point(tools.isPainting ? this._spot : null, tools.size);
  }
}
