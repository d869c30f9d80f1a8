"""Check, decode, resize and encode the bytes of an original.

Everything here works on one picture in memory; :class:`RejectedError` says what is wrong with it.
Decoded pictures are uint8 [H, W, 3], blue first, as OpenCV has them.
"""

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL
from PIL import Image, ImageFile, UnidentifiedImageError

Picture = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
"""What Pillow may open (its JPEG reader finds MPO too); other readers run programs or are rare."""
SUFFIX_OF = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats whose bytes can be kept."""
WIDEST_PX = {"jpg": 65_500, "webp": 16_383, "png": 1_000_000}
"""What each format can hold."""

DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    cv2.error,
    Image.DecompressionBombError,
)
"""What Pillow and OpenCV raise for bytes that are no picture, found by damaging pictures."""

ORIENTATION_TAG = 0x0112


class RejectedError(ValueError):
    """Why an original is not taken."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture says of itself before its pixels are decoded."""

    format: str
    """One of :data:`FORMATS`, or "MPO": a JPEG with more pictures behind it."""
    mode: str
    """Pillow's name for the kind of pixels."""
    deep: bool
    """More than 8 bits per channel."""
    orientation: int
    """EXIF's 1 to 8; 1 is upright."""
    height_px: int
    """Once upright."""
    width_px: int
    """Once upright."""
    plain: bool
    """Its bytes can be kept: every reader decodes them to the same 8-bit grey or RGB."""


def read_header(data: bytes, max_pixels: int) -> Header:
    """Read a picture's header, so that a decompression bomb is refused before it goes off.

    Plain is a still 8-bit grey or RGB JPEG, PNG or WebP without transparency; only a JPEG may
    carry an EXIF orientation, which ``cv2.imread`` honours.

    Raises:
        RejectedError: if it is empty, no picture of a known format, truncated, or too large.
    """
    if not data:
        raise RejectedError("empty file")
    try:
        with NO_LIMIT_OF_PILLOW, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _header(data, image, max_pixels)
    except RejectedError:
        raise
    except UnidentifiedImageError as error:
        raise RejectedError("not an image of a known format") from error
    except DECODE_ERRORS as error:
        raise RejectedError(f"damaged header: {_brief(error)}") from error


def _header(data: bytes, image: ImageFile.ImageFile, max_pixels: int) -> Header:
    width, height = image.size
    if width * height > max_pixels:
        raise RejectedError(f"{width} x {height} pixels are more than max_pixels {max_pixels}")
    if width < 1 or height < 1:
        raise RejectedError(f"{width} x {height} pixels")
    kind = str(image.format)
    orientation = _orientation(data, image)
    if orientation >= 5:
        width, height = height, width
    deep = _is_deep(data, image)
    still = kind not in ("PNG", "WEBP") or getattr(image, "n_frames", 1) == 1
    clear = "transparency" not in image.info and image.mode in ("L", "RGB")
    eight_bit = kind != "PNG" or data[24:25] == b"\x08"
    upright = orientation == 1 or SUFFIX_OF.get(kind) == "jpg"
    return Header(
        format=kind,
        mode=image.mode,
        deep=deep,
        orientation=orientation,
        height_px=height,
        width_px=width,
        plain=kind in SUFFIX_OF and still and clear and eight_bit and upright,
    )


