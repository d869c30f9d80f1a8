"""Decode and encode uploads within limits; the header is checked before pixels are decoded.

PNG, JPEG and WebP with 8 bits per channel and one frame are decoded here, and composites are of
their kind. All other images, animations and 16 bits are read as the originals of datasets are: the
first frame, 8 bits, transparency blended with white. The header's size is compared with the limit
before any pixel is decoded, and so is the size that the decoder has found; a PNG has one header,
and a JPEG few scans. Orientation (EXIF) is applied, so that image and mask
mean the same pixels; the colour profile (ICC), EXIF without its thumbnail, and the resolution are
kept and returned with the result.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from infill.pipeline.errors import (
    ImageError,
    RejectedError,
    TooManyPixelsError,
    UnknownFormatError,
)
from infill.pipeline.images.arrays import ByteHole, Hole, Pixels, grey
from infill.pipeline.images.headers import Header, read_header
from infill.pipeline.images.jpeg_scans import require_few_scans
from infill.pipeline.images.kinds import Format
from infill.pipeline.images.metadata import Metadata, read_metadata
from infill.pipeline.images.orientation import ON_ITS_SIDE, orientation_in, turn_upright
from infill.pipeline.images.originals import decode_original
from infill.pipeline.images.png_chunks import (
    correct_transparency,
    doubtful_sizes,
    require_one_header,
    without_text,
)

PilImage = Image.Image
"""An image of Pillow."""
Decoder = Callable[[bytes, Header], Pixels]

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Media type of each format, for HTTP."""
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""Pillow's modes with premultiplied opacity, and the plain ones."""


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image, upright."""

    pixels: Pixels
    """uint8 [H, W, C]: grey (1), grey and alpha (2), RGB (3) or RGB and alpha (4)."""
    format: Format
    """Format of its file."""
    profile: bytes | None
    """ICC colour profile, if any."""
    metadata: Metadata = Metadata()
    """EXIF and resolution."""

    @property
    def rgb(self) -> Pixels:
        """The input of a network: uint8 [H, W, 3]."""
        channels = self.pixels.shape[2]
        return self.pixels[..., :3] if channels >= 3 else self.pixels[..., :1].repeat(3, axis=2)

    @property
    def alpha(self) -> Pixels | None:
        """Opacity, uint8 [H, W]; None if the image has none."""
        return self.pixels[..., -1] if self.pixels.shape[2] in (2, 4) else None


def decode(
    data: bytes, max_pixels: int, what: str = "image", others: Decoder = decode_original
) -> DecodedImage:
    """Decode an uploaded file.

    Args:
        data: the whole file.
        max_pixels: maximum height times width.
        what: the field's name, for messages.
        others: decodes a file that is not a still PNG, JPEG or WebP of 8 bits: uint8 [H, W, C].

    Raises:
        ImageError: if it is empty or damaged, has too many pixels, or is of a format that is not
            read.
    """
    if not data:
        raise ImageError("bad_request", f"the {what} is empty")
    if not is_upload(data):
        return _decode_other(data, max_pixels, what, others)
    kind = _kind(data)
    size = _claimed_size(data, kind, max_pixels, what)
    try:
        opened = _OPEN[kind](io.BytesIO(without_text(data)))
        if opened.size != size:  # The decoder would allocate another size than was checked.
            raise _damaged(what)
        if getattr(opened, "n_frames", 1) > 1:
            return _decode_other(data, max_pixels, what, others)
        opened.load()
        correct_transparency(opened, data)
        upright = turn_upright(opened)
        pixels = np.asarray(plain(upright))
    except ImageError:
        raise
    except Exception as error:  # as in _claimed_size
        raise _damaged(what) from error
    profile = opened.info.get("icc_profile") if opened.mode != "CMYK" else None
    return DecodedImage(
        pixels=pixels.reshape(*pixels.shape[:2], -1),
        format=kind,
        profile=profile,
        metadata=read_metadata(opened),
    )


def upright_size(data: bytes, max_pixels: int, what: str = "image") -> tuple[int, int]:
    """Return height and width of :func:`decode`'s result, from the header alone.

    Raises:
        ImageError: if the header is damaged, gives too many pixels, or is of a format that is not
            read.
    """
    if not data:
        raise ImageError("bad_request", f"the {what} is empty")
    if not is_upload(data):
        header = _header_of_other(data, max_pixels, what)
        return header.height_px, header.width_px
    kind = _kind(data)
    width, height = _claimed_size(data, kind, max_pixels, what)
    try:
        opened = _OPEN[kind](io.BytesIO(without_text(data)))
        turned = orientation_in(data, opened) in ON_ITS_SIDE
    except Exception as error:  # as in _claimed_size
        raise _damaged(what) from error
    return (width, height) if turned else (height, width)


def fill_in(decoded: DecodedImage, hole: Hole, prediction: Pixels) -> DecodedImage:
    """Return the composite: the image's own pixels, and the prediction in the hole.

    Args:
        decoded: the decoded image.
        hole: bool [H, W].
        prediction: uint8 [H, W, 3].

    Returns:
        An image of the same kind. Known pixels are bit for bit those of ``decoded``; with alpha,
        the hole becomes opaque.
    """
    pixels = decoded.pixels.copy()
    colours = 3 if pixels.shape[2] >= 3 else 1
    values = prediction if colours == 3 else grey(prediction)[..., None]
    where = hole[..., None]  # Indices of the hole's pixels would take 16 bytes each.
    np.copyto(pixels[..., :colours], values, where=where)
    np.copyto(pixels[..., colours:], np.uint8(255), where=where)
    return replace(decoded, pixels=pixels)


def encode(decoded: DecodedImage, form: Format, quality: int | None = None) -> bytes:
    """Encode an image: PNG and WebP without loss, JPEG at quality 95 without subsampling.

    Args:
        decoded: the image.
        form: the file format.
        quality: 0 to 99: compression with losses for JPEG and WebP, of known pixels as well; None
            or 100 for the best.

    Raises:
        ImageError: for a JPEG of an image with alpha, which the format cannot carry.
    """
    if form == "jpeg" and decoded.alpha is not None:
        raise ImageError(
            "bad_request",
            "this image has transparency, which JPEG cannot store: request png or webp",
        )
    pixels = decoded.pixels[..., 0] if decoded.pixels.shape[2] == 1 else decoded.pixels
    options: dict[str, Any] = {
        "png": {"compress_level": 1},  # a third of the default's time, and hardly larger
        "jpeg": {"quality": 95, "subsampling": 0},
        "webp": {"lossless": True, "quality": 20, "method": 1, "exact": True},
    }[form]
    if quality is not None and quality < 100 and form != "png":
        options = {"quality": max(quality, 1)}
    sink = io.BytesIO()
    kept = decoded.metadata.options(form)
    Image.fromarray(pixels).save(sink, format=form, icc_profile=decoded.profile, **kept, **options)
    return sink.getvalue()


def decoded_image(image: PilImage, name: str = "image") -> DecodedImage:
    """Convert a Pillow image, without applying its orientation.

    Palettes, CMYK and 1-bit images become plain colours, as in :func:`decode`.

    Args:
        image: the image.
        name: what it is, for the error.

    Raises:
        ImageError: if it has more than 8 bits per channel, or no pixels.
    """
    if not all(image.size):
        width, height = image.size
        raise ImageError("bad_request", f"the {name} has no pixels: it is {width} × {height}")
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            "unsupported_image",
            f"the {name} has mode {image.mode}: convert it to 8 bits per channel",
        )
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    pixels = np.asarray(plain(image))
    profile = image.info.get("icc_profile") if image.mode != "CMYK" else None
    return DecodedImage(
        pixels=pixels.reshape(*pixels.shape[:2], -1),
        format="png",
        profile=profile,
        metadata=read_metadata(image, upright=False),
    )


def is_16_bits(image: PilImage) -> bool:
    """Return whether a Pillow image is grey with 16 bits; ``np.asarray`` gives its values."""
    return image.mode.startswith("I;16")


def pillow_of(values: NDArray[Any]) -> PilImage:
    """Return a grey image of 16 bits, uint16 [H, W], as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(values))


