// Operations on a whole mask. Each returns an edit for the history, or null if nothing changes.

import {clip, grown} from "./rect.js";
import {MaskEdit} from "./mask.js";

export function clear(mask) {
  const bounds = mask.bounds;
  if (!bounds) return null;
  return changed(mask, bounds, () => mask.clear());
}

export function invert(mask) {
  return changed(mask, mask.whole, () => {
    for (let i = 0; i < mask.levels.length; i++) mask.levels[i] = 255 - mask.levels[i];
  });
}

export function replace(mask, levels) {
  return changed(mask, mask.whole, () => mask.levels.set(levels));
}

// Widen the hole by a number of pixels in every direction; its edges are hard afterwards.
export function grow(mask, radius) {
  const area = areaAround(mask, radius);
  return area && changed(mask, area, () => {
    mask.paste(area, dilated(mask.cut(area), area.width, area.height, radius));
  });
}

// Put a soft edge of some pixels around the hole; what was hole stays hole.
export function feather(mask, radius) {
  const area = areaAround(mask, radius + 4);
  return area && changed(mask, area, () => {
    const {width, height} = area;
    const before = mask.cut(area);
    const wide = dilated(before, width, height, Math.ceil(radius / 2));
    const soft = blurred(wide, width, height, Math.max(1, Math.floor(radius / 6)));
    for (let i = 0; i < soft.length; i++) soft[i] = Math.max(soft[i], before[i]);
    mask.paste(area, soft);
  });
}

function areaAround(mask, radius) {
  const bounds = mask.bounds;
  return bounds && clip(grown(bounds, radius), mask.width, mask.height);
}

function changed(mask, rect, change) {
  const edit = new MaskEdit(mask);
  edit.save(rect);
  change();
  return edit;
}

// Dilation by a disc, in time that does not depend on its radius: the distance to the hole within
// a column says how far a pixel reaches within its row.
function dilated(levels, width, height, radius) {
  const distance = columnDistances(levels, width, height, radius + 1);
  const reach = Int32Array.from({length: radius + 1}, (_, d) => Math.floor(Math.sqrt(radius * radius - d * d)));
  const out = new Uint8Array(levels.length), steps = new Int32Array(width + 1);
  for (let y = 0; y < height; y++) {
    steps.fill(0);
    for (let x = 0; x < width; x++) {
      const d = distance[y * width + x];
      if (d > radius) continue;
      steps[Math.max(0, x - reach[d])]++;
      steps[Math.min(width, x + reach[d] + 1)]--;
    }
    for (let x = 0, inside = 0; x < width; x++) {
      inside += steps[x];
      if (inside) out[y * width + x] = 255;
    }
  }
  return out;
}

function columnDistances(levels, width, height, most) {
  const distance = new Uint16Array(levels.length);
  for (let i = 0; i < levels.length; i++) {
    const above = i < width ? most : distance[i - width];
    distance[i] = levels[i] ? 0 : Math.min(most, above + 1);
  }
  for (let i = levels.length - width - 1; i >= 0; i--) {
    distance[i] = Math.min(distance[i], distance[i + width] + 1);
  }
  return distance;
}

// Three box blurs: close to a Gaussian.
function blurred(levels, width, height, radius) {
  let out = levels;
  for (let round = 0; round < 3; round++) {
    out = boxBlurred(out, width, height, 1, width, radius);
    out = boxBlurred(out, height, width, width, 1, radius);
  }
  return out;
}

// Average along lines; beyond the ends, the last value counts.
function boxBlurred(levels, length, lines, step, lineStep, radius) {
  const out = new Uint8Array(levels.length), share = 1 / (2 * radius + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * lineStep;
    const at = i => levels[start + Math.min(length - 1, Math.max(0, i)) * step];
    let sum = 0;
    for (let i = -radius; i <= radius; i++) sum += at(i);
    for (let i = 0; i < length; i++) {
      out[start + i * step] = Math.round(sum * share);
      sum += at(i + radius + 1) - at(i - radius);
    }
  }
  return out;
}
