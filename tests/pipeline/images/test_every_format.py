"""Every format that sharding reads is read by every job and by the service, as the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.batch_inference.pairs import list_images
from infill.pipeline.images import MaskRule, decode, read_mask, upright_size
from infill.pipeline.images.conversion import as_upload, mask_as_upload
from infill.pipeline.images.headers import FORMATS, read_header
from infill.pipeline.images.kinds import OPTIONAL_FORMATS, SUFFIXES, readable_suffixes
from infill.pipeline.images.originals import decode_original
from infill.pipeline.inference.inputs import read_hole, read_input
from infill.pipeline.inference.pair_files import InpaintOptions, decode_pair
from infill.pipeline.masks.mask_files import list_images as list_masks
from infill.pipeline.masks.mask_files import read_mask_file
from infill.pipeline.serving.http.decoders import SMALL_PIXELS
from infill.pipeline.serving.http.inpaint_service import _sizes
from infill.pipeline.sources import open_source
from infill.pipeline.visualize.config import VisualizeConfig
from infill.pipeline.visualize.render import _photograph

LIMIT = 64 * 48
FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".jp2": "JPEG2000"},
    **{suffix: OPTIONAL_FORMATS[suffix] for suffix in readable_suffixes()},
}
VARIANTS = ["16-bit png", "animated png", "animated webp", "animated gif"]


def photograph() -> Image.Image:
    rows, columns = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([rows * 4, columns * 3, 90 + rows], -1).astype(np.uint8))


def mask() -> Image.Image:
    levels = np.zeros((48, 64), np.uint8)
    levels[8:24, 16:32] = 255
    return Image.fromarray(levels)


def saved(image: Image.Image, kind: str) -> bytes:
    """Return an image as a file: of the format of a suffix, or one of VARIANTS."""
    sink = io.BytesIO()
    if kind == "16-bit png":
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(sink, "PNG")
    elif kind in VARIANTS:
        form = kind.split()[1].upper()
        other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        lossless = {"lossless": True} if form == "WEBP" else {}
        image.save(sink, form, save_all=True, append_images=[other], **lossless)
    else:
        form = FORMAT_OF[kind]
        (image.convert("L") if kind == ".pgm" else image).save(sink, form)
    return sink.getvalue()


def test_the_table_of_suffixes_is_that_of_formats() -> None:
    assert set(FORMAT_OF) == {*SUFFIXES, *readable_suffixes()}
    assert set(FORMAT_OF.values()) == set(FORMATS)


@pytest.mark.parametrize("kind", [*FORMAT_OF, *VARIANTS])
def test_a_photograph_of_any_format_is_the_same_everywhere(tmp_path, kind: str) -> None:
    data = saved(photograph(), kind)
    path = tmp_path / f"a{kind if kind[0] == '.' else '.' + kind.split()[1]}"
    path.write_bytes(data)
    assert [item.path for item in open_source("folder", str(tmp_path)).originals()] == [path.name]
    assert list_images(str(tmp_path)) == [path.name]
    sharded = decode_original(data, read_header(data, LIMIT))
    hole = saved(mask(), ".png")
    explained, _ = _photograph(VisualizeConfig(checkpoint="run", image=str(path)), 48)
    found = {
        "service": decode_pair(data, hole, InpaintOptions(), LIMIT)[0].rgb,
        "batch": decode(as_upload(data, LIMIT), LIMIT).rgb,
        "inpaint": read_input(str(path)).rgb,
        "explain": explained,
    }
    for name, pixels in found.items():
        assert pixels.shape == sharded.shape, name
        assert np.abs(pixels.astype(int) - sharded).max() <= 2, name  # two decoders of JPEG
    assert upright_size(data, LIMIT) == (48, 64)


@pytest.mark.parametrize("kind", [*FORMAT_OF, *VARIANTS])
def test_a_mask_of_any_format_is_the_same_everywhere(tmp_path, kind: str) -> None:
    data = saved(mask(), kind)
    path = tmp_path / f"a{kind if kind[0] == '.' else '.' + kind.split()[1]}"
    path.write_bytes(data)
    assert list_masks(str(tmp_path)) == ((path.name, len(data)),)
    expected = np.asarray(mask()) > 127
    found = {
        "service": decode_pair(saved(photograph(), ".png"), data, InpaintOptions(), LIMIT)[1],
        "batch": read_mask(mask_as_upload(data, LIMIT)),
        "inpaint": read_hole(str(path)),
        "training": read_mask_file(str(path), MaskRule()),
    }
    for name, hole in found.items():
        assert (hole == expected).all(), name


def test_files_of_other_formats_are_decoded_in_processes_that_can_be_killed() -> None:
    usual, other = saved(photograph(), ".jpg"), saved(photograph(), ".tif")
    assert _sizes(usual, None, LIMIT) == ((48, 64), LIMIT)
    assert _sizes(other, None, LIMIT)[1] > SMALL_PIXELS
    assert _sizes(usual, other, LIMIT)[1] > SMALL_PIXELS
