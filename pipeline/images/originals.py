"""Decode originals of many formats, and encode and decode the images of shards.

The decoded pixels are part of a shard's identity, so the decoders are fixed: OpenCV for plain JPEG,
Pillow for the rest, both named in :data:`ENCODER`. Arrays are RGB; OpenCV's own order, blue first,
stays inside this module.
"""

import io
import threading
from typing import Any

import cv2
import numpy as np
import PIL
from PIL import Image, TiffImagePlugin

from infill.pipeline.errors import RejectedError
from infill.pipeline.images.arrays import Pixels
from infill.pipeline.images.headers import (
    DECODE_ERRORS,
    FORMATS,
    NO_LIMIT_OF_PILLOW,
    SUFFIX_OF,
    Header,
    first_line_of,
)
from infill.pipeline.images.orientation import forget_other_orientations
from infill.pipeline.images.png_chunks import (
    correct_transparency,
    transparent_level,
    without_animation,
    without_text,
)

WIDEST_PX = {"jpg": 65_500, "webp": 16_383, "png": 1_000_000}
"""Maximum side of each format, in pixels."""

_LIBTIFF = threading.Lock()

ENCODER = f"opencv {cv2.__version__}, pillow {PIL.__version__}"
"""Versions of the codecs: part of a shard's identity, as other versions may round differently."""


def decode_original(data: bytes, header: Header) -> Pixels:
    """Return an image upright, 8-bit and in colour: RGB, uint8 [H, W, 3].

    An animation yields its first frame; transparency is blended with white; CMYK, palettes and
    other colour models are converted without their ICC profile; 16 bits are scaled and rounded to
    8.

    Raises:
        RejectedError: if the pixels cannot be decoded, or some are missing.
    """
    try:
        image = _decode(data, header)
    except RejectedError:
        raise
    except DECODE_ERRORS as error:
        raise RejectedError(f"cannot be decoded: {first_line_of(error)}") from error
    if image.shape[:2] != (header.height_px, header.width_px):
        height, width = image.shape[:2]
        raise RejectedError(
            f"holds {width} x {height} pixels, its header says "
            f"{header.width_px} x {header.height_px}"
        )
    return image


def _decode(data: bytes, header: Header) -> Pixels:
    if SUFFIX_OF.get(header.format) == "jpg":
        # Both libraries silently fill missing pixels with grey.
        if not _jpeg_is_whole(data):
            raise RejectedError("truncated: the JPEG has no end")
        if header.plain:
            return _decode_by_opencv(data, cv2.IMREAD_COLOR_RGB)
    if header.deep and header.format in ("PNG", "TIFF") and header.layout != "by Pillow":
        image = _decode_deep(data)
        if header.layout == "white as zero":
            image = np.invert(image)
    else:
        image = _decode_by_pillow(data, by_libtiff=header.layout == "by Pillow")
    return _turn_upright(_to_colour(_to_8_bits(image)), header.orientation)


def _decode_by_opencv(data: bytes, flags: int) -> Pixels:
    image: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise RejectedError("cannot be decoded")
    return image


def _decode_deep(data: bytes) -> np.ndarray[Any, Any]:
    """Return [H, W], RGB or RGBA of 16 bits; a PNG's transparent colour becomes opacity."""
    image = _red_first(_decode_by_opencv(without_animation(data), cv2.IMREAD_UNCHANGED))
    level = transparent_level(data)
    if level is None:  # that of colours is applied by OpenCV
        return image
    return np.dstack([image] * 3 + [np.where(image == level, 0, 65535).astype(np.uint16)])


def deep_opacity(data: bytes, header: Header) -> Pixels:
    """Return the opacity of a 16-bit PNG that names a transparent colour, uint8 [H, W], upright.

    Pillow, which drops the lower bits, does not find that colour.

    Raises:
        RejectedError: if it cannot be decoded.
    """
    alpha = (_decode_deep(data)[..., 3:] >> 8).astype(np.uint8)
    return _turn_upright(alpha, header.orientation)[..., 0]


def _open(data: bytes, by_libtiff: bool) -> Image.Image:
    """Open an image; Pillow's own reader of uncompressed TIFFs mistakes planes of 16 bits."""
    with _LIBTIFF:
        TiffImagePlugin.READ_LIBTIFF = by_libtiff
        try:
            return Image.open(io.BytesIO(without_text(data)), formats=FORMATS)
        finally:
            TiffImagePlugin.READ_LIBTIFF = False


