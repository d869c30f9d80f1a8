// Soft edges: where the hole is partly there, so is the result.

import {decode} from "./photograph.js";

// Mix two pictures by the levels of a mask, inside its bounds. Returns a PNG.
export async function blend(before, after, mask, bounds) {
  const [old, filled] = await Promise.all([pixelsOf(before, mask, bounds), pixelsOf(after, mask, bounds)]);
  const levels = mask.cut(bounds), mixed = old.pixels.data, data = filled.pixels.data;
  for (let i = 0; i < levels.length; i++) {
    const share = levels[i] / 255;
    for (let j = 4 * i; j < 4 * i + 4; j++) mixed[j] += Math.round((data[j] - mixed[j]) * share);
  }
  old.context.putImageData(old.pixels, bounds.x, bounds.y);
  return old.context.canvas.convertToBlob({type: "image/png"});
}

async function pixelsOf(picture, mask, bounds) {
  const bitmap = await decode(picture);
  const context = new OffscreenCanvas(mask.width, mask.height).getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return {context, pixels: context.getImageData(bounds.x, bounds.y, bounds.width, bounds.height)};
}
