// Which tool is chosen, and its options: size and hardness, add or subtract.

import {at, press} from "./dom.js";

const NAMES = ["brush", "eraser", "rectangle", "lasso", "polygon", "hand"];
const HINTS = {
  rectangle: "Drag from corner to corner", lasso: "Draw around what should go",
  polygon: "Click corners; Enter or a double click closes",
};
const LARGEST_SHARE = 1 / 3;  // Of the photograph's longer side.
const KEY_STEP = 4;

export class ToolOptions {
  constructor(tools, current, onChange) {
    Object.assign(this, {tools, current, onChange});
    for (const name of NAMES) at(`tool-${name}`).addEventListener("click", () => this.choose(name));
    at("size").addEventListener("input", () => this.renew());
    at("hardness").addEventListener("input", () => this.renew());
    at("add").addEventListener("click", () => this._subtract(false));
    at("subtract").addEventListener("click", () => this._subtract(true));
    at("close-polygon").addEventListener("click", () => tools.close());
  }

  choose(name) {
    this.tools.choose(name);
    this.renew();
  }

  resize(steps) {
    at("size").value = Number(at("size").value) + KEY_STEP * steps;
    this.renew();
  }

  _subtract(subtracting) {
    this.tools.subtracting = subtracting;
    this.renew();
  }

  renew() {
    const {tools} = this, photograph = this.current();
    const largest = LARGEST_SHARE * Math.max(photograph?.width ?? 1000, photograph?.height ?? 1000);
    tools.size = Math.max(1, Math.max(2, largest) ** (at("size").value / 100));  // From 1 px, evenly felt.
    tools.hardness = at("hardness").value / 100;
    at("size-px").textContent = `${Math.round(tools.size)} px`;
    at("hardness-percent").textContent = `${at("hardness").value} %`;
    for (const name of NAMES) press(at(`tool-${name}`), name === tools.name);
    at("brush-options").hidden = !tools.isPainting;
    at("hand-options").hidden = tools.name !== "hand";
    at("area-options").hidden = tools.isPainting || tools.name === "hand";
    at("area-hint").textContent = HINTS[tools.name] ?? "";
    at("close-polygon").hidden = tools.name !== "polygon";
    press(at("add"), !tools.subtracting);
    press(at("subtract"), tools.subtracting);
    this.onChange();
  }
}
