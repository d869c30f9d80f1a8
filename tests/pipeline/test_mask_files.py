"""Published mask files are used as they are, and a training may mirror or change them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.masks import MaskConfig, check_mask_files, generate_mask, mask_files
from infill.pipeline.masks.config import HOLE_RATIO_BUCKETS, PUBLISHED_SETS
from infill.pipeline.masks.exact import resize_mask, sample

SIDE = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve masks of 20 px, two in each published range: k x 5 % of the rows are hole."""
    folder = tmp_path_factory.mktemp("liu")
    for number in range(12):
        picture = np.zeros((SIDE, SIDE), np.uint8)
        picture[: number + 1, :] = 255
        picture[0, 0] = 140  # neither black nor white: binarised
        cv2.imwrite(str(folder / f"{number:05d}.png"), picture)
    return str(folder)


def holes(config: MaskConfig, count: int = 40) -> list[np.ndarray]:
    return [generate_mask(config, f"k{n}", 0, 0, SIDE, SIDE).hole for n in range(count)]


def test_files_as_they_are_keep_every_pixel(folder: str) -> None:
    config = MaskConfig(recipe="files", folder=folder, augmentation="none")
    found = holes(config)
    published = {
        mask_files.read_mask_file(f"{folder}/{number:05d}.png", config.rule).tobytes()
        for number in range(12)
    }
    assert {hole.tobytes() for hole in found} == published


def test_flipped_files_are_mirrored_and_nothing_else(tmp_path) -> None:
    picture = np.zeros((SIDE, SIDE), np.uint8)
    picture[3:9, 1:5] = 255
    cv2.imwrite(str(tmp_path / "one.png"), picture)
    found = holes(MaskConfig(recipe="files", folder=str(tmp_path), augmentation="flip"))
    as_it_is, mirrored = (picture > 0).tobytes(), (picture[:, ::-1] > 0).tobytes()
    assert {hole.tobytes() for hole in found} == {as_it_is, mirrored}


def test_files_are_chosen_within_a_range_and_never_grown_into_it(folder: str) -> None:
    config = MaskConfig(recipe="files", folder=folder, augmentation="none")
    for low, high in HOLE_RATIO_BUCKETS:
        found = holes(replace(config, min_hole_ratio=low, max_hole_ratio=high), 8)
        rows = {hole.sum() / SIDE for hole in found}
        assert rows <= {round(low * SIDE) + 1, round(high * SIDE)} | {1, 2}
        assert all(low * SIDE < row <= high * SIDE for row in rows)
    with pytest.raises(UserError, match=r"no mask file.*more than 0\.8 and at most 1.*widen"):
        generate_mask(replace(config, min_hole_ratio=0.8), "k", 0, 0, SIDE, SIDE)


def test_a_file_of_a_few_pixels_is_used_by_trainings_at_a_smaller_size(tmp_path) -> None:
    picture = np.zeros((1024, 1024), np.uint8)
    picture[400:402, 640] = 255
    cv2.imwrite(str(tmp_path / "speck.png"), picture)
    for augmentation, column in (("none", {160}), ("flip", {160, 255 - 160})):
        config = MaskConfig(recipe="files", folder=str(tmp_path), augmentation=augmentation)
        found = [generate_mask(config, f"k{n}", 0, 0, 256, 256).hole for n in range(20)]
        assert {tuple(np.argwhere(hole)[0]) for hole in found} == {(100, at) for at in column}
        assert all(hole.sum() == 1 for hole in found)


def test_a_narrow_file_keeps_its_pixels_where_only_one_side_shrinks() -> None:
    hole = np.zeros((1024, 64), np.uint8)
    hole[400, 32] = 1
    resized = resize_mask(hole, 256, 256)
    assert np.array_equal(np.argwhere(resized), [(100, 128 + column) for column in range(4)])


