// Undo and redo. An edit has `bytes` and `swap()`, which takes it back and makes it again.

const MOST_BYTES = 256 * 2 ** 20;

export class History {
  constructor(onChange = () => {}, mostBytes = MOST_BYTES) {
    this.done = [];
    this.undone = [];
    this._onChange = onChange;
    this._mostBytes = mostBytes;
    this._turn = Promise.resolve();
    this._acts = 0;
  }

  get last() {
    return this.done.at(-1);
  }

  get isMoving() {
    return this._acts > 0;
  }

  // Fulfilled when what was asked for so far is done, or has failed.
  get settled() {
    return this._turn;
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

  // One act after the other, also if the keys are pressed faster than a picture is decoded.
  inTurn(act) {
    this._acts++;
    const done = this._turn.then(act).finally(() => { this._acts--; });
    this._turn = done.catch(() => {});
    return done;
  }

  async _move(from, to) {
    const edit = await this.inTurn(async () => {
      if (!from.length) return null;
      await from.at(-1).swap();
      to.push(from.pop());
      return to.at(-1);
    });
    if (edit) this._onChange(edit);
  }
}
