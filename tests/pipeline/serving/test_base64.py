"""Base64 as different programs write it."""

import base64

import pytest

from infill.pipeline.serving.http.schemas import decode_base64

DATA = bytes(range(256)) + b"\xfb\xff"


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


@pytest.mark.parametrize("text", ["not base64!", "a", "{}"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)
