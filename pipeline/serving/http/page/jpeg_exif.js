// The EXIF of a JPEG: camera, time, place. A browser that encodes a picture leaves it out.

const ORIENTATION = 0x0112, OF_CAMERA = 0x8769;
// Tags that speak of a width, each with that of the height: sizes and resolutions.
const SIDES = [[0x0100, 0x0101], [0x011a, 0x011b], [0xa002, 0xa003], [0xa20e, 0xa20f]];

// The EXIF segment of a file, or null; its image is upright, so that width and height of one on its
// side change places. Its small preview is dropped, because that still shows what was removed.
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
    const entries = entriesOf(tiff, directory, little), turned = entries.get(ORIENTATION);
    if (turned !== undefined) {
      if (tiff.getUint16(turned + 8, little) > 4) {
        exchangeSides(tiff, entries, little);
        const camera = entries.get(OF_CAMERA);
        if (camera !== undefined) {
          exchangeSides(tiff, entriesOf(tiff, tiff.getUint32(camera + 8, little), little), little);
        }
      }
      tiff.setUint16(turned + 8, 1, little);
    }
    tiff.setUint32(directory + 2 + 12 * tiff.getUint16(directory, little), 0, little);
  } catch (error) {
    if (error instanceof RangeError) return null;  // Broken EXIF is left out.
    throw error;
  }
  return segment;
}

// Where the entry of each tag of a directory begins.
function entriesOf(tiff, directory, little) {
  const count = tiff.getUint16(directory, little), entries = new Map();
  for (let i = 0; i < count; i++) {
    const entry = directory + 2 + 12 * i;
    entries.set(tiff.getUint16(entry, little), entry);
  }
  return entries;
}

// Entries are sorted by tag: of two, the type, count and value behind the tags are exchanged.
function exchangeSides(tiff, entries, little) {
  for (const [one, other] of SIDES) {
    const first = entries.get(one), second = entries.get(other);
    if (first !== undefined && second !== undefined) {
      for (let at = 2; at < 12; at++) {
        const kept = tiff.getUint8(first + at);
        tiff.setUint8(first + at, tiff.getUint8(second + at));
        tiff.setUint8(second + at, kept);
      }
    } else if (first !== undefined) tiff.setUint16(first, other, little);
    else if (second !== undefined) tiff.setUint16(second, one, little);
  }
}
