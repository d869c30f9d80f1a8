// Elements of the page by id.

export const at = id => document.getElementById(id);

export function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function button(className, label, act, ...content) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.setAttribute("aria-label", label);
  made.title = label;
  made.append(...content);
  made.addEventListener("click", act);
  return made;
}

export function imageOf(blob, alt) {
  const image = new Image(), url = URL.createObjectURL(blob);
  image.alt = alt;
  image.src = url;
  image.onload = image.onerror = () => URL.revokeObjectURL(url);
  return image;
}
