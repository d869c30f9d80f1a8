// What is seen of a photograph: zoom, pan, the picture, and the hole over it.
// The picture is drawn again only when the view moves; of the hole, only what changed.

import {clip, grown, isEmpty, rectOf, union} from "./rect.js";

const MOST_ZOOM = 32;
const PIXELS_FROM = 3;  // From this zoom on, pixels are shown as squares.
const MARGIN_PX = 16;
const HOLE_COLOUR = [255, 45, 120];
const HOLE_ALPHA = 0.5;

export class View {
  constructor(stage, pictureCanvas, holeCanvas, onMove) {
    this.stage = stage;
    this._picture = pictureCanvas.getContext("2d", {alpha: false});
    this._hole = holeCanvas.getContext("2d");
    this._onMove = onMove;
    this.photograph = null;
    this.original = null;  // To compare: shown left of `split`.
    this.split = 0.5;
    this._dirty = null;
    this._moved = false;
    this._frame = 0;
    new ResizeObserver(() => this.resize()).observe(stage);
  }

  // Show a photograph, where it was left or as a whole.
  show(photograph) {
    if (this.photograph) this.photograph.view = {scale: this.scale, x: this.x, y: this.y, fitted: this.fitted};
    this.photograph = photograph;
    this.original = null;
    if (photograph?.view) {
      Object.assign(this, photograph.view);
      if (!this.fitted) return this._move();
    }
    this.fit();
  }

  resize() {
    const density = window.devicePixelRatio || 1;
    for (const context of [this._picture, this._hole]) {
      context.canvas.width = Math.max(1, Math.round(this.stage.clientWidth * density));
      context.canvas.height = Math.max(1, Math.round(this.stage.clientHeight * density));
    }
    if (this.fitted) this.fit();
    else this._move();
    this._draw();  // A canvas that was resized is empty: draw before it is seen.
  }

  // Room for what lies over the stage: the tool's options, or the zoom on a phone, and messages.
  get insets() {
    return {top: 52, bottom: 52};
  }

  get fitScale() {
    const {clientWidth, clientHeight} = this.stage, {width, height} = this.photograph;
    const room = {x: clientWidth - 2 * MARGIN_PX, y: clientHeight - 2 * MARGIN_PX - this.insets.top - this.insets.bottom};
    return Math.max(0.01, Math.min(room.x / width, room.y / height));
  }

  fit() {
    if (!this.photograph) return this._move();
    this.scale = Math.min(this.fitScale, MOST_ZOOM / 4);
    this.x = (this.stage.clientWidth - this.photograph.width * this.scale) / 2;
    const free = this.stage.clientHeight - this.insets.top - this.insets.bottom;
    this.y = this.insets.top + (free - this.photograph.height * this.scale) / 2;
    this.fitted = true;
    this._move();
  }

  // Zoom, with a point of the stage (CSS pixels) kept in its place; its middle by default.
  zoomTo(scale, at = {x: this.stage.clientWidth / 2, y: this.stage.clientHeight / 2}) {
    if (!this.photograph) return;
    const bounded = Math.max(Math.min(0.25, this.fitScale / 2), Math.min(MOST_ZOOM, scale));
    const factor = bounded / this.scale;
    this.x = at.x - (at.x - this.x) * factor;
    this.y = at.y - (at.y - this.y) * factor;
    this.scale = bounded;
    this.fitted = false;
    this._keepInside();
    this._move();
  }

  panBy(dx, dy) {
    if (!this.photograph) return;
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this._keepInside();
    this._move();
  }

  // Some of the picture stays in sight.
  _keepInside() {
    const keep = 64, {width, height} = this.photograph;
    this.x = Math.min(this.stage.clientWidth - keep, Math.max(keep - width * this.scale, this.x));
    this.y = Math.min(this.stage.clientHeight - keep, Math.max(keep - height * this.scale, this.y));
  }

  toPicture(clientX, clientY) {
    const box = this.stage.getBoundingClientRect();
    return {x: (clientX - box.left - this.x) / this.scale, y: (clientY - box.top - this.y) / this.scale};
  }

  toStage(point) {
    return {x: point.x * this.scale + this.x, y: point.y * this.scale + this.y};
  }

  // A part of the hole has changed; without a rectangle, all of it.
  changed(rect = this.photograph?.mask.whole) {
    this._dirty = union(this._dirty, rect);
    this._wait();
  }

  // The picture has changed, or what is compared.
  renew() {
    this._move();
  }

  _move() {
    this._moved = true;
    this._wait();
  }

  _wait() {
    this._frame ||= requestAnimationFrame(() => this._draw());
  }

