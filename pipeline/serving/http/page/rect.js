// Rectangles of whole pixels: {x, y, width, height}.

export function rectOf(left, top, right, bottom) {
  const x = Math.floor(left), y = Math.floor(top);
  return {x, y, width: Math.ceil(right) - x, height: Math.ceil(bottom) - y};
}

export function around(points, margin = 0) {
  const xs = points.map(point => point.x), ys = points.map(point => point.y);
  return rectOf(
    Math.min(...xs) - margin, Math.min(...ys) - margin,
    Math.max(...xs) + margin, Math.max(...ys) + margin,
  );
}

export function clip(rect, width, height) {
  const x = Math.max(0, rect.x), y = Math.max(0, rect.y);
  return {
    x, y,
    width: Math.max(0, Math.min(width, rect.x + rect.width) - x),
    height: Math.max(0, Math.min(height, rect.y + rect.height) - y),
  };
}

export function union(one, other) {
  if (!one) return other;
  if (!other) return one;
  const x = Math.min(one.x, other.x), y = Math.min(one.y, other.y);
  return {
    x, y,
    width: Math.max(one.x + one.width, other.x + other.width) - x,
    height: Math.max(one.y + one.height, other.y + other.height) - y,
  };
}

export function grown(rect, margin) {
  return {
    x: rect.x - margin, y: rect.y - margin,
    width: rect.width + 2 * margin, height: rect.height + 2 * margin,
  };
}

export const isEmpty = rect => !rect || rect.width <= 0 || rect.height <= 0;
