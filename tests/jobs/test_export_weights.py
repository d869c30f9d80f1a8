"""An exported generator is half as large, predicts the same, and is taken wherever another is."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from infill.jobs import export_weights
from infill.models.architecture import load
from infill.models.lama.config import LaMaConfig
from infill.pipeline import checkpoints, inference
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.progress import file_size
from infill.pipeline.weight_export import ExportConfig

MODEL = LaMaConfig(channels=8, num_blocks=2, discriminator_channels=4, perceptual_weight=0.0)
CONFIG = {"model": to_dict(MODEL), "data": {"image_size_px": 48}, "seed": 3}


@pytest.fixture(scope="module")
def objective():
    """Return networks of which batch norms have seen data, and whose weights are not the first."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    built = load("lama").objective(MODEL, lambda network: network)
    for parameter in built.generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        built.generator(torch.rand(2, 3, 32, 32) * 2 - 1, torch.ones(2, 1, 32, 32))
    return built


@pytest.fixture
def checkpoint(objective, tmp_path) -> str:
    location = checkpoints.step_location(str(tmp_path / "run"), 7)
    whole = checkpoints.snapshot(objective, None)
    checkpoints.write(location, whole, CONFIG, {"step": 7, "scores": {}})
    return location


def files(folder: str | Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in Path(folder).iterdir()}


def test_export_holds_half_the_bytes_and_predicts_the_same_pixels(checkpoint, tmp_path, capsys):
    out = tmp_path / "exported"
    run = str(Path(checkpoint).parents[1])
    export_weights.main(["--checkpoint", run, "--out", str(out)])
    printed = capsys.readouterr().out
    assert set(files(out)) == {
        "checksums.json", "config.json", "generator.safetensors", "state.json",
    }  # fmt: skip
    size = files(out)["generator.safetensors"]
    assert size < 0.6 * files(checkpoint)["generator.safetensors"]
    assert f"weights: {file_size(size)}" in printed
    assert printed.endswith(f"next:\n  python jobs/inpaint.py photo.jpg mask.png --model {out}\n")
    loaded = checkpoints.load_generator(str(out))
    assert re.search(rf"digest {loaded.digest}\b", printed)
    assert (loaded.step, loaded.image_size_px, loaded.config) == (7, 48, MODEL)
    assert {value.dtype for value in loaded.generator.parameters()} == {torch.float32}
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    hole = np.zeros((48, 64), bool)
    hole[10:30, 20:50] = True
    before, after = (inference.load(where)(image, hole) for where in (checkpoint, str(out)))
    assert np.abs(before.astype(int) - after).max() <= 2
    assert not np.array_equal(before, image)


def test_norms_and_biases_stay_in_float32(checkpoint, tmp_path):
    out = str(tmp_path / "exported")
    export_weights.main(["--checkpoint", checkpoint, "--out", out, "--precision", "bfloat16"])
    stored = load_file(f"{out}/generator.safetensors")
    kinds = {(v.ndim >= 2, v.dtype) for n, v in stored.items() if "num_batches" not in n}
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}


def test_export_is_a_start_for_fine_tuning_and_no_run_to_resume(checkpoint, objective, tmp_path):
    out = str(tmp_path / "exported")
    export_weights.main(["--checkpoint", checkpoint, "--out", out, "--precision", "float32"])
    other = load("lama").objective(MODEL, lambda network: network)
    checkpoints.initialize(out, other)
    ours, theirs = objective.generator.state_dict(), other.generator.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError):
        checkpoints.restore(out, other, None)


def test_weights_beyond_the_format_and_missing_fields_are_named(checkpoint, objective, tmp_path):
    with pytest.raises(UserError, match=r"give --out DIRECTORY"):
        ExportConfig(checkpoint=checkpoint)
    with torch.no_grad():
        first = next(iter(objective.generator.parameters()))
        before = first.clone()
        first.view(-1)[0] = 1e6
    location = checkpoints.step_location(str(tmp_path / "large"), 1)
    checkpoints.write(
        location, checkpoints.snapshot(objective, None), CONFIG, {"step": 1, "scores": {}}
    )
    with torch.no_grad():
        first.copy_(before)
    out = tmp_path / "exported"
    with pytest.raises(UserError, match=r"exceeds the range of float16.*--precision"):
        export_weights.main(["--checkpoint", location, "--out", str(out)])
    assert not out.exists()
    export_weights.main(["--checkpoint", location, "--out", str(out), "--precision", "bfloat16"])


def test_parallel_kernels_are_merged_and_predict_the_same(tmp_path):
    torch.manual_seed(0)
    model = load("migan").config.tiny()
    whole = checkpoints.snapshot(load("migan").objective(model, lambda network: network), None)
    location = checkpoints.step_location(str(tmp_path / "run"), 1)
    config = {"model": to_dict(model), "data": {"image_size_px": 32}}
    checkpoints.write(location, whole, config, {"step": 1, "scores": {}})
    out = str(tmp_path / "exported")
    export_weights.main(["--checkpoint", location, "--out", out, "--precision", "float32"])
    before, after = (checkpoints.load_generator(where) for where in (location, out))
    assert after.config == replace(model, num_kernels=0)
    assert not any("kernels" in name for name in after.generator.state_dict())
    image, mask = torch.rand(1, 3, 32, 32) * 2 - 1, torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 5:25] = 1
    predicted = [one.generator(image, mask).final for one in (before, after)]
    torch.testing.assert_close(predicted[1], predicted[0])
    assert sum(p.numel() for p in after.generator.parameters()) < 0.7 * sum(
        p.numel() for p in before.generator.parameters()
    )
