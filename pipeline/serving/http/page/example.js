// A photograph with a hole to try, until a person has one of their own.

import {Stroke} from "./brush.js";

const STROKES = [
  [[.25, .13], [.33, .19], [.44, .2], [.6, .17]],
  [[.52, .62], [.6, .72], [.72, .76]],
  [[.1, .7], [.2, .62]],
];
const STROKE_SHARE = 1 / 44;  // Of the photograph's width.

export async function exampleFile() {
  const reply = await fetch("page/example.jpg").catch(() => null);
  return reply?.ok ? new File([await reply.blob()], "example.jpg", {type: "image/jpeg"}) : null;
}

export function paintExample({mask, width, height, history}) {
  const brush = {size: width * STROKE_SHARE, hardness: 1, erasing: false};
  for (const points of STROKES) {
    const [first, ...rest] = points.map(([x, y]) => ({x: x * width, y: y * height}));
    const stroke = new Stroke(mask, brush, first);
    stroke.extend(rest);
    history.push(stroke.edit);
  }
}
