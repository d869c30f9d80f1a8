// The brush: strokes of round ends, painted into a mask piece by piece.

import {around, clip, isEmpty, union} from "./rect.js";
import {MaskEdit} from "./mask.js";

const LEAST_RADIUS = 0.71;  // Half a pixel's diagonal: a brush of one pixel always meets one.
const SPACING = 0.08;  // Of the radius: nearer points would paint the same pixels again.

export class Stroke {
  // brush: {size, hardness, erasing}; size in pixels of the photograph, hardness from 0 to 1.
  constructor(mask, brush, point) {
    this.edit = new MaskEdit(mask);
    this.brush = {...brush, radius: Math.max(LEAST_RADIUS, brush.size / 2)};
    this.last = point;
    this.skipped = null;
    this.first = this._paint(point, point);
  }

  // Continue to some points; returns the rectangle that was painted, or null.
  extend(points) {
    let rect = null;
    for (const point of points) {
      const far = Math.hypot(point.x - this.last.x, point.y - this.last.y);
      this.skipped = point;
      if (far < Math.max(0.5, SPACING * this.brush.radius)) continue;
      rect = union(rect, this._paint(this.last, point));
      this.last = point;
      this.skipped = null;
    }
    return rect;
  }

  end() {
    return this.skipped && this._paint(this.last, this.skipped);
  }

  _paint(from, to) {
    const {mask} = this.edit, {radius, hardness, erasing} = this.brush;
    const rect = clip(around([from, to], radius), mask.width, mask.height);
    if (isEmpty(rect)) return null;
    this.edit.save(rect);
    paintSegment(mask, rect, from, to, radius, hardness, erasing);
    return rect;
  }
}

// Paint every pixel of a rectangle by its distance from a segment. The highest level stays, so
// strokes that cross themselves do not grow darker.
function paintSegment(mask, rect, from, to, radius, hardness, erasing) {
  const {levels, width} = mask, hard = radius * hardness, fade = 255 / Math.max(1e-6, radius - hard);
  const dx = to.x - from.x, dy = to.y - from.y, length2 = dx * dx + dy * dy || 1;
  const radius2 = radius * radius, hard2 = hardness >= 1 ? radius2 : hard * hard;
  for (let y = rect.y; y < rect.y + rect.height; y++) {
    const py = y + 0.5 - from.y;
    let i = y * width + rect.x;
    for (let x = rect.x; x < rect.x + rect.width; x++, i++) {
      const px = x + 0.5 - from.x;
      const along = Math.max(0, Math.min(1, (px * dx + py * dy) / length2));
      const ox = px - along * dx, oy = py - along * dy, distance2 = ox * ox + oy * oy;
      if (distance2 > radius2) continue;
      const level = distance2 <= hard2 ? 255 : Math.round((radius - Math.sqrt(distance2)) * fade);
      levels[i] = erasing ? Math.min(levels[i], 255 - level) : Math.max(levels[i], level);
    }
  }
}
