"""One command per checkpoint and photograph: every picture as a file, and a sheet of them."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.masks import MaskConfig
from infill.pipeline.visualize import VisualizeConfig, visualize

Checkpoint = Callable[[str], str]


@pytest.fixture
def checkpoint(untrained: Callable[..., str]) -> Checkpoint:
    return lambda name: untrained(name, image_size_px=64)


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    pixels = np.random.default_rng(2).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (9, 9), 3))
    return str(path)


def test_job_writes_every_picture_and_a_sheet(
    tmp_path: Path, photograph: str, checkpoint: Checkpoint, run_job
) -> None:
    mask = np.zeros((90, 131), np.uint8)
    mask[30:60, 40:80] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    words = ["--checkpoint", checkpoint("pennet"), "--image", photograph]
    words += ["--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out")]
    done = run_job("explain", *words)
    assert done.returncode == 0, done.stderr
    first, last, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"visualization of \S+ on \S+ \.\.\.", first)
    assert re.fullmatch(r"visualization of \S+ on \S+: done in \S+", last)
    places = dict(line.split(": ") for line in lines)
    assert list(places)[0] == "masked image"
    assert list(places)[-2:] == ["final", "sheet"]
    assert {f"attention, level {level}" for level in range(1, 6)} < set(places)
    for place in places.values():
        assert cv2.imread(place) is not None
    final = cv2.imread(places["final"])
    assert final.shape == (64, 93, 3)  # the short side as trained, cropped back from its padding
    assert cv2.imread(places["pyramid, 32 px"]).shape == (32, 47, 3)
    sheet = cv2.imread(places["sheet"])
    assert sheet.shape[1] > 4 * 256


def test_mask_generated_if_missing_is_the_recipe_s(
    tmp_path: Path, photograph: str, checkpoint: Checkpoint
) -> None:
    location = checkpoint("deepgin")
    places = visualize(
        VisualizeConfig(checkpoint=location, image=photograph, out=str(tmp_path / "out"))
    )
    masked = cv2.imread(places["masked image"])
    painted = (masked == (224, 160, 250)).all(axis=2)
    assert 0.2 < painted.mean() < 0.3
    assert painted[32, 46]


def test_configured_size_is_the_size_predicted(
    tmp_path: Path, photograph: str, checkpoint: Checkpoint
) -> None:
    config = VisualizeConfig(
        checkpoint=checkpoint("spn"),
        image=photograph,
        short_side_px=40,
        out=str(tmp_path / "out"),
    )
    assert cv2.imread(visualize(config)["final"]).shape[:2] == (40, 58)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoint": ""}, "--checkpoint is missing"),
        ({"image": ""}, "--image is missing"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here .*; give cpu, or cuda"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"image": "nothing.png"}, "no file nothing"),
        ({"mask": "nothing.png"}, "--mask: there is no file"),
        ({"checkpoint": "nothing"}, "not a checkpoint"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    changes: dict[str, str],
    sentence: str,
    tmp_path: Path,
    photograph: str,
    checkpoint: Checkpoint,
) -> None:
    settings = {"checkpoint": checkpoint("pennet"), "image": photograph, "out": str(tmp_path)}
    with pytest.raises(UserError, match=sentence):
        visualize(VisualizeConfig(**(settings | changes)))


def test_results_do_not_overwrite_the_photograph(
    tmp_path: Path, photograph: str, checkpoint: Checkpoint
) -> None:
    mine = tmp_path / "sheet.png"
    mine.write_bytes(Path(photograph).read_bytes())
    config = VisualizeConfig(checkpoint=checkpoint("pennet"), image=str(mine), out=str(tmp_path))
    with pytest.raises(UserError, match=r"would overwrite .*sheet\.png; give another --out"):
        visualize(config)
    assert mine.read_bytes() == Path(photograph).read_bytes()


def test_mask_of_another_size_and_files_that_are_no_pictures_are_refused(
    tmp_path: Path, photograph: str, checkpoint: Checkpoint
) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), 255 * np.eye(10, dtype=np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    settings = {"checkpoint": checkpoint("pennet"), "out": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"10 x 10 px.*131 x 90"):
        visualize(VisualizeConfig(image=photograph, mask=str(tmp_path / "small.png"), **settings))
    with pytest.raises(UserError, match=r"text\.png"):
        visualize(VisualizeConfig(image=str(tmp_path / "text.png"), **settings))


def test_mask_that_marks_nothing_is_refused_and_read_by_the_rule_that_is_given(
    tmp_path: Path, photograph: str, checkpoint: Checkpoint
) -> None:
    layer = np.zeros((90, 131, 4), np.uint8)
    layer[30:60, 40:80, 3] = 255
    cv2.imwrite(str(tmp_path / "layer.png"), layer)
    half = np.zeros_like(layer)
    half[:45, :, 3] = 255
    cv2.imwrite(str(tmp_path / "half.png"), half)
    cv2.imwrite(str(tmp_path / "empty.png"), np.zeros((90, 131), np.uint8))
    settings = {"checkpoint": checkpoint("pennet"), "image": photograph, "out": str(tmp_path)}
    for name, sentence in (
        ("empty", "nothing is marked"),
        ("half", "transparency.*channel=alpha"),
    ):
        with pytest.raises(UserError, match=rf"{name}\.png.*{sentence}"):
            visualize(VisualizeConfig(mask=str(tmp_path / f"{name}.png"), **settings))
    masks = MaskConfig(recipe="centre", channel="alpha")
    places = visualize(VisualizeConfig(mask=str(tmp_path / "layer.png"), masks=masks, **settings))
    painted = (cv2.imread(places["masked image"]) == (224, 160, 250)).all(axis=2)
    assert painted[32, 40]
    assert painted.mean() == pytest.approx(30 * 40 / (90 * 131), abs=0.01)
