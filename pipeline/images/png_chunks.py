"""Leave out the text and the animation of PNG files, which are no part of the first image.

Pillow refuses a whole image whose text is large, so that a small file cannot fill the memory.
"""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def without_text(data: bytes) -> bytes:
    """Return a PNG file without its text chunks, and any other file as it is."""
    return _without(data, _TEXT)


def without_animation(data: bytes) -> bytes:
    """Return a PNG file as a still image, and any other file as it is."""
    return _without(data, _ANIMATION)


def _without(data: bytes, chunks: tuple[bytes, ...]) -> bytes:
    if not data.startswith(SIGNATURE) or not any(name in data for name in chunks):
        return data
    view, kept, position = memoryview(data), [memoryview(SIGNATURE)], len(SIGNATURE)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        if end > len(data):
            break
        if view[position + 4 : position + 8] not in chunks:
            kept.append(view[position:end])
        position = end
    return b"".join([*kept, view[position:]])
