"""From one original to its samples: unchanged, or cropped, resized and encoded."""

from collections.abc import Iterator
from dataclasses import dataclass

from infill.pipeline.images import (
    SUFFIX_OF,
    Header,
    Pixels,
    RejectedError,
    decode_original,
    decode_sample,
    encode_sample,
    read_header,
)
from infill.pipeline.sharding.config import ShardConfig
from infill.pipeline.sharding.preprocess import perceptual_hash, resize_short_side, squash

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One keyed image, ready for a tar."""

    key: str
    suffix: str
    data: bytes
    """The encoded image."""
    height_px: int
    width_px: int
    crop: Box | None
    """Left, top, width, height in the upright and resized photograph; None for all of it."""
    perceptual_hash: int
    labels: bytes | None = None
    """The label map of the same pixels, as a PNG."""


def samples_of(
    key: str, data: bytes, config: ShardConfig, labels: bytes | None = None
) -> Iterator[Sample]:
    """Yield an original's samples: one, or one per square of the grid, row by row.

    Args:
        key: key of the original; a square appends its row and column.
        data: the original's bytes.
        config: the preprocessing.
        labels: the bytes of its label map, if there is one.

    Raises:
        RejectedError: if it is not an image, damaged, or too small or large, or its label map is.
    """
    header = read_header(data, config.max_pixels)
    size = f"{header.width_px} x {header.height_px} px"
    short = min(header.width_px, header.height_px)
    if short < config.min_side_px:
        raise RejectedError(f"smaller than min_side_px {config.min_side_px}: {size}")
    if config.crop_size_px is not None and short < config.crop_size_px:
        raise RejectedError(f"smaller than crop_size_px {config.crop_size_px}: {size}")
    original = decode_original(data, header)
    image = _framed(original, config)
    colours = None
    if labels is not None:
        colours = _framed(_label_map(labels, original, config), config, labels=True)
    suffix = _suffix(header, config)
    if config.crop_size_px is not None:
        for name, box, square in _squares(image, config):
            encoded = encode_sample(square, suffix, config.quality)
            yield _sample(key + name, suffix, encoded, square, box, colours)
    elif image is original and header.plain and SUFFIX_OF[header.format] == suffix:
        _require_loadable(data, suffix, image)
        yield _sample(key, suffix, data, image, None, colours)
    else:
        encoded = encode_sample(image, suffix, config.quality)
        yield _sample(key, suffix, encoded, image, None, colours)


def _label_map(data: bytes, original: Pixels, config: ShardConfig) -> Pixels:
    """Decode an original's label map: colours, or grey in all three channels.

    Raises:
        RejectedError: if it is damaged, has more than 8 bits, or is of another size.
    """
    try:
        header = read_header(data, config.max_pixels)
        if header.deep:
            raise RejectedError("has more than 8 bits per channel")
        colours = decode_original(data, header)
    except RejectedError as error:
        raise RejectedError(f"its label map: {error}") from error
    if colours.shape != original.shape:
        ours, theirs = (f"{one.shape[1]} x {one.shape[0]}" for one in (original, colours))
        raise RejectedError(f"its label map is {theirs} px, the image is {ours} px")
    return colours


def _require_loadable(data: bytes, suffix: str, image: Pixels) -> None:
    """Refuse bytes that are kept and that a training could not decode.

    Pillow takes a PNG without its last bytes, and OpenCV, which decodes samples, does not; a JPEG
    has been decoded by OpenCV already.
    """
    if suffix == "jpg":
        return
    loaded = decode_sample(data)
    if loaded is None or loaded.shape != image.shape:
        raise RejectedError("truncated or damaged: the decoder of trainings refuses it")


def _framed(image: Pixels, config: ShardConfig, *, labels: bool = False) -> Pixels:
    """Return the configured crop of an image at the configured size; itself if unchanged."""
    height, width = image.shape[:2]
    if config.frame == "square" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    side_px = config.resize_short_side_px
    if side_px is None:
        return image
    if config.frame == "squash":
        return squash(image, side_px, labels=labels)
    return resize_short_side(image, side_px, labels=labels)


def _suffix(header: Header, config: ShardConfig) -> str:
    return SUFFIX_OF.get(header.format, "png") if config.format == "original" else config.format


def _squares(image: Pixels, config: ShardConfig) -> Iterator[tuple[str, Box, Pixels]]:
    side = config.crop_size_px
    assert side is not None
    stride = config.crop_stride_px or side
    height, width = image.shape[:2]
    for row, top in enumerate(range(0, height - side + 1, stride)):
        for column, left in enumerate(range(0, width - side + 1, stride)):
            square = image[top : top + side, left : left + side]
            yield f"_{row:03d}-{column:03d}", (left, top, side, side), square


def _sample(
    key: str,
    suffix: str,
    data: bytes,
    image: Pixels,
    crop: Box | None,
    labels: Pixels | None,
) -> Sample:
    height, width = image.shape[:2]
    if labels is not None and crop is not None:
        left, top, across, down = crop
        labels = labels[top : top + down, left : left + across]
    return Sample(
        key=key,
        suffix=suffix,
        data=data,
        height_px=height,
        width_px=width,
        crop=crop,
        perceptual_hash=perceptual_hash(image),
        labels=None if labels is None else encode_sample(labels, "png", 100),
    )
