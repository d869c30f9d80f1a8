"""A shard set filled on a real Ray: every sample once, whatever is interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray

from infill.pipeline.batch_inference import shards
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.runner import Summary
from infill.pipeline.batch_inference.shards import inpaint_shards, is_shard_set
from infill.pipeline.config import to_json
from infill.pipeline.errors import UserError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig, generate_mask
from infill.pipeline.sharding import ShardConfig, make_shards

pytestmark = pytest.mark.slow
TILES = TilingConfig(sides_px=(64, 128), least_crop_px=64)
RECIPE = MaskConfig(recipe="box")


@pytest.fixture(scope="module")
def photo_shards(photographs, ray_local, tmp_path_factory) -> str:
    """Eight photographs in four shards."""
    out = str(tmp_path_factory.mktemp("photo-shards"))
    config = ShardConfig(
        source=photographs, out=out, photographs_per_shard=2, test_share=0.0, val_share=0.0
    )
    make_shards(config, report=lambda line: None)
    return f"{out}/train"


def config_of(photo_shards, spn, out: Path) -> BatchInferenceConfig:
    return BatchInferenceConfig(
        folder=photo_shards,
        out=str(out),
        model=spn.location,
        generate_masks=True,
        recipe=RECIPE,
        tiling=TILES,
        price_per_hour=36.0,
    )


@pytest.fixture
def config(photo_shards, spn, tmp_path) -> BatchInferenceConfig:
    return config_of(photo_shards, spn, tmp_path / "filled")


@pytest.fixture(scope="module")
def once_filled(photo_shards, spn, tmp_path_factory) -> tuple[Summary, str]:
    """Fill the set once for the module; tests read it, and change copies of it."""
    out = tmp_path_factory.mktemp("once") / "filled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_PART", 1)
        return inpaint_shards(spn, config_of(photo_shards, spn, out), quietly), str(out)


@pytest.fixture
def filled(config, once_filled) -> BatchInferenceConfig:
    """The configuration of a copy of the filled set."""
    shutil.copytree(once_filled[1], config.out)
    return config


@pytest.fixture
def parts_of_one(monkeypatch) -> None:
    """Process each sample by itself, as ``once_filled`` was.

    Pictures that share a pass may differ in a last bit from those that do not.
    """
    monkeypatch.setattr(shards, "ROWS_PER_PART", 1)


def quietly(line):
    """Say nothing."""


def decoded(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def members(location: str) -> dict[str, bytes]:
    found = {}
    for tar in sorted(Path(location).glob("shard-*.tar")):
        with tarfile.open(tar) as opened:
            for member in opened:
                assert member.name not in found
                found[member.name] = opened.extractfile(member).read()
    return found


def test_every_sample_is_filled_once_with_its_mask_and_known_pixels(
    filled, once_filled, spn, photo_shards
):
    config, summary = filled, once_filled[0]
    assert (summary.filled, summary.kept, summary.failed) == (8, 0, 0)
    source, result = read_manifest(photo_shards), read_manifest(config.out)
    assert result.samples["key"].equals(source.samples["key"])
    sent, got = members(photo_shards), members(config.out)
    assert len(got) == 3 * len(source)
    for row in result.samples.to_pylist():
        key = row["key"]
        image, composite = decoded(sent[f"{key}.jpg"]), decoded(got[f"{key}.png"])
        mask = decoded(got[f"{key}.mask.png"], cv2.IMREAD_GRAYSCALE)
        height, width = mask.shape
        expected = generate_mask(RECIPE, key, 0, 0, height, width).hole
        np.testing.assert_array_equal(mask > 127, expected != 0)
        np.testing.assert_array_equal(composite[mask < 128], image[mask < 128])
        assert (composite[mask > 127] != image[mask > 127]).any()
        about = json.loads(got[f"{key}.json"])
        assert about["model"] == spn.label
        assert about["hole_ratio"] == pytest.approx(expected.mean(), abs=1e-6)
        with open(Path(config.out, f"shard-{row['shard']:06d}.tar"), "rb") as tar:
            tar.seek(row["offset"])
            assert tar.read(row["size"]) == got[f"{key}.png"]
    assert not Path(config.out, "_parts").exists()
    again = inpaint_shards(spn, config, quietly)
    assert (again.filled, again.kept) == (0, 8)


@pytest.mark.parametrize(
    "end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.cluster)]
)
def test_a_driver_that_is_ended_costs_the_stretches_under_way(
    config, spn, tmp_path, parts_of_one, once_filled, end
):
    """In a process of its own: Ray may abort one whose dataset is interrupted.

    One is interrupted on the tests' Ray; one is killed with the Ray that it has started.
    """
    (tmp_path / "config.json").write_text(to_json(config))
    program = (
        "import os, sys; from pathlib import Path; from infill.pipeline.cluster import connect\n"
        "from infill.pipeline.config import from_json\n"
        "from infill.pipeline.batch_inference import shards\n"
        "from infill.pipeline.batch_inference.config import BatchInferenceConfig\n"
        "from infill.pipeline.serving.replica.replica import ServedModel\n"
        "shards.ROWS_PER_PART = 1\n"
        "def ending_itself(*given):\n"
        "    for done, part in enumerate(run(*given)):\n"
        f"        done == 2 and os.kill(os.getpid(), {int(end)})\n"
        "        yield part\n"
        "run, shards._run = shards._run, ending_itself\n"
        f"model = ServedModel(**{vars(spn)!r})\n"
        "with connect(num_cpus=2):\n"
        "    config = from_json(BatchInferenceConfig, Path(sys.argv[1]).read_text())\n"
        "    print(shards.inpaint_shards(model, config))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "config.json")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if end == signal.SIGINT:
        environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    with open(tmp_path / "driver.log", "w") as log:
        driver = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    said = (tmp_path / "driver.log").read_text()
    assert driver.returncode != 0, said
    assert not is_shard_set(config.out)
    resumed = inpaint_shards(spn, config, quietly)
    assert resumed.failed == 0
    assert resumed.kept > 0
    assert resumed.filled + resumed.kept == 8
    whole, found = read_manifest(once_filled[1]), read_manifest(config.out)
    assert found.digest == whole.digest
    assert found.samples.equals(whole.samples)


def test_what_the_user_has_to_correct_ends_in_a_sentence_and_bad_rows_are_set_aside(
    config, spn, photo_shards, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(photo_shards, broken)
    config = replace(config, folder=str(broken))
    victim = read_manifest(str(broken)).row(3)
    tar = broken / f"shard-{victim['shard']:06d}.tar"
    data = bytearray(tar.read_bytes())
    data[victim["offset"] + 40] ^= 255
    tar.write_bytes(bytes(data))
    [*_, last] = sorted(broken.glob("shard-*.tar"))
    last.unlink()
    with pytest.raises(UserError, match=rf"^shard {last} is missing, .* --repair`$"):
        inpaint_shards(spn, config, quietly)
    shutil.copy(Path(photo_shards, last.name), last)
    with pytest.raises(UserError, match=r"^/nothing/here is not a checkpoint"):
        inpaint_shards(replace(spn, location="/nothing/here"), config)
    summary = inpaint_shards(spn, config, quietly)
    assert summary.failed == 1
    assert summary.filled + summary.kept in (7, 8)  # The bad row is kept if it was met before.
    result = read_manifest(config.out)
    assert len(result) == 7
    [bad] = result.quarantined
    assert victim["key"] in bad.source
    assert "SHA-256 differs from the manifest's" in bad.reason
    assert victim["key"] not in result.samples["key"].to_pylist()
    again = inpaint_shards(spn, config, quietly)
    assert (again.filled, again.kept, again.failed) == (0, 8, 1)
    [line] = Path(config.out, "failures.jsonl").read_text().splitlines()
    assert victim["key"] in json.loads(line)["image"]


def test_masks_come_from_files_missing_ones_are_reported_and_formats_kept(
    config, spn, photo_shards, tmp_path, make
):
    masks = tmp_path / "masks"
    keys = read_manifest(photo_shards).samples["key"].to_pylist()
    for key in keys[1:]:
        place = masks / f"{key}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(make.file(make.hole(96, 128, slice(20, 40), slice(30, 60))))
    changes = {"generate_masks": False, "masks": str(masks), "output_format": "same"}
    summary = inpaint_shards(spn, replace(config, **changes), quietly)
    assert (summary.filled, summary.failed) == (7, 1)
    result, found = read_manifest(config.out), members(config.out)
    assert "has no mask" in result.quarantined[0].reason
    mask = decoded(found[f"{keys[1]}.mask.png"], cv2.IMREAD_GRAYSCALE)
    assert (mask > 127).sum() == 20 * 30
    assert set(result.samples["suffix"].to_pylist()) == {"jpg"}
    pictures = [data for name, data in found.items() if name.endswith(".jpg")]
    assert len(pictures) == 7
    assert all(data.startswith(b"\xff\xd8\xff") for data in pictures)


def test_results_of_other_settings_are_not_mixed(filled, spn, newer_spn):
    config = filled
    with pytest.raises(UserError, match="another model"):
        inpaint_shards(newer_spn, config, quietly)
    with pytest.raises(UserError, match="another drawn"):
        inpaint_shards(spn, replace(config, seed=1), quietly)


def test_the_summary_gives_the_cost_of_a_thousand(once_filled):
    summary = once_filled[0]
    assert f", {36 / 3600 * summary.seconds / 8 * 1000:.3g} per 1,000, " in str(summary)


def test_filled_shards_are_read_by_webdataset(once_filled, spn):
    from webdataset.tariterators import group_by_keys, tar_file_expander

    samples = []
    for tar in sorted(Path(once_filled[1]).glob("shard-*.tar")):
        with open(tar, "rb") as stream:
            samples += group_by_keys(tar_file_expander([{"url": str(tar), "stream": stream}]))
    assert len(samples) == 8
    for sample in samples:
        assert decoded(sample["png"]).shape == (96, 128, 3)
        assert decoded(sample["mask.png"]).shape[:2] == (96, 128)
        assert json.loads(sample["json"])["model"] == spn.label


def test_a_tar_that_is_lost_or_cut_short_is_made_again(filled, spn, parts_of_one):
    config = filled
    whole = read_manifest(config.out)
    Path(config.out, whole.shards[0].name).unlink()
    cut = Path(config.out, whole.shards[1].name)
    cut.write_bytes(cut.read_bytes()[:1000])
    lost = whole.shards[0].samples + whole.shards[1].samples
    again = inpaint_shards(spn, config, quietly)
    assert (again.filled, again.kept, again.failed) == (lost, len(whole) - lost, 0)
    assert read_manifest(config.out).digest == whole.digest
