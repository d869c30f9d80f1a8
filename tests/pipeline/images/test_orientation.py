"""What lies beside the pixels of an image decides nothing but its EXIF orientation.

That holds for shards, masks and requests, as browsers show images.
"""

import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import ImageError
from infill.pipeline.images import (
    decode,
    decode_original,
    decode_sample,
    read_header,
    read_mask,
    upright_size,
)

MARK = np.zeros((24, 40), np.uint8)
MARK[2:10, 3:9] = 255


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></x:xmpmeta>'
        % orientation
    )


def saved(form: str, described: int, exif: int | None = None) -> bytes:
    options: dict[str, object] = {"quality": 100} if form == "jpeg" else {"lossless": True}
    if exif is not None:
        tags = Image.Exif()
        tags[0x0112] = exif
        options["exif"] = tags
    sink = io.BytesIO()
    Image.fromarray(MARK).convert("RGB").save(sink, form, xmp=xmp(described), **options)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["jpeg", "webp"])
@pytest.mark.parametrize("described", range(2, 9))
@pytest.mark.parametrize("exif", [None, 1, 6])
def test_every_reader_turns_by_exif_and_none_by_xmp(
    form: str, described: int, exif: int | None
) -> None:
    file = saved(form, described, exif)
    expected = np.rot90(MARK, -1) if exif == 6 else MARK
    header = read_header(file)
    assert (header.height_px, header.width_px) == expected.shape
    assert upright_size(file, 10_000) == expected.shape
    readers = [decode_original(file, header), decode(file, 10_000).rgb]
    if header.plain:
        readers.append(decode_sample(file))
    for pixels in readers:
        assert ((pixels[..., 0] > 127) == (expected > 127)).all()
    assert (read_mask(file) == (expected > 127)).all()


def require_mark(file: bytes) -> None:
    """Check that every decoder reads the mark as it was written."""
    assert upright_size(file, 10_000) == MARK.shape
    assert (decode(file, 10_000).rgb[..., 0] == MARK).all()
    assert (decode_original(file, read_header(file))[..., 0] == MARK).all()
    assert (read_mask(file) == (MARK > 127)).all()


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("exif", [0, 1, 8, 9, 300, b"no EXIF"], ids=str)
def test_orientations_that_do_not_exist_are_upright(form: str, exif: int | bytes) -> None:
    tags = Image.Exif()
    tags[0x0112] = exif
    sink = io.BytesIO()
    pixels = MARK if exif != 8 else np.ascontiguousarray(np.rot90(MARK, -1))
    options: dict[str, object] = {"quality": 100} if form == "jpeg" else {"lossless": True}
    options["exif"] = b"Exif\0\0" + exif if isinstance(exif, bytes) else tags
    Image.fromarray(pixels).convert("RGB").save(sink, form, **options)
    file = sink.getvalue()
    header = read_header(file)
    assert header.orientation == (8 if exif == 8 else 1)
    assert header.plain is (form == "jpeg" or exif != 8)  # OpenCV turns JPEGs alone
    assert (header.height_px, header.width_px) == upright_size(file, 10_000) == MARK.shape
    for found in (decode(file, 10_000).rgb, decode_original(file, header)):
        assert ((found[..., 0] > 127) == (MARK > 127)).all()
    assert (read_mask(file) == (MARK > 127)).all()


def test_orientation_in_the_text_of_a_png_is_ignored() -> None:
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp(6).decode())
    sink = io.BytesIO()
    Image.fromarray(MARK).save(sink, "png", pnginfo=text)
    file = sink.getvalue()
    require_mark(file)


@pytest.mark.parametrize("compressed", [False, True])
def test_large_text_in_a_png_is_no_reason_to_refuse_it(compressed: bool) -> None:
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=compressed)
    text.add_itxt("prompt", "y" * 3_000_000, zip=compressed)
    sink = io.BytesIO()
    Image.fromarray(MARK).save(sink, "png", pnginfo=text)
    file = sink.getvalue()
    require_mark(file)
    for cut in (1, 30, len(file) // 2):
        with pytest.raises(ImageError):
            decode(file[:-cut] if cut > 12 else b"\x89PNG\r\n\x1a\n" + b"tEXt" * cut, 10_000)