def to_pillow(decoded: DecodedImage) -> PilImage:
    """Convert to a Pillow image, with the colour profile."""
    pixels = decoded.pixels[..., 0] if decoded.pixels.shape[2] == 1 else decoded.pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if decoded.profile:
        image.info["icc_profile"] = decoded.profile
    image.info.update(decoded.metadata.options("png"))
    return image


def encode_png(pixels: Pixels) -> bytes:
    """Return uint8 [H, W, 3] as a PNG file; the same bytes for the same pixels."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def encode_pixels(pixels: Pixels) -> bytes:
    """Return uint8 [H, W, C], C from 1 to 4, as a PNG file."""
    return encode(DecodedImage(pixels=pixels, format="png", profile=None), "png")


def is_upload(data: bytes) -> bool:
    """Return whether a file is a PNG of 8 bits per channel, a JPEG or a WebP, by its start."""
    if data.startswith(_PNG):
        return data[24:25] != b"\x10"
    return data.startswith(_JPEG) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def encode_mask(hole: ByteHole | Hole, *, one_bit: bool = False) -> bytes:
    """Return a hole, [H, W], as a PNG file of 8 bits, or of one; white in the hole."""
    sink = io.BytesIO()
    levels = hole.astype(bool) if one_bit else hole.astype(np.uint8) * np.uint8(255)
    Image.fromarray(levels).save(sink, "png", compress_level=1)
    return sink.getvalue()


def _kind(data: bytes) -> Format:
    """Return the format of a file of which :func:`is_upload` holds."""
    if data.startswith(_PNG):
        return "png"
    return "jpeg" if data.startswith(_JPEG) else "webp"


def _decode_other(data: bytes, max_pixels: int, what: str, others: Decoder) -> DecodedImage:
    """Decode an image of any other format that is read; its composite is a PNG."""
    header = _header_of_other(data, max_pixels, what)
    try:
        pixels = others(data, header)
    except RejectedError as error:
        raise ImageError("damaged_image", f"the {what} cannot be used: {error}") from error
    return DecodedImage(pixels=pixels, format="png", profile=None)


def _header_of_other(data: bytes, max_pixels: int, what: str) -> Header:
    try:
        return read_header(data, max_pixels)
    except TooManyPixelsError as error:
        raise ImageError("too_many_pixels", f"the {what}'s {error}: send it smaller") from error
    except UnknownFormatError as error:
        raise ImageError(
            "unsupported_image", f"the {what} is {error}: send PNG, JPEG or WebP"
        ) from error
    except RejectedError as error:
        raise ImageError("damaged_image", f"the {what} cannot be read: {error}") from error


def _claimed_size(data: bytes, kind: Format, max_pixels: int, what: str) -> tuple[int, int]:
    """Return width and height by the header; refuse too many pixels, or too costly ones."""
    try:
        for size in doubtful_sizes(data):
            _require_few_pixels(*size, max_pixels, what)
        require_one_header(data)
        width, height = _CLAIMED_SIZE[kind](data)
    except ImageError:
        raise
    except Exception as error:  # decoders raise any exception for hostile bytes
        raise _damaged(what) from error
    _require_few_pixels(width, height, max_pixels, what)
    try:
        require_few_scans(data)
    except ValueError as error:
        raise ImageError("unsupported_image", f"the {what} is {error}") from error
    return width, height


def _require_few_pixels(width: int, height: int, max_pixels: int, what: str) -> None:
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the {what} is {width} × {height}, {width * height:,} pixels; "
            f"at most {max_pixels:,} are accepted: send it smaller",
        )


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    return JpegImageFile(io.BytesIO(data)).size  # reads markers up to the first scan only


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read the size at the start of each of WebP's three layouts (RFC 9649, Sec. 2.5 to 2.7).

    Written here because the decoder allocates two whole canvases when it opens a file.
    """
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"no WebP chunk {chunk!r}")


