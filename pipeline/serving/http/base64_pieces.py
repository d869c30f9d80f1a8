"""Base64 of large files, in pieces: a thread that codes one lets the others run in between.

Each call of Python's own coder holds the interpreter until it is done, half a second for a file of
the largest size, and the event loop with it.
"""

import base64

_BYTES = 3 * 2**16
_CHARACTERS = 4 * 2**16
_BLANKS = " \t\r\n"
_NO_BLANKS = str.maketrans("", "", _BLANKS)


def encode_base64(data: bytes) -> bytes:
    """Encode a file."""
    starts = range(0, len(data), _BYTES)
    return b"".join(base64.b64encode(data[start : start + _BYTES]) for start in starts)


def decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without line breaks and padding.

    Raises:
        ValueError: if it is not base64.
    """
    text = text.rstrip(_BLANKS + "=")
    if "=" in text:
        raise ValueError("there is padding in the middle")
    found, rest = [], ""
    for start in range(0, len(text), _CHARACTERS):
        bare = rest + text[start : start + _CHARACTERS].translate(_NO_BLANKS)
        whole = len(bare) // 4 * 4
        found.append(_decode(bare[:whole]))
        rest = bare[whole:]
    found.append(_decode(rest + "=" * (-len(rest) % 4)))
    return b"".join(found)


def _decode(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