def test_augmentation_is_no_setting_of_other_masks() -> None:
    irregular = MaskConfig(recipe="irregular")
    assert replace(irregular, augmentation="flip").changes() == irregular.changes()
    files = MaskConfig(recipe="files", folder="masks")
    assert replace(files, augmentation="flip").changes() != files.changes()


def test_a_published_set_is_complete_or_refused(folder: str, monkeypatch) -> None:
    assert PUBLISHED_SETS == {"liu-test": 12_000, "liu-train": 55_116}
    config = MaskConfig(recipe="files", folder=folder, published_set="liu-test")
    with pytest.raises(UserError, match=r"holds 12 masks, the published set 'liu-test' 12,000"):
        check_mask_files(config)
    monkeypatch.setitem(PUBLISHED_SETS, "liu-test", 12)
    check_mask_files(config)
    with pytest.raises(UserError, match="set `folder`"):
        MaskConfig(recipe="files", published_set="liu-test")


def test_the_whole_range_of_a_file_is_open_below_and_closed_above(tmp_path) -> None:
    picture = np.zeros((8, 16), np.uint8)
    picture[:2] = 255  # 32 of 128 pixels
    cv2.imwrite(str(tmp_path / "one.png"), picture)
    config = MaskConfig(recipe="files", folder=str(tmp_path), augmentation="none")
    for low, high, fits in ((31, 32, True), (32, 64, False), (1, 31, False), (31, 128, True)):
        bounds = {"min_hole_ratio": low / 128, "max_hole_ratio": high / 128}
        # Among few numbers of pixels the file is often outside the first range.
        for key in range(8):
            asked = replace(config, hole_ratios="uniform", **bounds)
            if fits:
                hole = generate_mask(asked, f"k{key}", 0, 0, 8, 16).hole
                assert (hole.dtype, hole.sum()) == (np.uint8, 32)
            else:
                with pytest.raises(UserError, match="no mask file"):
                    generate_mask(asked, f"k{key}", 0, 0, 8, 16)


def test_a_file_of_few_marks_hides_what_they_touch_and_a_full_one_what_it_covers() -> None:
    marks = np.zeros((100, 100), np.uint8)
    marks[[0, 99, 99], [0, 60, 61]] = 1
    touched = shrunk(marks)
    assert touched.dtype == np.uint8
    assert np.argwhere(touched).tolist() == [[0, 0], [3, 2]]
    marks[:] = 1
    marks[30, 30] = 0
    covered = shrunk(marks)
    assert covered.dtype == np.uint8
    assert np.argwhere(covered == 0).tolist() == [[1, 1]]


def shrunk(mask: np.ndarray) -> np.ndarray:
    """Return what a file hides as a whole in a frame of 4 x 4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_files, "_choose", lambda *_: mask)
        return mask_files.generate_whole_file(MaskConfig(), np.random.default_rng(0), 4, 4)


def test_a_folder_that_no_recipe_reads_is_not_checked(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png"):
        check_mask_files(MaskConfig(recipe="files", folder=str(tmp_path)))
    check_mask_files(MaskConfig(recipe="strokes"))


def test_a_sampled_picture_continues_beyond_its_border() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for down, right in ((0, 0), (-2, 1), (1, -3), (2, 2), (-1, -1)):
        matrix = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
        found = sample(picture, matrix, 5, 6)
        rows, columns = np.arange(5) + down, np.arange(6) + right
        expected = picture[np.ix_(rows.clip(0, 2), columns.clip(0, 3))]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [0, 1])
def test_resizing_keeps_a_mark_that_the_nearest_pixels_miss(kind) -> None:
    mask = np.full((9, 9), 1 - kind, np.uint8)
    mask[0, 8] = kind  # The nearest pixels of a third are 1, 4 and 7.
    small = resize_mask(mask, 3, 3)
    assert small.dtype == np.uint8
    assert np.argwhere(small == kind).tolist() == [[0, 2]]
    mask[4, 4] = kind
    assert np.argwhere(resize_mask(mask, 3, 3) == kind).tolist() == [[1, 1]]
