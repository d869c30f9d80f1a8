"""The chunks of PNG files: one header, without text and animation, which the image does not need.

Pillow refuses a whole image whose text is large, so that a small file cannot fill the memory. Of
several headers decoders obey different ones, so a file with more than one is refused.
"""

from collections.abc import Iterator

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 2**16
"""Maximum number of chunks; encoders write one for each 8 KB of pixels or more."""
_HEADER = b"\x00\x00\x00\x0dIHDR"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def without_text(data: bytes) -> bytes:
    """Return a PNG file without its text chunks, and any other file as it is."""
    return _without(data, _TEXT)


def without_animation(data: bytes) -> bytes:
    """Return a PNG file as a still image, and any other file as it is."""
    return _without(data, _ANIMATION)


def require_one_header(data: bytes) -> None:
    """Refuse a PNG file that does not start with its only header; other files pass.

    Raises:
        ValueError: if it has none, more than one, or another chunk before it.
    """
    if not data.startswith(SIGNATURE):
        return
    if not data.startswith(_HEADER, len(SIGNATURE)):
        raise ValueError("a PNG that does not start with its header")
    if data.count(b"IHDR") > 1 and sum(kind == b"IHDR" for kind, _, _ in _chunks(data)) > 1:
        raise ValueError("a PNG with more than one header")


def doubtful_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return width and height by each header of a PNG file that has not exactly one, at its start.

    Decoders differ in which of them they obey; [] for any other file.

    Raises:
        ValueError: if the file has too many chunks.
    """
    if not data.startswith(SIGNATURE):
        return []
    if data.startswith(_HEADER, len(SIGNATURE)) and data.count(b"IHDR") == 1:
        return []
    starts = [start + 8 for kind, start, _ in _chunks(data) if kind == b"IHDR"]
    sizes = [(data[at : at + 4], data[at + 4 : at + 8]) for at in starts]
    return [(int.from_bytes(one, "big"), int.from_bytes(other, "big")) for one, other in sizes]


def transparent_level(data: bytes) -> int | None:
    """Return the level that a grey PNG file names as transparent (tRNS), in its own bits.

    Returns:
        None for any other file, and if it names none.
    """
    if not data.startswith(SIGNATURE) or data[25:26] != b"\0" or b"tRNS" not in data:
        return None
    for kind, at, end in _chunks(data):
        if kind == b"IDAT":  # The pixels: what is named behind them, decoders do not apply.
            return None
        if kind == b"tRNS" and end - at >= 14:
            return int.from_bytes(data[at + 8 : at + 10], "big") & (1 << data[24]) - 1
    return None


def correct_transparency(image: Image.Image, data: bytes) -> None:
    """Scale the transparent level of a grey PNG as Pillow scales its pixels, to 8 bits.

    Args:
        image: the file, opened by Pillow.
        data: the file.
    """
    if image.mode in ("1", "L") and (level := transparent_level(data)) is not None:
        image.info["transparency"] = level * 255 // ((1 << data[24]) - 1)


def exif_chunk(data: bytes) -> bytes | None:
    """Return the EXIF of a PNG file, wherever it stands; None if there is none."""
    if b"eXIf" not in data:
        return None
    found = (data[start + 8 : end - 4] for kind, start, end in _chunks(data) if kind == b"eXIf")
    return next(found, None)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each whole chunk."""
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if position + 12 > len(data) or end > len(data):
            return
        yield data[position + 4 : position + 8], position, end
        position = end
    raise ValueError(f"a PNG with more than {MAX_CHUNKS} chunks")


def _without(data: bytes, names: tuple[bytes, ...]) -> bytes:
    if not data.startswith(SIGNATURE) or not any(name in data for name in names):
        return data
    view, kept, position = memoryview(data), [memoryview(SIGNATURE)], len(SIGNATURE)
    for kind, start, end in _chunks(data):
        if kind not in names:
            kept.append(view[start:end])
        position = end
    return b"".join([*kept, view[position:]])
