// Undo and redo. An edit has `bytes` and `swap()`, which takes it back and makes it again.

const MOST_BYTES = 256 * 2 ** 20;

export class History {
  constructor(onChange = () => {}, mostBytes = MOST_BYTES) {
    this.done = [];
    this.undone = [];
    this._onChange = onChange;
    this._mostBytes = mostBytes;
    this._turn = Promise.resolve();
  }

  get last() {
    return this.done.at(-1);
  }

  push(edit) {
    if (!edit) return;
    this.undone.length = 0;
    this.done.push(edit);
    let bytes = this.done.reduce((sum, one) => sum + one.bytes, 0);
    while (bytes > this._mostBytes && this.done.length > 1) bytes -= this.done.shift().bytes;
    this._onChange(edit);
  }

  undo() {
    return this._move(this.done, this.undone);
  }

  redo() {
    return this._move(this.undone, this.done);
  }

  // One after the other, also if the keys are pressed faster than a picture is decoded.
  _move(from, to) {
    this._turn = this._turn.then(async () => {
      const edit = from.pop();
      if (!edit) return;
      await edit.swap();
      to.push(edit);
      this._onChange(edit);
    });
    return this._turn;
  }
}
