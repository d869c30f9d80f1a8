// The EXIF of a JPEG: camera, time, place. A browser that encodes a picture leaves it out.

const ORIENTATION = 0x0112;

// The EXIF segment of a file, or null; its picture is upright, and its small preview is dropped,
// because that still shows what was removed.
export function exifOf(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 4 || view.getUint16(0) !== 0xffd8) return null;
  for (let at = 2; at + 18 < buffer.byteLength && view.getUint8(at) === 0xff;) {
    const marker = view.getUint8(at + 1), length = view.getUint16(at + 2);
    if (marker === 0xda) break;
    if (marker === 0xe1 && view.getUint32(at + 4) === 0x45786966 && at + 2 + length <= buffer.byteLength) {
      return uprightExif(buffer.slice(at, at + 2 + length));
    }
    at += 2 + length;
  }
  return null;
}

export function withExif(jpeg, exif) {
  return new Blob([jpeg.slice(0, 2), exif, jpeg.slice(2)], {type: jpeg.type});
}

function uprightExif(segment) {
  const tiff = new DataView(segment, 10);
  try {
    const little = tiff.getUint16(0) === 0x4949, directory = tiff.getUint32(4, little);
    const count = tiff.getUint16(directory, little);
    for (let i = 0; i < count; i++) {
      const entry = directory + 2 + 12 * i;
      if (tiff.getUint16(entry, little) === ORIENTATION) tiff.setUint16(entry + 8, 1, little);
    }
    tiff.setUint32(directory + 2 + 12 * count, 0, little);
  } catch (error) {
    if (error instanceof RangeError) return null;  // Broken EXIF is left out.
    throw error;
  }
  return segment;
}