_CLAIMED_SIZE: dict[Format, Callable[[bytes], tuple[int, int]]] = {
    "png": _png_size,
    "jpeg": _jpeg_size,
    "webp": _webp_size,
}
_OPEN: dict[Format, Callable[[io.BytesIO], Image.Image]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
}


def _damaged(what: str) -> ImageError:
    return ImageError("damaged_image", f"the {what} is damaged: it cannot be decoded to its end")


def plain(opened: Image.Image) -> Image.Image:
    """Convert to grey, grey with alpha, RGB or RGB with alpha, with the same colours."""
    transparent = "transparency" in opened.info
    if opened.mode in ("L", "LA", "RGB", "RGBA") and not transparent:
        return opened
    if opened.mode in ("1", "L"):
        return opened.convert("LA" if transparent else "L")
    if opened.mode == "CMYK":
        return _from_cmyk(opened)
    return opened.convert("RGBA" if transparent or opened.mode == "PA" else "RGB")


def _from_cmyk(opened: Image.Image) -> Image.Image:
    """Convert CMYK to RGB by the file's own profile, or plainly if it has no usable one."""
    profile = opened.info.get("icc_profile")
    if not profile:
        return opened.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            opened, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of other colours
        return opened.convert("RGB")
    assert converted is not None  # as it is only for a conversion in place
    return converted
