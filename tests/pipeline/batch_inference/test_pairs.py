import errno
import io
import os

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infill.pipeline import storage
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.pairs import (
    Pair,
    generate_mask_file,
    list_images,
    list_pairs,
)
from infill.pipeline.batch_inference.ray_data import columns_of, finish, split_rows
from infill.pipeline.batch_inference.runner import begin_folder
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import decode, encode_png, read_mask, upright_size
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.masks import MaskConfig, check_mask_files
from infill.pipeline.masks.mask_files import list_images as list_masks
from infill.pipeline.sources import open_source


def touch(folder, *names: str) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(folder)


def test_masks_and_results_that_a_link_leads_to_are_no_pictures(tmp_path):
    folder = touch(tmp_path / "pics", "a.jpg")
    touch(tmp_path, "masks/a.png", "out/a.png", "more/b.jpg")
    (tmp_path / "pics" / "loop").symlink_to("..")
    pairs = list_pairs(folder, f"{tmp_path}/masks", ".png", f"{tmp_path}/out")
    assert [pair.name for pair in pairs] == ["a.jpg", "loop/more/b.jpg"]


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


def put(folder, *names: bytes) -> str:
    for name in names:
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    return str(folder)


ODD = (b"caf\xe9/b.jpg", b"new\nline.jpg", b"\x1b[31mred.jpg", b"_DSC1.JPG")
NOT_LISTED = (b"._a.png", b".DS_Store", b"@eaDir/a.png", b"__MACOSX/a.png", b"_tmp-1-a.png")


def test_every_job_lists_the_same_files(tmp_path):
    folder = put(tmp_path, *ODD, *NOT_LISTED, b"notes.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    pairs = list_pairs(folder, "", ".png", str(tmp_path.parent / "out"))
    originals = [*open_source("folder", folder).originals()]
    assert {os.fsencode(pair.image) for pair in pairs} == {
        os.path.join(os.fsencode(folder), name) for name in ODD
    }
    assert {original.file for original in originals} == set(ODD)
    assert {os.fsencode(name) for name, _ in list_masks(folder)} == {
        name for name in ODD if b"/" not in name
    }
    assert list_images(folder) == sorted(os.fsdecode(name) for name in ODD)


def test_names_without_a_file_are_never_silent_and_fail_alone(tmp_path, make):
    """A link that leads nowhere or in a circle, a pipe, which nobody writes to, and no permission.

    They are images and masks by their names; a link without a suffix may have been a folder.
    """
    folder = touch(tmp_path / "photos", "d.png", "e.png", "d_mask.png", "f.png", "f_mask.png")
    for name in ("d.png", "e.png", "f.png", "f_mask.png"):
        (tmp_path / "photos" / name).write_bytes(make.file(make.photograph(64, 64)))
    (tmp_path / "photos" / "a.png").symlink_to("/not/mounted/a.png")
    (tmp_path / "photos" / "b.png").symlink_to("b.png")
    os.mkfifo(tmp_path / "photos" / "c.png")
    os.remove(tmp_path / "photos" / "d_mask.png")
    os.mkfifo(tmp_path / "photos" / "d_mask.png")
    (tmp_path / "photos" / "album").symlink_to("/not/mounted")
    (tmp_path / "photos" / "circle").symlink_to(folder)
    for name in "abc":
        (tmp_path / "photos" / f"{name}_mask.png").symlink_to("f_mask.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "f.png").symlink_to("/not/mounted/f.png")
    config = BatchInferenceConfig(
        folder=folder, out=str(out), tiling=TilingConfig(sides_px=(64,), least_crop_px=64)
    )
    lines: list[str] = []
    work = begin_folder(config, "a model", lines.append)
    assert lines == [
        "passed over: 1 link that leads nowhere: album",
        "passed over: 1 link to a folder that holds it, whose files are taken once: circle",
    ]
    assert work.missing == work.pairs
    rows = split_rows(columns_of([pair.columns() for pair in work.missing]), config)
    assert not any(rows["refusal"])
    failed = dict(zip(rows["name"], rows["failure"], strict=True))
    assert f"{folder}/a.png cannot be read: a link that leads nowhere" in failed["a.png"]
    assert f"{folder}/b.png cannot be read: a link that leads in a circle" in failed["b.png"]
    assert f"{folder}/c.png cannot be read: not a file but a pipe" in failed["c.png"]
    assert f"{folder}/d_mask.png cannot be read: not a file but a pipe" in failed["d.png"]
    assert "it has no mask" in failed["e.png"]
    (out / "f.png").unlink()
    refused = PermissionError(errno.EACCES, "Permission denied", f"{folder}/f.png")
    assert storage.why_unreadable(refused) == "permission denied"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_mask_without_a_file_is_refused_by_name_before_a_job_starts(tmp_path, kind):
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(tmp_path / "good.png")
    if kind == "link":
        (tmp_path / "m.png").symlink_to("/not/mounted/m.png")
    else:
        os.mkfifo(tmp_path / "m.png")
    why = {"link": "a link that leads nowhere", "pipe": "not a file but a pipe"}[kind]
    with pytest.raises(UserError, match=f"masks: {tmp_path}/m.png cannot be read: {why}"):
        check_mask_files(MaskConfig(recipe="files", folder=str(tmp_path)))


def test_odd_names_are_printed_escaped_and_cross_tables_whole(tmp_path):
    folder = put(tmp_path, *ODD)
    pairs = list_pairs(folder, "", ".png", str(tmp_path.parent / "out"))
    assert {pair.name for pair in pairs} == {
        "caf\\xe9/b.jpg",
        "new\\nline.jpg",
        "\\x1b[31mred.jpg",
        "_DSC1.JPG",
    }
    table = pa.Table.from_pylist([pair.columns() for pair in pairs])
    assert [Pair.of_columns(row) for row in table.to_pylist()] == pairs
    put(tmp_path, b"caf\xe9/b.png")
    with pytest.raises(
        UserError, match=r"^caf\\xe9/b.jpg and caf\\xe9/b.png would both become caf"
    ):
        list_pairs(folder, "", ".png")


def test_image_and_mask_with_names_that_are_not_utf8_are_laid_out(tmp_path, make):
    put(tmp_path, b"caf\xe9.jpg", b"caf\xe9_mask.png")
    (pair,) = list_pairs(str(tmp_path), "", ".png")
    hole = np.zeros((64, 64), np.uint8)
    hole[:20] = 255
    for location, data in (
        (pair.image, make.file(make.photograph(64, 64), "jpeg")),
        (pair.mask, encode_png(hole)),
    ):
        with open(location, "wb") as file:
            file.write(data)
    config = BatchInferenceConfig(
        folder=str(tmp_path),
        out=str(tmp_path / "out"),
        tiling=TilingConfig(sides_px=(64,), least_crop_px=64),
    )
    rows = split_rows(columns_of([pair.columns()]), config)
    assert (rows["failure"][0], rows["refusal"][0], rows["name"][0]) == ("", "", "caf\\xe9.jpg")
    finish(rows, config)
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9.png"]


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
