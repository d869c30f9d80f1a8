// One photograph in the page: its file, its picture now, the hole, and what was done to it.

import {History} from "./history.js";
import {Mask} from "./mask.js";

const THUMBNAIL_PX = 160;
const LEAST_LEVEL_PX = 1024;
const READABLE = ["image/png", "image/jpeg", "image/webp"];
let opened = 0;

export class Photograph {
  // Decode a file.
  static async open(file, onChange) {
    const bitmap = await decode(file);
    const source = READABLE.includes(file.type) ? file : await asPng(bitmap);
    const photograph = new Photograph(file, source, bitmap, onChange);
    await photograph._setBitmap(bitmap);
    return photograph;
  }

  constructor(file, source, bitmap, onChange) {
    this.id = ++opened;
    this.file = file;
    this.name = file.name || "photograph.png";
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.mask = new Mask(this.width, this.height);
    this.hasHole = false;
    this.history = new History(edit => {
      this.hasHole = !this.mask.isEmpty;
      onChange(this, edit);
    });
    this.source = source;  // The file in a format that the service reads.
    this.picture = source;  // The file that the next request sends.
    this.state = "open";  // open, waiting, sending, filling, filled, failed
    this.error = null;
    this.progress = {};
    this.result = null;  // The service's last answer.
    this.view = null;  // Where the person looked last.
    this.pyramid = [];
    this.original = [];
    this._onChange = onChange;
  }

  get isBusy() {
    return ["waiting", "sending", "filling"].includes(this.state);
  }

  // Not while it is filled, or undo and redo decode a picture: they exchange parts of the hole.
  get isEditable() {
    return !this.isBusy && !this.history.isMoving;
  }

  get isChanged() {
    return this.picture !== this.source;
  }

  // Show another picture: a result, or one from the history.
  async setPicture(picture) {
    if (picture === this.picture) return;
    const bitmap = await decode(picture);
    this.picture = picture;
    await this._setBitmap(bitmap);
  }

  async _setBitmap(bitmap) {
    const pyramid = await pyramidOf(bitmap);
    this._drop(this.pyramid);
    this.pyramid = pyramid;
    this.thumbnail = await thumbnailOf(pyramid.at(-1));
    this._onChange(this);
  }

  // Decode again what release() has let go.
  async awake() {
    if (!this.pyramid.length) this.pyramid = await pyramidOf(await decode(this.picture));
  }

  // Decode the file as it was opened, to compare.
  async awakeOriginal() {
    if (this.original.length) return this.original;
    const original = await pyramidOf(await decode(this.file));
    if (this.original.length) this._drop(original);  // Another press has decoded it meanwhile.
    else this.original = original;
    return this.original;
  }

  // The results to choose from, until something else is done.
  get samples() {
    return this.history.last?.samples ?? [];
  }

  chooseSample(index) {
    return this.history.inTurn(async () => {
      const edit = this.history.last;
      if (this.isBusy || !edit?.samples?.[index]) return;
      edit.shown = index;
      await this.setPicture(edit.samples[index]);
    });
  }

  // Let the decoded pictures go while another photograph is shown.
  release() {
    this._drop(this.pyramid);
    this._drop(this.original);
    this.pyramid = [];
    this.original = [];
  }

  _drop(pyramid) {
    for (const bitmap of pyramid) bitmap.close();
  }
}

export function decode(file) {
  return createImageBitmap(file, {imageOrientation: "from-image"});
}

function asPng(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({type: "image/png"});
}

// The picture, and halves of it as long as they help: a small view reads a small bitmap.
async function pyramidOf(bitmap) {
  const pyramid = [bitmap];
  for (let one = bitmap; Math.max(one.width, one.height) > 2 * LEAST_LEVEL_PX; pyramid.push(one)) {
    one = await createImageBitmap(one, {
      resizeWidth: Math.ceil(one.width / 2), resizeHeight: Math.ceil(one.height / 2), resizeQuality: "medium",
    });
  }
  return pyramid;
}

async function thumbnailOf(bitmap) {
  const scale = Math.min(1, THUMBNAIL_PX / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({type: "image/png"});
}