def _decode_by_pillow(data: bytes, by_libtiff: bool = False) -> np.ndarray[Any, Any]:
    """Return [H, W], RGB or RGBA, in 8 or 16 bits."""
    with NO_LIMIT_OF_PILLOW, _open(data, by_libtiff) as image:
        forget_other_orientations(image)
        image.load()
        correct_transparency(image, data)
        if image.mode.startswith("I"):
            return np.asarray(image)
        if image.mode == "F":
            raise RejectedError("floating-point pixels of unknown range: convert it to 8 bits")
        clear = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
        return np.asarray(image.convert("RGBA" if clear else "RGB"))


def _red_first(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert OpenCV's order of channels, if there are several, to RGB or RGBA."""
    return image if image.ndim == 2 else image[:, :, [2, 1, 0, 3][: image.shape[2]]]


def _to_8_bits(image: np.ndarray[Any, Any]) -> Pixels:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind not in "iu" or image.min() < 0 or image.max() > 65535:
        raise RejectedError(f"{image.dtype} pixels of unknown range: convert it to 8 bits")
    return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _to_colour(image: Pixels) -> Pixels:
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.shape[2] == 3:
        return image
    colour, alpha = image[:, :, :3].astype(np.uint16), image[:, :, 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _turn_upright(image: Pixels, orientation: int) -> Pixels:
    """Apply EXIF's orientation: 5 to 8 are transposed, and half of all are mirrored."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _jpeg_is_whole(data: bytes) -> bool:
    """Return whether the end marker follows the first scan, before any other image begins.

    Decoders pass over junk between markers, so this does. Before the first scan, an end marker may
    belong to a thumbnail inside a segment.
    """
    position, scanned = 2, False
    for place in _marker_places(data):
        if place <= position:  # Inside the segment before.
            continue
        marker, position = data[place], place + 1
        if marker == 0xD9 and scanned:
            return True
        if marker == 0xD8 and scanned:
            return False
        if marker not in (0x01, 0xD8, 0xD9):  # those have no length
            position += int.from_bytes(data[position : position + 2], "big")
            scanned = scanned or marker == 0xDA
    return False


def _marker_places(data: bytes) -> list[int]:
    """Return where the byte of each marker of a JPEG is, also behind junk.

    Zeros and restart markers belong to the data of a scan. NumPy finds the others in a fifteenth of
    the time of a regular expression, which took two thirds as long as decoding.
    """
    values = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF) + 1
    following = values[places]
    restarts = (following >= 0xD0) & (following <= 0xD7)
    found: list[int] = places[(following != 0) & (following != 0xFF) & ~restarts].tolist()
    return found


_JPEG_START = b"\xff\xd8\xff"
REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's flag for each part of the sides at which a JPEG can be decoded; grey by itself, and
coloured with a flag of colour."""


def encode_sample(image: Pixels, suffix: str, quality: int) -> bytes:
    """Encode an image for a shard.

    Args:
        image: RGB, uint8 [H, W, 3].
        suffix: "jpg" (4:2:0), "png" or "webp".
        quality: quality of JPEG and WebP, 1 to 100.

    Raises:
        RejectedError: if the format cannot hold an image of that size.
    """
    height, width = image.shape[:2]
    if max(height, width) > WIDEST_PX[suffix]:
        raise RejectedError(f"{width} x {height} pixels are more than {suffix} can hold")
    flags = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }
    blue_first = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(f".{suffix}", blue_first, flags.get(suffix, []))
    assert done
    return bytes(data)


def is_jpeg(data: bytes) -> bool:
    """Return whether a file is a JPEG, by its start."""
    return data.startswith(_JPEG_START)


def decode_sample(data: bytes, divisor: int = 1) -> Pixels | None:
    """Decode an image of a shard, fast: RGB, uint8 [H, W, 3], upright; None if it is damaged.

    Only for bytes whose header and size :func:`decode_original` checked when the shard was made.

    Args:
        data: the file.
        divisor: 1, 2, 4 or 8: a JPEG is decoded at that part of its sides, rounded up, from fewer
            coefficients (libjpeg-turbo). Files of other formats are decoded whole.
    """
    flag = cv2.IMREAD_COLOR_RGB
    if divisor > 1 and is_jpeg(data):
        flag |= REDUCED[divisor]
    pixels: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return pixels
