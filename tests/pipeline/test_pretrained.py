"""The network that comes with the package: its files, its names, and that it fills holes well."""

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from infill.jobs.train_unet import PRESETS
from infill.models.config import ModelConfig
from infill.pipeline import checkpoints, storage
from infill.pipeline.baselines import BASELINES
from infill.pipeline.config import from_dict
from infill.pipeline.errors import UserError
from infill.pipeline.images import MaskRule
from infill.pipeline.inference import load
from infill.pipeline.inference.image_file import InpaintConfig, inpaint_file
from infill.pipeline.masks import MaskConfig, generate_mask
from infill.pipeline.pretrained import DEFAULT, PRETRAINED, find_pretrained, shown_name
from infill.pipeline.registry import Lineage, RegistryConfig, readable, register, resolve
from infill.pipeline.sources import open_source

MOST_BYTES = 8_000_000
FOLDER = Path(PRETRAINED[DEFAULT].location)
HOLES = {
    "strokes": MaskConfig(recipe="strokes", min_hole_ratio=0.1, max_hole_ratio=0.3),
    "box": MaskConfig(recipe="box", min_hole_ratio=0.1, max_hole_ratio=0.3),
}


def test_checkpoint_is_whole_small_and_in_half_precision():
    assert checkpoints.verify(str(FOLDER)) == checkpoints.digest(str(FOLDER))
    weights = FOLDER / "generator.safetensors"
    assert weights.stat().st_size <= MOST_BYTES
    kernels = [value for value in load_file(weights).values() if value.ndim >= 2]
    assert kernels
    assert {value.dtype for value in kernels} == {np.dtype(np.float16)}


def test_preset_trains_the_same_network():
    """The sittings may have had learning rates of their own."""
    stored = from_dict(ModelConfig, checkpoints.read_config(str(FOLDER))["model"], "model")
    preset = PRESETS["base"].model
    changes = ("schedule", "learning_rate")
    assert replace(stored, **{name: getattr(preset, name) for name in changes}) == preset


def test_every_photograph_it_was_trained_on_has_an_author_and_a_licence():
    with open(FOLDER / "photographs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 100
    assert all(row["author"] and row["licence"] and row["package"] for row in rows)
    assert not any("NC" in row["licence"] or "GFDL" in row["licence"] for row in rows)


def test_photographs_of_the_tests_were_not_trained_on():
    with open(FOLDER / "photographs.csv", newline="") as stream:
        trained = {row["sha256"] for row in csv.DictReader(stream)}
    for original in open_source("bundled", "").originals():
        if original.split != "train":
            assert storage.sha256(open_source("bundled", "").read(original)) not in trained


def hole_psnr(filled: np.ndarray, image: np.ndarray, hole: np.ndarray) -> float:
    error = ((filled[hole].astype(float) - image[hole]) ** 2).mean()
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("holes", HOLES)
def test_fills_unseen_photographs_better_than_the_classical_methods(holes):
    """Mean hole PSNR over the test photographs, five masks each, at 256 px."""
    inpaint = load()
    scores: dict[str, list[float]] = {"ours": [], "telea": [], "navier-stokes": []}
    source = open_source("bundled", "")
    for original in source.originals():
        if original.split != "test":
            continue
        with Image.open(io.BytesIO(source.read(original))) as opened:
            image = np.asarray(opened.convert("RGB").resize((256, 256)))
        for number in range(5):
            hole = generate_mask(HOLES[holes], original.path, number, 0, 256, 256).hole
            filled = {"ours": inpaint(image, hole > 0)}
            for name in ("telea", "navier-stokes"):
                filled[name] = BASELINES[name](image, hole)
            for name, result in filled.items():
                scores[name].append(hole_psnr(result, image, hole > 0))
    means = {name: np.mean(values) for name, values in scores.items()}
    assert means["ours"] > max(means["telea"], means["navier-stokes"]), means


@pytest.fixture
def registry(tmp_path) -> RegistryConfig:
    return RegistryConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts")
    )


def test_name_needs_no_registry_and_means_the_same_on_every_node(registry):
    for reference in (DEFAULT, f"{DEFAULT}@{PRETRAINED[DEFAULT].version}"):
        found = resolve(registry, reference)
        assert found.name == DEFAULT
        assert found.location == readable(found.address, found.digest) == str(FOLDER)
        assert "/" not in found.address  # A path would be this machine's.
    assert load().name == load(DEFAULT).name == f"{DEFAULT}@{PRETRAINED[DEFAULT].version}"


def test_messages_show_its_name_and_other_checkpoints_where_they_are(tmp_path):
    assert shown_name(checkpoints.find("infill-base")) == "infill-base"
    assert shown_name("infill-base") == "infill-base"
    for other in (str(tmp_path / "infill-base"), "runs/spn", "s3://bucket/spn", ""):
        assert shown_name(other) == other


def test_another_version_or_a_model_of_that_name_is_refused(registry):
    with pytest.raises(
        UserError, match=f"{DEFAULT}@{PRETRAINED[DEFAULT].version} alone, not {DEFAULT}@99"
    ):
        find_pretrained(f"{DEFAULT}@99")
    with pytest.raises(UserError, match=f"{DEFAULT} is a model of the package"):
        register(registry, DEFAULT, DEFAULT, Lineage(configuration={}))


def test_folder_of_that_name_is_reached_by_its_path(spn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(DEFAULT).symlink_to(spn.location)
    assert resolve(RegistryConfig(), f"./{DEFAULT}").name == "spn"
    assert resolve(RegistryConfig(), DEFAULT).name == DEFAULT


def test_a_mask_that_marks_nearly_everything_is_said_to_be_perhaps_inverted(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save("photo.png")
    hole = np.zeros((60, 80), bool)
    hole[20:40, 30:60] = True
    sentence = "if that is the part to keep, give --masks.polarity black"
    for name, mask, expected in (("usual", hole, False), ("inverted", ~hole, True)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(f"{name}.png")
        inpaint_file(InpaintConfig(image="photo.png", mask=f"{name}.png"))
        assert (sentence in capsys.readouterr().out) is expected
    inpaint_file(
        InpaintConfig(image="photo.png", mask=f"{name}.png", masks=MaskRule(polarity="black"))
    )
    assert "polarity" not in capsys.readouterr().out


def test_module_fills_a_photograph_without_naming_a_model(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    hole = np.zeros((60, 80), np.uint8)
    hole[20:40, 30:60] = 255
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    words = ["-m", "infill.pipeline.inference", "photo.png", "mask.png"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"filled by {DEFAULT}@" in done.stdout
    filled = np.asarray(Image.open(tmp_path / "photo-filled.png"))
    assert np.array_equal(filled[hole == 0], image[hole == 0])
    assert (filled[hole > 0] != image[hole > 0]).any()
