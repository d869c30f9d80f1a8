import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.images import decode, decoded_image, encode, fill_in, to_pillow
from infill.pipeline.images.metadata import Metadata

MAKER = 0x010F


def photo(form: str, dpi=(300, 300)) -> bytes:
    """A photograph on its side, with its maker, its orientation, and a thumbnail."""
    exif = Image.Exif()
    exif[MAKER] = "Camera"
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    sink = io.BytesIO()
    options = {"dpi": dpi} if form != "webp" else {"lossless": True}
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).convert("RGB").save(
        sink, form, exif=exif, **options
    )
    return sink.getvalue()


def filled(data: bytes):
    picture = decode(data, 10_000)
    hole = np.zeros(picture.pixels.shape[:2], bool)
    hole[2:5, 2:5] = True
    return fill_in(picture, hole, np.zeros((*hole.shape, 3), np.uint8))


@pytest.mark.parametrize("source", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_composite_keeps_exif_and_resolution_but_is_upright(source, form):
    result = Image.open(io.BytesIO(encode(filled(photo(source)), form)))
    assert result.size == (20, 30)
    assert result.getexif()[MAKER] == "Camera"
    assert result.getexif().get_ifd(0x8825)[1] == "N"
    assert 0x0112 not in result.getexif()
    if source != "webp" and form != "webp":
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (5, True), (8, True)])
def test_width_and_height_of_a_photograph_on_its_side_change_places(form, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x011A], exif[0x011B] = 300.0, 150.0
    camera = exif.get_ifd(0x8769)
    camera[0xA002], camera[0xA003] = 30, 20
    camera[0xA20E], camera[0xA20F] = 4000.0, 2000.0
    sink = io.BytesIO()
    resolution = {} if form == "webp" else {"dpi": (300, 150)}
    Image.new("RGB", (30, 20)).save(sink, form, exif=exif, **resolution)
    result = Image.open(io.BytesIO(encode(filled(sink.getvalue()), form)))
    kept, sides = result.getexif(), [30, 20]
    assert [kept[0x011A], kept[0x011B]] == ([150, 300] if turned else [300, 150])
    size = [kept.get_ifd(0x8769)[tag] for tag in (0xA002, 0xA003)]
    assert size == list(result.size) == (sides[::-1] if turned else sides)
    sensor = [kept.get_ifd(0x8769)[tag] for tag in (0xA20E, 0xA20F)]
    assert sensor == ([2000, 4000] if turned else [4000, 2000])
    if form != "webp":
        assert result.info["dpi"] == pytest.approx((150, 300) if turned else (300, 150), abs=0.1)


def test_width_alone_becomes_the_height_of_a_photograph_on_its_side():
    exif = Image.Exif()
    exif[0x0112], exif[0x0100] = 6, 30
    sink = io.BytesIO()
    Image.new("RGB", (30, 20)).save(sink, "png", exif=exif)
    kept = Image.open(io.BytesIO(encode(filled(sink.getvalue()), "png"))).getexif()
    assert dict(kept) == {0x0101: 30}


def test_thumbnail_which_shows_what_the_hole_was_is_not_kept():
    exif = Image.Exif()
    exif[MAKER] = "Camera"
    thumbnail = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(thumbnail, "jpeg")
    block = bytearray(exif.tobytes())
    # A second directory of one entry behind the first, with the thumbnail behind it.
    tiff = block[6:]
    count = int.from_bytes(tiff[8:10], "big" if tiff[:2] == b"MM" else "little")
    order = "big" if tiff[:2] == b"MM" else "little"
    link, at = 10 + 12 * count, len(tiff)
    tiff[link : link + 4] = at.to_bytes(4, order)
    start = at + 2 + 24 + 4

    def entry(tag: int, value: int) -> bytes:
        return b"".join(
            n.to_bytes(size, order) for n, size in ((tag, 2), (4, 2), (1, 4), (value, 4))
        )

    tiff += (2).to_bytes(2, order) + entry(0x0201, start)
    tiff += entry(0x0202, len(thumbnail.getvalue())) + bytes(4) + thumbnail.getvalue()
    sink = io.BytesIO()
    Image.new("RGB", (30, 20)).save(sink, "jpeg", exif=b"Exif\0\0" + bytes(tiff))
    assert thumbnail.getvalue() in sink.getvalue()
    result = encode(filled(sink.getvalue()), "jpeg")
    assert thumbnail.getvalue()[2:40] not in result[2:200]
    assert b"Camera" in result
    assert result.count(b"\xff\xd8") == 1


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0", b"MM\0*" + b"\xff" * 60])
def test_exif_that_cannot_be_read_is_left_out(exif):
    sink = io.BytesIO()
    Image.new("RGB", (30, 20)).save(sink, "png", exif=exif)
    result = Image.open(io.BytesIO(encode(filled(sink.getvalue()), "png")))
    assert not result.getexif()


def test_strange_resolutions_are_left_out():
    for dpi in ((0, 0), (10**6, 10**6)):
        result = Image.open(io.BytesIO(encode(filled(photo("png", dpi)), "jpeg")))
        assert result.info["dpi"] == (72, 72)  # what EXIF means where it gives none


def test_resolutions_of_both_axes_are_kept_up_to_their_bounds():
    for dpi in ((72, 144), (1, 65_535)):
        image = Image.new("RGB", (4, 4))
        image.info["dpi"] = dpi
        assert decoded_image(image).metadata.dpi == dpi


@pytest.mark.parametrize(("form", "most"), [("jpeg", 65_527), ("png", 2**24), ("webp", 2**24)])
def test_exif_is_kept_up_to_what_a_format_holds_and_a_resolution_where_it_has_one(form, most):
    resolution = {} if form == "webp" else {"dpi": (300.0, 72.0)}
    for exif, kept in (
        (b"", {}),
        (bytes(most), {"exif": bytes(most)}),
        (bytes(most + 1), {}),
    ):
        assert Metadata(exif=exif).options(form) == kept
        assert Metadata(exif=exif, dpi=(300.0, 72.0)).options(form) == kept | resolution


def test_pillow_images_keep_theirs():
    image = Image.open(io.BytesIO(photo("png")))
    image.load()
    kept = to_pillow(decoded_image(image))
    assert kept.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert kept.getexif()[MAKER] == "Camera"
    assert kept.size == image.size
    assert kept.getexif()[0x0112] == 6  # as its pixels are not turned
