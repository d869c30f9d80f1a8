import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.batch_inference.pairs import generate_mask_file, list_pairs
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import MaskRule, decode, read_mask, upright_size
from infill.pipeline.masks import MaskConfig


def touch(folder, *names: str) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(folder)


def test_masks_beside_the_pictures_are_found_and_are_no_pictures(tmp_path):
    folder = touch(tmp_path, "a.jpg", "a_mask.png", "deep/b.png", "lone_mask.png", "notes.txt")
    pairs = {pair.name: pair for pair in list_pairs(folder, "", ".png")}
    assert set(pairs) == {"a.jpg", "deep/b.png", "lone_mask.png"}
    assert pairs["a.jpg"].mask == f"{folder}/a_mask.png"
    assert pairs["a.jpg"].output == "a.png"
    assert pairs["deep/b.png"].mask == ""


def test_masks_in_a_folder_of_their_own_go_by_path_and_stem(tmp_path):
    folder = touch(tmp_path / "photos", "a.jpg", "deep/b.png", "c.png")
    masks = touch(tmp_path / "masks", "a.png", "deep/b_mask.webp", "deep/c.png")
    pairs = {pair.name: pair.mask for pair in list_pairs(folder, masks, "")}
    assert pairs == {
        "a.jpg": f"{masks}/a.png",
        "deep/b.png": f"{masks}/deep/b_mask.webp",
        "c.png": "",
    }


def test_one_mask_file_serves_every_picture(tmp_path):
    folder = touch(tmp_path / "photos", "a.jpg", "deep/b.png")
    mask = touch(tmp_path, "hole.png") + "/hole.png"
    assert {pair.mask for pair in list_pairs(folder, mask, ".png")} == {mask}


def test_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no images"):
        list_pairs(touch(tmp_path, "notes.txt"), "", ".png")


def test_half_written_files_are_not_listed(tmp_path):
    folder = touch(tmp_path, "a.jpg", "_tmp-123-b.png", ".hidden.png")
    assert [pair.name for pair in list_pairs(folder, "", ".png")] == ["a.jpg"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_size_from_the_header_is_the_size_of_the_decoded_picture(make, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = make.file(make.photograph(20, 30), form, exif=exif)
    assert upright_size(file, 600) == decode(file, 600).pixels.shape[:2]
    with pytest.raises(ImageError, match="at most 599"):
        upright_size(file, 599)


def test_generated_mask_fits_its_image_and_is_reproducible(make):
    file = make.file(make.photograph(70, 90), "jpeg")
    recipe = MaskConfig(recipe="box", min_hole_ratio=0.1, max_hole_ratio=0.5)
    first = generate_mask_file(file, "a.jpg", recipe, 1, 10_000)
    assert first == generate_mask_file(file, "a.jpg", recipe, 1, 10_000)
    assert first != generate_mask_file(file, "b.jpg", recipe, 1, 10_000)
    assert first != generate_mask_file(file, "a.jpg", recipe, 2, 10_000)
    hole = read_mask(first, MaskRule(max_pixels=10_000))
    assert hole.shape == (70, 90)
    assert 0.1 < hole.mean() <= 0.5
    assert set(np.unique(np.asarray(Image.open(io.BytesIO(first))))) == {0, 255}
