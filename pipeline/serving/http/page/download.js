// Files for the person: the original's name and format, or another format.

import {decode} from "./photograph.js";
import {exifOf, withExif} from "./jpeg_exif.js";

const ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"};
const QUALITY = 0.95;

// The name and bytes of a result. `format` is a media type, or "" for the original's.
export async function resultFile(photograph, format) {
  const type = format || (photograph.file.type in ENDINGS ? photograph.file.type : "image/png");
  const name = `${stemOf(photograph)}-filled.${ENDINGS[type]}`;
  return {name, data: await encoded(photograph, type)};
}

export function stemOf(photograph) {
  return photograph.name.replace(/\.[^.]*$/, "") || "photograph";
}

export function save(data, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function encoded({picture, file}, type) {
  if (picture.type === type) return picture;
  const bitmap = await decode(picture);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  if (type === "image/jpeg") {  // It has no transparency.
    context.fillStyle = "#fff";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
  }
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const data = await context.canvas.convertToBlob({type, quality: QUALITY});
  const exif = type === "image/jpeg" && file.type === type && exifOf(await file.arrayBuffer());
  return exif ? withExif(data, exif) : data;
}
