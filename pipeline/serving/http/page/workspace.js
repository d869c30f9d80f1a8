// The photographs of the page, and which one is shown.

import {Photograph} from "./photograph.js";

export class Workspace {
  // onChange(photograph, edit) is called when a photograph, or the list (null), has changed.
  constructor(onChange) {
    this.photographs = [];
    this.active = null;
    this.example = null;
    this._onChange = onChange;
    this._turn = Promise.resolve();
  }

  // Open files one after the other, and show the first that is a picture. What is refused leaves
  // everything as it was. Returns {opened: [Photograph], refused: [name]}.
  open(files) {
    this._turn = this._turn.then(() => this._open([...files]));
    return this._turn;
  }

  async _open(files) {
    const opened = [], refused = [];
    for (const file of files) {
      const photograph = await Photograph.open(file, this._onChange).catch(() => null);
      if (!photograph) {
        refused.push(file.name);
        continue;
      }
      if (this.example) this.remove(this.example);
      this.photographs.push(photograph);
      if (!opened.length) await this.show(photograph);
      else photograph.release();
      opened.push(photograph);
    }
    this._onChange(null);
    return {opened, refused};
  }

  // An example to try, until there is a photograph of one's own.
  async openExample(file, paint) {
    if (this.photographs.length) return;
    const {opened: [example]} = await this.open([file]);
    if (!example || this.photographs.length > 1) return example && this.remove(example);
    this.example = example;
    paint(example);
    this._onChange(example);
  }

  async show(photograph) {
    this.active = photograph;
    await photograph.awake();
    if (this.active !== photograph) return;  // Another one was chosen meanwhile.
    for (const other of this.photographs) {
      if (other !== photograph) other.release();
    }
    this._onChange(photograph);
  }

  remove(photograph) {
    const index = this.photographs.indexOf(photograph);
    if (index < 0) return;
    this.photographs.splice(index, 1);
    photograph.canceller?.abort();
    if (this.example === photograph) this.example = null;
    if (this.active === photograph) {
      this.active = null;
      const next = this.photographs[Math.min(index, this.photographs.length - 1)];
      if (next) this.show(next);
    }
    photograph.release();
    this._onChange(null);
  }
}
