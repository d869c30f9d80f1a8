import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infill.jobs import inspect_shards as job
from infill.jobs import train_spn
from infill.models.architecture import load
from infill.pipeline import checkpoints, inspection
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.image_grid import HOLE_COLOUR
from infill.pipeline.images.tensors import to_pixels
from infill.pipeline.inspection import contact_sheet
from infill.pipeline.loading import BatchConfig, BatchStream
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig
from infill.pipeline.sharding import ShardConfig, make_shards


@pytest.fixture(scope="module")
def shards(photographs: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("shards")
    (out / "originals").mkdir()
    for path in Path(photographs).iterdir():
        (out / "originals" / path.name).write_bytes(path.read_bytes())
    (out / "originals" / "torn.jpg").write_bytes(b"not a picture")
    config = ShardConfig(
        source=str(out / "originals"),
        out=str(out),
        photographs_per_shard=3,
        val_share=0,
        test_share=0,
        max_quarantined_share=0.5,
    )
    make_shards(config, report=lambda line: None)
    return str(out / "train")


@pytest.fixture(scope="module")
def trained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, BatchConfig]:
    """A checkpoint and the data settings it carries."""
    data = BatchConfig(
        shards="moved since",
        image_size_px=32,
        batch_size=6,
        seed=5,
        shuffle_window_shards=2,
        masks=MaskConfig(
            recipe="box", max_hole_ratio=0.5, curriculum_steps=9, curriculum_start_ratio=0.1
        ),
    )
    torch.manual_seed(0)
    architecture = load("spn")
    model = architecture.config.tiny()
    location = str(tmp_path_factory.mktemp("run") / "step-000000009")
    config = {"model": to_dict(model), "data": json.loads(json.dumps(to_dict(data)))}
    networks = {"generator": architecture.generator(model).state_dict()}
    checkpoints.export(location, networks, config, {"step": 9})
    return location, data


def inspect(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    job.main(words)
    return capsys.readouterr().out


def test_statistics_describe_the_set(shards, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    said = inspect(capsys, "--shards", shards, "--out", str(out))
    facts = {line[:14].strip(): line[15:] for line in said.splitlines()}
    assert facts["set"] == shards
    assert facts["samples"] == "8 of 8 originals, 8 jpg"
    assert facts["shards"].startswith("3, ")
    assert facts["height"] == "96 to 96 (median 96) px"
    assert facts["width"] == "128 to 128 (median 128) px"
    assert facts["quarantined"] == "1"
    assert "1 x not an image of a known format" in said
    shares = [float(share) for share in re.findall(r"([0-9.]+) %", said)]
    assert len(shares) == 7
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert facts["sheet"] == str(out)


def test_sheet_shows_every_sample_beside_its_masked_self(shards, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    words = ["--shards", shards, "--num-samples", "6", "--out", str(out)]
    inspect(capsys, *words, "--data.masks.recipe", "centre")
    sheet = cv2.imread(str(out))[..., ::-1]
    painted = (sheet == HOLE_COLOUR).all(axis=-1)
    assert painted.sum() == 6 * 64 * 64
    columns = np.flatnonzero(painted.any(axis=0))
    assert len(columns) == 4 * 64


def test_sample_is_shown_exactly_as_training_saw_it(shards, trained, tmp_path, monkeypatch, capsys):
    location, data = trained
    manifest = read_manifest(shards)
    shown = {}
    sheet = inspection.sheet
    monkeypatch.setattr(
        inspection, "sheet", lambda samples: shown.update(s=samples[0]) or sheet(samples)
    )
    place = {"shards": shards, **{k: v for k, v in vars(data).items() if k != "shards"}}
    with BatchStream(BatchConfig(**place)) as stream:
        batches = [next(stream) for _ in range(3)]  # 18 samples: epochs 0, 1 and some of 2
    key = batches[2].keys[0]
    said = inspect(
        capsys,
        "--shards", shards, "--run", location, "--sample", key, "--epoch", "1",
        "--out", str(tmp_path / "one.png"),
    )  # fmt: skip
    facts = {line[:14].strip(): line[15:] for line in said.splitlines()}
    assert facts["seen"] == "epoch 1, step 2, index 0 in the global batch"
    assert facts["mask"] == batches[2].mask_ids[0]
    assert facts["sample"].startswith(key)
    assert facts["SHA-256"] == manifest.row(contact_sheet.row_of(manifest, key))["sha256"]
    np.testing.assert_array_equal(shown["s"].pixels, to_pixels(batches[2].image)[0])
    np.testing.assert_array_equal(shown["s"].hole, batches[2].mask[0, 0].numpy())


def test_a_presets_sheet_shows_what_its_training_loads(shards, tmp_path, monkeypatch, capsys):
    preset = train_spn.PRESETS["smoke"].data
    shown = []
    sheet = inspection.sheet
    monkeypatch.setattr(
        inspection, "sheet", lambda samples: shown.extend(samples) or sheet(samples)
    )
    with BatchStream(replace(preset, shards=shards, source="")) as stream:
        batches = [next(stream) for _ in range(2)]  # All 8 samples of the first epoch.
    out = ["--out", str(tmp_path / "sheet.png")]
    inspect(capsys, "--shards", shards, "--preset", "spn-smoke", *out)
    assert [one.key for one in shown] == [key for batch in batches for key in batch.keys]
    pixels = np.concatenate([to_pixels(batch.image) for batch in batches])
    holes = np.concatenate([batch.mask[:, 0].numpy() for batch in batches])
    for one, image, hole in zip(shown, pixels, holes, strict=True):
        np.testing.assert_array_equal(one.pixels, image)
        np.testing.assert_array_equal(one.hole, hole)
    shown.clear()
    inspect(capsys, "--shards", shards, "--preset=spn-smoke", "--data.image-size-px", "48", *out)
    assert {one.hole.shape for one in shown} == {(48, 48)}


def test_what_cannot_be_shown_is_refused(shards, trained, tmp_path, capsys):
    out = ["--out", str(tmp_path / "sheet.png")]
    with pytest.raises(UserError, match="holds no sample with key 'nobody'; its keys look like"):
        inspect(capsys, "--shards", shards, "--sample", "nobody", *out)
    with pytest.raises(UserError, match="not a finished shard set"):
        inspect(capsys, "--shards", str(tmp_path), *out)
    words = ["--data.crop", "centre", "--data.image-size-px", "100"]
    with pytest.raises(UserError, match="smaller than the crop of 100 px"):
        inspect(capsys, "--shards", shards, *words, *out)
    with pytest.raises(UserError, match="num_samples must be at least 1"):
        inspection.InspectConfig(shards=shards, num_samples=0)
    with pytest.raises(SystemExit):
        inspect(capsys, "--shards", shards, "--run", trained[0], "--preset", "spn-cpu", *out)
    assert "a run decides its data settings itself" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        inspect(capsys, "--shards", shards, "--preset", "spn-cpo", *out)
    assert "unknown training preset 'spn-cpo'; did you mean 'spn-cpu'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