def _orientation(data: bytes, image: ImageFile.ImageFile) -> int:
    """Return EXIF's orientation, without making Pillow decode a whole PNG to look for it."""
    if image.format == "TIFF":  # Pillow turns these by itself
        return 1
    if image.format == "PNG" and b"eXIf" not in data:
        return 1
    found = image.getexif().get(ORIENTATION_TAG, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _is_deep(data: bytes, image: Image.Image) -> bool:
    """Tell 16 bits per channel from 8: Pillow calls a 16-bit colour PNG plain "RGB"."""
    if image.format == "PNG":
        return data[24:25] == b"\x10"
    bits = image.tag_v2.get(258, (8,)) if image.format == "TIFF" else (8,)  # type: ignore[attr-defined]
    return image.mode.startswith("I") or max(bits) > 8


def decode(data: bytes, header: Header) -> Picture:
    """Return a picture upright, 8-bit and in colour: uint8 [H, W, 3], blue first.

    The first frame of an animation; transparency over white, as a viewer shows it; CMYK, palette
    and other colour models converted without their ICC profile; 16 bits scaled and rounded to 8.

    Raises:
        RejectedError: if the pixels cannot be decoded, or some are missing.
    """
    try:
        picture = _decode(data, header)
    except RejectedError:
        raise
    except DECODE_ERRORS as error:
        raise RejectedError(f"cannot be decoded: {_brief(error)}") from error
    if picture.shape[:2] != (header.height_px, header.width_px):
        height, width = picture.shape[:2]
        raise RejectedError(
            f"holds {width} x {height} pixels, its header says "
            f"{header.width_px} x {header.height_px}"
        )
    return picture


def _decode(data: bytes, header: Header) -> Picture:
    if SUFFIX_OF.get(header.format) == "jpg":
        # Both libraries fill what is missing with grey and say nothing the caller could catch.
        if not _jpeg_is_whole(data):
            raise RejectedError("truncated: the JPEG has no end")
        if header.plain:
            return _decode_by_opencv(data, cv2.IMREAD_COLOR)
    if header.deep and header.format in ("PNG", "TIFF"):
        picture = _decode_by_opencv(data, cv2.IMREAD_UNCHANGED)
    else:
        picture = _decode_by_pillow(data)
    return _turn_upright(_to_colour(_to_8_bits(picture)), header.orientation)


def _decode_by_opencv(data: bytes, flags: int) -> Picture:
    picture: Picture | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        raise RejectedError("cannot be decoded")
    return picture


def _decode_by_pillow(data: bytes) -> np.ndarray[Any, Any]:
    """Return [H, W], or [H, W, 3 or 4] blue first, in 8 or 16 bits."""
    with NO_LIMIT_OF_PILLOW, Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        if image.mode.startswith("I"):
            return np.asarray(image)
        if image.mode == "F":
            raise RejectedError("floating-point pixels, of which the range is not known")
        clear = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
        pixels = np.asarray(image.convert("RGBA" if clear else "RGB"))
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


def _to_8_bits(picture: np.ndarray[Any, Any]) -> Picture:
    if picture.dtype == np.uint8:
        return picture
    if picture.dtype.kind not in "iu" or picture.min() < 0 or picture.max() > 65535:
        raise RejectedError(f"{picture.dtype} pixels, of which the range is not known")
    return ((picture.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _to_colour(picture: Picture) -> Picture:
    if picture.ndim == 2 or picture.shape[2] == 1:
        return np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
    if picture.shape[2] == 3:
        return picture
    colour, alpha = picture[:, :, :3].astype(np.uint16), picture[:, :, 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _turn_upright(picture: Picture, orientation: int) -> Picture:
    """Undo EXIF's orientation: 5 to 8 are transposed, and half of all are mirrored."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _jpeg_is_whole(data: bytes) -> bool:
    """Tell whether the end marker follows the first scan.

    Inside entropy-coded data a byte FF is always followed by 00 or a restart marker, so FF D9
    after the scan has begun is the end; before it, FF D9 may belong to a thumbnail.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = (
            data[position + 1],
            int.from_bytes(data[position + 2 : position + 4], "big"),
        )
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position + 2 + length) >= 0
        position += 2 + length
    return False


class _NoLimitOfPillow:
    """Lets ``max_pixels`` be the limit: Pillow's own is a global, for all threads that decode."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.before: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1

    def __exit__(self, *reason: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                Image.MAX_IMAGE_PIXELS = self.before


NO_LIMIT_OF_PILLOW = _NoLimitOfPillow()


def _brief(error: BaseException) -> str:
    """Return an error's first line without what differs from run to run (addresses of objects)."""
    lines = str(error).strip().splitlines()
    if not lines or " at 0x" in lines[0]:
        return type(error).__name__
    return f"{type(error).__name__}: {lines[0][:120]}"


def resize_short_side(picture: Picture, side_px: int) -> Picture:
    """Shrink a picture so that its short side is ``side_px``; smaller ones stay as they are."""
    height, width = picture.shape[:2]
    short = min(height, width)
    if short <= side_px:
        return picture
    size = (round(width * side_px / short), round(height * side_px / short))
    shrunk: Picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return shrunk


def squash(picture: Picture, side_px: int) -> Picture:
    """Make both sides ``side_px``, whatever that does to the shapes in it."""
    height, width = picture.shape[:2]
    if height == width == side_px:
        return picture
    method = cv2.INTER_AREA if min(height, width) >= side_px else cv2.INTER_LINEAR
    squashed: Picture = cv2.resize(picture, (side_px, side_px), interpolation=method)
    return squashed


def encode(picture: Picture, suffix: str, quality: int) -> bytes:
    """Encode a picture as "jpg" (4:2:0), "png" or "webp".

    Raises:
        RejectedError: if the format cannot hold a picture of that size.
    """
    height, width = picture.shape[:2]
    if max(height, width) > WIDEST_PX[suffix]:
        raise RejectedError(f"{width} x {height} pixels are more than {suffix} can hold")
    flag = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}.get(suffix)
    done, data = cv2.imencode(f".{suffix}", picture, [] if flag is None else [flag, quality])
    assert done
    return bytes(data)


def perceptual_hash(picture: Picture) -> int:
    """Return 64 bits that near-duplicates share: whether brightness rises, on an 8 x 8 grid.

    Encoding again, scaling and a change of brightness flip few of them.
    """
    # Whole blocks first, which OpenCV averages many times as fast; fewer pixels than a block of
    # the right and lower edge go unseen.
    height, width = picture.shape[:2]
    block = max(1, min(height, width) // 64)
    rows, columns = height // block, width // block
    whole = picture[: rows * block, : columns * block]
    blocks = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    small = cv2.resize(blocks, (9, 8), interpolation=cv2.INTER_AREA)
    grey = small.astype(np.int64) @ np.array([114, 587, 299])  # BT.601, in thousandths
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


ENCODER = f"opencv {cv2.__version__}, pillow {PIL.__version__}"
"""Who decodes and encodes: part of a shard's identity, as another version may round otherwise."""
