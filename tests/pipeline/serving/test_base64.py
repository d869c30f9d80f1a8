"""Base64 as different programs write it."""

import base64

import pytest

from infill.pipeline.serving.http.base64_pieces import decode_base64, encode_base64

DATA = bytes(range(256)) * 2000 + b"\xfb\xff"  # more than one piece


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(DATA).decode(),
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.b64encode(DATA).decode().rstrip("="),
    ],
    ids=["plain", "wrapped", "wrapped for Windows", "URL-safe", "unpadded"],
)
def test_base64_is_read_however_it_is_written(text: str) -> None:
    assert decode_base64(text) == DATA


@pytest.mark.parametrize("size", [0, 1, 2, 3 * 2**16 - 1, 3 * 2**16, 2**18 + 1])
def test_pieces_are_the_base64_of_the_whole(size: int) -> None:
    assert encode_base64(DATA[:size]) == base64.b64encode(DATA[:size])
    assert decode_base64(base64.b64encode(DATA[:size]).decode()) == DATA[:size]


@pytest.mark.parametrize("text", ["not base64!", "a", "{}", "QQ==QQ==", "\u0416AAA"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)
