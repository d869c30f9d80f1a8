// The hole of one photograph: a level from 0 (known) to 255 (hole) for each of its pixels.
// Levels between are soft edges: the service fills them, and the page blends them.

import {clip, isEmpty, union} from "./rect.js";

const TILE = 256;

export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.levels = new Uint8Array(width * height);
  }

  get whole() {
    return {x: 0, y: 0, width: this.width, height: this.height};
  }

  get isEmpty() {
    return this.levels.every(level => !level);
  }

  get isSoft() {
    return this.levels.some(level => level && level < 255);
  }

  // The smallest rectangle around everything that is hole; null if nothing is.
  get bounds() {
    const {width, height, levels} = this;
    let left = width, right = -1, top = height, bottom = -1;
    for (let y = 0; y < height; y++) {
      const start = y * width, end = start + width;
      let first = start;
      while (first < end && !levels[first]) first++;
      if (first === end) continue;
      let last = end - 1;
      while (!levels[last]) last--;
      left = Math.min(left, first - start);
      right = Math.max(right, last - start);
      top = Math.min(top, y);
      bottom = y;
    }
    return bottom < 0 ? null : {x: left, y: top, width: right - left + 1, height: bottom - top + 1};
  }

  cut(rect) {
    const levels = new Uint8Array(rect.width * rect.height);
    for (let row = 0; row < rect.height; row++) {
      const start = (rect.y + row) * this.width + rect.x;
      levels.set(this.levels.subarray(start, start + rect.width), row * rect.width);
    }
    return levels;
  }

  paste(rect, levels) {
    for (let row = 0; row < rect.height; row++) {
      const start = (rect.y + row) * this.width + rect.x;
      this.levels.set(levels.subarray(row * rect.width, (row + 1) * rect.width), start);
    }
  }

  clear() {
    this.levels.fill(0);
  }
}

// An edit of a mask that can be swapped out and in again: it keeps the tiles that were touched.
export class MaskEdit {
  constructor(mask) {
    this.mask = mask;
    this.pieces = new Map();
    this.rect = null;
  }

  get bytes() {
    let total = 0;
    for (const piece of this.pieces.values()) total += piece.levels.length;
    return total;
  }

  // Keep what is under a rectangle, before it is painted over.
  save(rect) {
    const inside = clip(rect, this.mask.width, this.mask.height);
    if (isEmpty(inside)) return;
    this.rect = union(this.rect, inside);
    const right = inside.x + inside.width, bottom = inside.y + inside.height;
    for (let y = inside.y - inside.y % TILE; y < bottom; y += TILE) {
      for (let x = inside.x - inside.x % TILE; x < right; x += TILE) this._saveTile(x, y);
    }
  }

  _saveTile(x, y) {
    const key = `${x},${y}`;
    if (this.pieces.has(key)) return;
    const rect = clip({x, y, width: TILE, height: TILE}, this.mask.width, this.mask.height);
    this.pieces.set(key, {rect, levels: this.mask.cut(rect)});
  }

  // Exchange what the mask has and what was kept.
  swap() {
    for (const piece of this.pieces.values()) {
      const levels = this.mask.cut(piece.rect);
      this.mask.paste(piece.rect, piece.levels);
      piece.levels = levels;
    }
    return this.rect;
  }
}

// A PNG of the photograph's size: white where the network has to fill.
export function maskFile(mask) {
  return encoded(mask, level => (level ? 255 : 0));
}

// A PNG with the soft edges as grey, for other programs.
export function softMaskFile(mask) {
  return encoded(mask, level => level);
}

function encoded(mask, shade) {
  const canvas = new OffscreenCanvas(mask.width, mask.height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(mask.width, mask.height);
  const words = new Uint32Array(pixels.data.buffer);
  const words256 = Uint32Array.from({length: 256}, (_, level) => 0xff000000 + 0x010101 * shade(level));
  for (let i = 0; i < words.length; i++) words[i] = words256[mask.levels[i]];
  context.putImageData(pixels, 0, 0);
  return canvas.convertToBlob({type: "image/png"});
}

// The levels of a mask as the service has read it: white and black, without transparency.
export async function maskLevels(blob, width, height, name) {
  const picture = await createImageBitmap(blob);
  if (picture.width !== width || picture.height !== height) {
    throw new Error(
      `${name} has ${picture.width} × ${picture.height} px; ` +
      `a mask for this photograph has ${width} × ${height} px.`,
    );
  }
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(picture, 0, 0);
  picture.close();
  const data = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({length: width * height}, (_, i) => data[4 * i]);
}
