// The tools: what a pointer on the photograph does. A gesture is start, move, end; or cancel.

import {Stroke} from "./brush.js";
import {fillOutline, rectangleOutline} from "./selection.js";

const CLOSE_PX = 14;  // A click so near to the first corner closes a polygon.

export class Tools {
  // view, and current(): the photograph that may be edited, or null.
  // outline(points, closed) draws a guide; onEdit(photograph, edit) is called at the end.
  constructor({view, current, outline, onEdit}) {
    Object.assign(this, {view, current, outline, onEdit});
    this.name = "brush";
    this.size = 40;
    this.hardness = 1;
    this.subtracting = false;
    this.points = [];
    this._stroke = null;
  }

  get isPainting() {
    return this.name === "brush" || this.name === "eraser";
  }

  choose(name) {
    this.cancel();
    this.name = name;
  }

  start(point, {erasing = false} = {}) {
    const photograph = this.current();
    if (!photograph) return;
    this._photograph = photograph;
    this._erasing = erasing !== (this.name === "eraser" || (this.subtracting && !this.isPainting));
    if (this.isPainting) {
      const brush = {size: this.size, hardness: this.hardness, erasing: this._erasing};
      this._stroke = new Stroke(photograph.mask, brush, point);
      this.view.changed(this._stroke.first);
    } else if (this.name === "polygon") {
      this._addCorner(point);
    } else {
      this.points = [point];
    }
  }

  move(points) {
    if (this._stroke) {
      const rect = this._stroke.extend(points);
      if (rect) this.view.changed(rect);
    } else if (this.name === "rectangle" && this.points.length) {
      this.points = [this.points[0], points.at(-1)];
      this.outline(rectangleOutline(...this.points), true);
    } else if (this.name === "lasso" && this.points.length) {
      this.points.push(...points);
      this.outline(this.points, true);
    }
  }

  // Where the pointer is while no button is held: the polygon's next side.
  hover(point) {
    if (this.name === "polygon" && this.points.length) this.outline([...this.points, point], false);
  }

  end() {
    if (this._stroke) {
      const rect = this._stroke.end();
      if (rect) this.view.changed(rect);
      this._finish(this._stroke.edit);
    } else if (this.name === "rectangle" && this.points.length === 2) {
      this._fill(rectangleOutline(...this.points));
    } else if (this.name === "lasso") {
      this._fill(this.points);
    }
  }

  // Close the polygon, if it has an area.
  close() {
    if (this.name === "polygon" && this.points.length > 2) this._fill(this.points);
    else this.cancel();
  }

  removeCorner() {
    if (this.name !== "polygon" || !this.points.length) return false;
    this.points.pop();
    this.outline(this.points, false);
    return true;
  }

  // Take back what the gesture has done so far. Returns whether there was anything.
  cancel() {
    const busy = Boolean(this._stroke || this.points.length);
    if (this._stroke) this.view.changed(this._stroke.edit.swap() ?? undefined);
    this._reset();
    return busy;
  }

  _addCorner(point) {
    const [first] = this.points, last = this.points.at(-1), reach = CLOSE_PX / this.view.scale;
    const near = other => Math.hypot(point.x - other.x, point.y - other.y) < reach;
    if (this.points.length > 2 && (near(first) || near(last))) return this._fill(this.points);
    if (last && near(last)) return;
    this.points.push(point);
    this.outline(this.points, false);
  }

  _fill(points) {
    const edit = fillOutline(this._photograph.mask, points, this._erasing);
    if (edit) this.view.changed(edit.rect);
    this._finish(edit);
  }

  _finish(edit) {
    const photograph = this._photograph;
    this._reset();
    if (edit?.rect) this.onEdit(photograph, edit);
  }

  _reset() {
    this._stroke = null;
    this.points = [];
    this.outline([], false);
  }
}
