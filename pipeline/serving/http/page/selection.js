// Areas with straight or drawn outlines: rectangle, lasso, polygon.

import {around, clip, isEmpty} from "./rect.js";
import {MaskEdit} from "./mask.js";

const INSIDE_ALPHA = 127;

export function rectangleOutline(from, to) {
  const left = Math.round(Math.min(from.x, to.x)), right = Math.round(Math.max(from.x, to.x));
  const top = Math.round(Math.min(from.y, to.y)), bottom = Math.round(Math.max(from.y, to.y));
  return [{x: left, y: top}, {x: right, y: top}, {x: right, y: bottom}, {x: left, y: bottom}];
}

// Fill an outline, or erase it. Returns the edit; null if it has no area inside the photograph.
export function fillOutline(mask, points, erasing) {
  const rect = clip(around(points), mask.width, mask.height);
  if (points.length < 3 || isEmpty(rect)) return null;
  const edit = new MaskEdit(mask);
  edit.save(rect);
  const alpha = coverage(points, rect), levels = mask.cut(rect);
  for (let i = 0; i < levels.length; i++) {
    if (alpha[4 * i + 3] > INSIDE_ALPHA) levels[i] = erasing ? 0 : 255;
  }
  mask.paste(rect, levels);
  return edit;
}

function coverage(points, rect) {
  const context = new OffscreenCanvas(rect.width, rect.height).getContext("2d", {willReadFrequently: true});
  context.translate(-rect.x, -rect.y);
  context.beginPath();
  for (const point of points) context.lineTo(point.x, point.y);
  context.fill("evenodd");
  return context.getImageData(0, 0, rect.width, rect.height).data;
}