  _draw() {
    cancelAnimationFrame(this._frame);
    this._frame = 0;
    if (this._moved) {
      this._drawPicture();
      const {width, height} = this._hole.canvas;
      this._drawHole({x: 0, y: 0, width, height});
      this._onMove();
    } else if (this._dirty) {
      this._drawHole(this._onCanvas(this._dirty));
    }
    this._moved = false;
    this._dirty = null;
  }

  _onCanvas(rect) {
    const density = window.devicePixelRatio || 1, scale = this.scale * density;
    const x = this.x * density, y = this.y * density;
    const placed = rectOf(
      rect.x * scale + x, rect.y * scale + y,
      (rect.x + rect.width) * scale + x, (rect.y + rect.height) * scale + y,
    );
    return grown(placed, 2);
  }

  _drawPicture() {
    const context = this._picture, {width, height} = context.canvas;
    const density = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = getComputedStyle(this.stage).getPropertyValue("--stage") || "#888";
    context.fillRect(0, 0, width, height);
    if (!this.photograph?.pyramid.length) return;
    this._drawPyramid(this.photograph.pyramid, density);
    if (!this.original) return;
    context.save();
    context.beginPath();
    context.rect(0, 0, this.split * width, height);
    context.clip();
    this._drawPyramid(this.original, density);
    context.restore();
  }

  _drawPyramid(pyramid, density) {
    const context = this._picture, {width, height} = this.photograph, scale = this.scale * density;
    const needed = pyramid.findLast(bitmap => bitmap.width >= width * Math.min(1, scale)) ?? pyramid[0];
    context.imageSmoothingEnabled = scale < PIXELS_FROM;
    context.imageSmoothingQuality = "medium";
    const x = Math.round(this.x * density), y = Math.round(this.y * density);
    context.drawImage(needed, x, y, width * scale, height * scale);
  }

  // Draw the hole in a rectangle of the canvas: tinted, with an outline. Each pixel of the canvas
  // reads four places of the mask, so it costs what is seen and not what the photograph has.
  _drawHole(wanted) {
    const context = this._hole, canvas = context.canvas;
    const rect = clip(wanted, canvas.width, canvas.height);
    if (isEmpty(rect)) return;
    const mask = this.photograph?.mask;
    if (!mask || this.original) return context.clearRect(rect.x, rect.y, rect.width, rect.height);
    const width = rect.width + 2, height = rect.height + 2;  // The outline looks one pixel further.
    const seen = this._sample(mask, rect.x - 1, rect.y - 1, width, height);
    const pixels = context.createImageData(rect.width, rect.height), data = pixels.data;
    const [red, green, blue] = HOLE_COLOUR;
    for (let y = 1, out = 0; y <= rect.height; y++) {
      for (let x = 1, i = y * width + 1; x <= rect.width; x++, i++, out += 4) {
        if (!seen[i]) continue;
        const edge = !seen[i - 1] || !seen[i + 1] || !seen[i - width] || !seen[i + width];
        data[out] = red;
        data[out + 1] = green;
        data[out + 2] = blue;
        data[out + 3] = edge ? 255 : seen[i] * HOLE_ALPHA;
      }
    }
    context.putImageData(pixels, rect.x, rect.y);
  }

  _sample(mask, left, top, width, height) {
    const density = window.devicePixelRatio || 1, step = 1 / (this.scale * density);
    const columns = places(left, width, this.x * density, step, mask.width);
    const rows = places(top, height, this.y * density, step, mask.height);
    const seen = new Uint8Array(width * height), levels = mask.levels;
    for (let y = 0, i = 0; y < height; y++) {
      const one = rows[2 * y], other = rows[2 * y + 1];
      if (one < 0 || other < 0) {
        i += width;
        continue;
      }
      const above = one * mask.width, below = other * mask.width;
      for (let x = 0; x < width; x++, i++) {
        const near = columns[2 * x], far = columns[2 * x + 1];
        if (near < 0 || far < 0) continue;
        seen[i] = (levels[above + near] + levels[above + far] + levels[below + near] + levels[below + far] + 3) >> 2;
      }
    }
    return seen;
  }
}

// Two places of the mask for each pixel of the canvas along one axis; -1 outside.
function places(start, count, offset, step, length) {
  const found = new Int32Array(2 * count);
  for (let i = 0; i < found.length; i++) {
    const at = Math.floor((start + (i >> 1) + 0.25 + 0.5 * (i & 1) - Math.round(offset)) * step);
    found[i] = at < 0 || at >= length ? -1 : at;
  }
  return found;
}
