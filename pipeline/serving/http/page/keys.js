// The keyboard. Fields keep their own keys.

const STEPS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const TOOLS = {b: "brush", e: "eraser", r: "rectangle", l: "lasso", p: "polygon", h: "hand"};

export class Keys {
  // `actions` are the page's: undo, redo, fill, fit, ... ; spot is where the keys' brush is.
  constructor({canvas, view, tools, pointer, actions, onSpot}) {
    Object.assign(this, {canvas, view, tools, pointer, actions, onSpot});
    this.isSpaceHeld = false;
    this.spot = null;
    document.addEventListener("keydown", event => this._down(event));
    document.addEventListener("keyup", event => this._up(event));
    addEventListener("blur", () => { this.isSpaceHeld = false; });
  }

  _down(event) {
    const field = event.target.closest("input:not([type=range]), select, textarea, dialog[open]");
    if (event.ctrlKey || event.metaKey) {
      if (!field && this._withControl(event)) event.preventDefault();
      return;
    }
    if (field || event.altKey) return;
    if (this._alone(event) || this._onCanvas(event)) event.preventDefault();
  }

  _withControl(event) {
    const key = event.key.toLowerCase();
    if (key === "z" && event.shiftKey || key === "y") this.actions.redo();
    else if (key === "z") this.actions.undo();
    else if (key === "s") this.actions.download();
    else if (key === "o") this.actions.choose();
    else if (key === "enter") this.actions.fill();
    else return false;
    return true;
  }

  _alone(event) {
    const key = event.key.toLowerCase(), {actions} = this;
    if (TOOLS[key]) actions.tool(TOOLS[key]);
    else if (key === "[") actions.resize(-1);
    else if (key === "]") actions.resize(1);
    else if (key === "+" || key === "=") actions.zoom(1.25);
    else if (key === "-") actions.zoom(0.8);
    else if (key === "0") actions.fit();
    else if (key === "1") actions.actualSize();
    else if (key === "f") actions.fill();
    else if (key === "c") actions.compare();
    else if (key === "?") actions.help();
    else if (key === "escape") return actions.escape();
    else if (key === "backspace") return this.tools.removeCorner();
    else return false;
    return true;
  }

  _onCanvas(event) {
    const isOwn = event.target === this.canvas || event.target === document.body;
    if (event.key === " " && isOwn) {
      if (!event.repeat) this.pointer.panned = false;
      this.isSpaceHeld = true;
      this.actions.cursor();
      return true;
    }
    if (event.target !== this.canvas || !this.view.photograph) return false;
    if (event.key === "Enter") {
      if (this.tools.points.length) this.tools.close();
      else if (this.spot) this._dab(this.spot);
      return true;
    }
    if (STEPS[event.key]) this._step(STEPS[event.key], event.shiftKey);
    return Boolean(STEPS[event.key]);
  }

  _up(event) {
    if (event.key !== " ") return;
    this.isSpaceHeld = false;
    this.actions.cursor();
    const tapped = event.target === this.canvas && !this.pointer.panned && !this.pointer.isBusy;
    if (tapped && this.spot) this._dab(this.spot);
  }

  // Move the keys' brush by half its size; with Shift it paints on its way.
  _step([right, down], painting) {
    const {width, height} = this.view.photograph, step = Math.max(1, this.tools.size / 2);
    const from = this.spot ?? {x: width / 2, y: height / 2};
    this.spot = {
      x: Math.min(width, Math.max(0, from.x + right * step)),
      y: Math.min(height, Math.max(0, from.y + down * step)),
    };
    if (painting && this.tools.isPainting) {
      this.tools.start(from);
      this.tools.move([this.spot]);
      this.tools.end();
    }
    this.onSpot(this.spot);
  }

  _dab(point) {
    this.tools.start(point);
    if (this.tools.name !== "polygon") this.tools.end();
  }
}
