import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.batch_inference.pairs import generate_mask_file, list_pairs
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import decode, read_mask, upright_size
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


def test_composites_never_overwrite_images_or_masks(tmp_path):
    folder = touch(tmp_path / "photos", "a.png", "photos/a.png")
    masks = touch(tmp_path / "masks", "a.png")
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, folder + "/", str(tmp_path / "link"), f"{folder}/../photos"):
        with pytest.raises(UserError, match="is the folder of the images.*another OUT"):
            list_pairs(folder, masks, ".png", out)
    with pytest.raises(UserError, match="is the folder of the masks"):
        list_pairs(folder, masks, ".png", masks)
    with pytest.raises(UserError, match=r"of photos/a\.png would overwrite .*/photos/a\.png"):
        list_pairs(folder, masks, ".png", str(tmp_path))


def test_masks_and_results_below_the_folder_are_no_pictures(tmp_path):
    folder = touch(tmp_path, "a.jpg", "masks/a.png", "out/a.png", "out/batch.json", "b/c.jpg")
    touch(tmp_path, "earlier/batch.json", "earlier/a.png", "@eaDir/a.jpg", ".trash/a.jpg")
    pairs = list_pairs(folder, f"{folder}/masks", ".png", f"{folder}/out")
    assert [(pair.name, pair.mask) for pair in pairs] == [
        ("a.jpg", f"{folder}/masks/a.png"),
        ("b/c.jpg", ""),
    ]
    one = list_pairs(folder, f"{folder}/masks/a.png", ".png", f"{folder}/out")
    assert [pair.name for pair in one] == ["a.jpg", "b/c.jpg"]


def test_results_of_a_run_can_be_filled_again(tmp_path):
    folder = touch(tmp_path, "batch.json", "a.png", "a_mask.png")
    assert [pair.name for pair in list_pairs(folder, "", ".png", f"{folder}/out")] == ["a.png"]


def test_folder_of_masks_that_is_the_folder_itself_holds_masks_beside(tmp_path):
    folder = touch(tmp_path, "a.jpg", "a_mask.png")
    (pair,) = list_pairs(folder, folder + "/", ".png", f"{folder}/out")
    assert (pair.name, pair.mask) == ("a.jpg", f"{folder}/a_mask.png")


def test_folder_that_is_linked_into_itself_is_listed_once(tmp_path):
    folder = touch(tmp_path / "photos", "a.jpg", "deep/b.jpg")
    (tmp_path / "photos" / "deep" / "loop").symlink_to(folder)
    assert [pair.name for pair in list_pairs(folder, "", ".png")] == ["a.jpg", "deep/b.jpg"]


@pytest.mark.parametrize("beside", [True, False])
def test_numbered_masks_are_read_as_lama_s_data_has_them(tmp_path, beside):
    folder = touch(tmp_path / "photos", "a.png", "deep/b.png")
    masks = folder if beside else str(tmp_path / "masks")
    touch(tmp_path / ("photos" if beside else "masks"), "a_mask001.png")
    touch(tmp_path / ("photos" if beside else "masks"), "deep/b_mask000.png", "deep/b_mask001.png")
    pairs = list_pairs(folder, "" if beside else masks, ".png")
    assert [(pair.name, pair.mask, pair.output) for pair in pairs] == [
        ("a.png", f"{masks}/a_mask001.png", "a.png"),
        ("deep/b.png", f"{masks}/deep/b_mask000.png", "deep/b_mask000.png"),
        ("deep/b.png", f"{masks}/deep/b_mask001.png", "deep/b_mask001.png"),
    ]


@pytest.mark.parametrize(
    "near", ["a-mask.png", "a.mask.png", "A_Mask.png", "mask_a.png", "a.jpg.png", "masks/a.png"]
)
def test_near_miss_of_a_mask_s_name_is_named(tmp_path, near):
    folder = touch(tmp_path, "a.jpg", near)
    pairs = {pair.name: pair for pair in list_pairs(folder, "", ".png")}
    assert pairs["a.jpg"].mask == ""
    assert pairs["a.jpg"].hint == f"there is {near}, which would be its mask as a_mask.png"


def test_near_miss_in_a_folder_of_masks_is_named(tmp_path):
    folder = touch(tmp_path / "photos", "a.jpg", "b.jpg", "deep/c.jpg", "d.jpg")
    masks = touch(tmp_path / "masks", "A.png", "b.jpg.png", "c.png", "e.png")
    hints = [pair.hint for pair in list_pairs(folder, masks, ".png")]
    assert hints == [
        "there is A.png, which would be its mask as a.png",
        "there is b.jpg.png, which would be its mask as b.png",
        "",
        "there is c.png, which would be its mask as deep/c.png",
    ]


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
    hole = read_mask(first, max_pixels=10_000)
    assert hole.shape == (70, 90)
    assert 0.1 < hole.mean() <= 0.5
    assert set(np.unique(np.asarray(Image.open(io.BytesIO(first))))) == {0, 255}
