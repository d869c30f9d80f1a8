"""What an earlier release wrote is read, and goes on as it was.

``tests/data/releases`` has a folder of the release of 2026-11-28, in a zip: four pictures of 64 px
in shards, an SPN trained for two steps on them, the records of a search of two trials, and the tags
of a registered version. The weights are all 0.01, to be small; ``@FOLDER@`` stands for the folder.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from infill.pipeline import checkpoints, registry, storage
from infill.pipeline.config import from_json, override
from infill.pipeline.errors import UserError
from infill.pipeline.manifest import parse, read_manifest, serialize
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.registry.store import keep, open_registry
from infill.pipeline.sharding import ShardConfig
from infill.pipeline.sharding.config import as_saved_now, content_settings
from infill.pipeline.training import TrainConfig, train
from infill.pipeline.tuning import TuneConfig, tune, written_down

ZIP = Path(__file__).parents[1] / "data" / "releases" / "2026-11-28.zip"
CHECKPOINT = "run/checkpoints/step-000000002"
NEWER = {"data.random_resize": 2.0, "data.masks.threshold": 0}
"""Fields that came after that release, with values that a preset of today has."""


@pytest.fixture
def older(tmp_path):
    """Unpack the release's folder; the checkpoint's checksums follow the new location."""
    with zipfile.ZipFile(ZIP) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith((".json", ".jsonl")):
                data = data.replace(b"@FOLDER@", str(tmp_path).encode())
            storage.write(str(tmp_path / name), data)
    sums = tmp_path / CHECKPOINT / "checksums.json"
    names = json.loads(sums.read_text())
    digests = {name: storage.digest_of(str(sums.parent / name)) for name in names}
    sums.write_text(json.dumps(digests))
    return tmp_path


@pytest.fixture
def config(older):
    """Return its training as a preset of today has it, for one step more."""
    before = from_json(TrainConfig, (older / "run" / "config.json").read_text())
    return override(before, {**NEWER, "steps": 3, "storage": str(older / "run")})


def test_a_run_goes_on_with_the_values_that_leave_it_as_it_was(config):
    lines = []
    train(config, lines.append)
    for name, value in (("data.random_resize", "0.0"), ("data.masks.threshold", "127")):
        [line] = [line for line in lines if line.startswith(f"{name} is newer than this run")]
        assert f"goes on with {value} in place of" in line
    assert any("resuming at step 2" in line for line in lines)
    data = checkpoints.read_config(checkpoints.step_location(config.storage, 3))["data"]
    assert (data["random_resize"], data["masks"]["threshold"]) == (0.0, 127)


def test_a_run_that_went_on_goes_on_again_and_its_own_fields_stay_fixed(config, quietly):
    train(config, quietly)
    train(override(config, {"steps": 4}), quietly)
    assert checkpoints.steps(config.storage)[-1] == 4
    with pytest.raises(UserError, match=r"another data\.colour_jitter"):
        train(override(config, {"steps": 5, "data.colour_jitter": 0.1}), quietly)


def test_its_checkpoint_is_loaded(older):
    found = checkpoints.load_generator(str(older / "run"))
    assert (found.step, found.image_size_px) == (2, 32)
    tensors = [tensor for tensor in found.generator.parameters() if tensor.numel() > 1]
    assert tensors
    assert all((tensor == 0.01).all() for tensor in tensors)


def test_its_shards_are_the_ones_that_today_s_settings_make(older):
    settings = read_manifest(str(older / "shards" / "train")).settings
    asked = ShardConfig(
        source=settings["source"],
        photographs_per_shard=4,
        format="png",
        val_share=0.3,
        test_share=0,
    )
    assert as_saved_now(settings) == content_settings(asked)
    lacking = {name: value for name, value in settings.items() if name != "frame"}
    assert as_saved_now(lacking) == content_settings(asked)
    other = content_settings(replace(asked, frame="squash", resize_short_side_px=64))
    assert as_saved_now(lacking) != other


def test_its_search_is_over(older, config, ray_local):
    before = override(config, {"steps": 2, "data.random_resize": 0.0, "data.masks.threshold": 127})
    search = TuneConfig(train=before, storage=str(older / "search"))
    lines = []
    result = tune(search, {"model.image_weight": [1.0, 10.0]}, lines.append)
    assert "2 of them were finished before" in lines
    assert result.best.changes == {"model.image_weight": 1.0}


def test_its_registered_version_is_the_champion(older):
    settings = RegistryConfig(
        tracking_uri=f"sqlite:///{older}/registry.db", artifacts=str(older / "artifacts")
    )
    tags = json.loads((older / "registry.json").read_text())
    location = str(older / CHECKPOINT)
    tags["infill.checkpoint_digest"] = checkpoints.digest(location)
    with open_registry(settings) as client:
        client.create_registered_model("spn")
        run, copy = keep(client, settings, location, "spn", tags["infill.checkpoint_digest"], {})
        client.create_model_version("spn", copy, run_id=run, tags=tags)
    found = registry.resolve(settings, "spn@champion")
    assert (found.version, found.digest) == ("1", tags["infill.checkpoint_digest"])
    lineage = registry.champion(settings, "spn").lineage
    assert lineage.scores == {"scores": {"all": {"hole_psnr": 12.0}}}


def test_files_of_a_later_release_are_refused_in_a_sentence(older):
    location = str(older / CHECKPOINT)
    state = json.loads((older / CHECKPOINT / "state.json").read_text())
    checkpoints.export(location, {"generator": {}}, {}, {**state, "format": 9})
    with pytest.raises(UserError, match=r"has format 9, .* up to 1: update Infill to read it"):
        checkpoints.read_state(location)
    book = older / "search" / "trials" / "image_weight=1.0-adedd0" / "trial.json"
    book.write_text(json.dumps({**json.loads(book.read_text()), "format": 2}))
    with pytest.raises(UserError, match="has format 2"):
        written_down(str(older / "search"))
    manifest = read_manifest(str(older / "shards" / "val"))
    data = serialize(manifest).replace(b'"format": 1', b'"format": 7')
    with pytest.raises(UserError, match="has format 7"):
        parse(data, "set", "set/manifest.parquet")


@pytest.fixture
def quietly():
    """Return a function that prints nothing."""
    return lambda line: None
