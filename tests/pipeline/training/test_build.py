"""The parts of a training, and the settings that are refused before it starts."""

import hashlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infill.models import architecture
from infill.models.architecture import Batch
from infill.models.deepfill.config import DeepFillConfig
from infill.models.schedules import SCHEDULES
from infill.models.spn.config import SPNConfig
from infill.models.spn.tresnet import random_network
from infill.models.unet.config import UNetConfig
from infill.models.vgg import load_features
from infill.pipeline import storage
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import (
    ExponentialMovingAverage,
    TrainConfig,
    WorkerContext,
    build_objective,
    require_weights,
    train,
    with_local_weights,
)
from infill.pipeline.training.launcher import resolve
from infill.pipeline.training.run_lock import LOCK


def test_channels_lie_innermost_unless_configured_otherwise(
    config, finished, quietly, weights, largest_difference
):
    assert config.channels_last
    for channels_last in (True, False):
        place = WorkerContext(channels_last=channels_last)
        objective = build_objective(config, place)
        kernels = [p for p in objective.generator.parameters() if p.dim() == 4 and p.shape[1] > 1]
        kernels = [kernel for kernel in kernels if kernel[0, 0].numel() > 1]
        assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels) == (
            channels_last
        )
    otherwise = weights(train(override(config, {"channels_last": False}), quietly).run, 6)
    assert largest_difference(weights(finished.config.storage, 6), otherwise) < 1e-3


def test_precision_and_parts_do_what_they_say(config, finished, tmp_path, quietly, weights):
    """Each changes the arithmetic a little, and the result hardly."""
    plain = weights(finished.config.storage, 6)
    for change in ({"precision": "bfloat16"}, {"accumulate": 2}):
        storage_of_its_own = {"storage": str(tmp_path / next(iter(change)))}
        result = train(override(config, {**change, **storage_of_its_own}), quietly)
        learned = weights(result.run, 6)["generator"]
        difference = max((learned[k] - v).abs().max() for k, v in plain["generator"].items())
        assert 0 < difference < 0.01, (change, difference)


def test_recomputed_blocks_learn_the_very_same(
    config, finished, quietly, weights, largest_difference
):
    """That they keep less is tested with every architecture."""
    assert not config.recompute
    for wanted in (False, True):
        changed = override(config, {"recompute": wanted})
        forward = build_objective(changed, WorkerContext()).generator.decoder.blocks[0].forward
        assert isinstance(forward, partial) == wanted
    made = weights(train(override(config, {"recompute": True}), quietly).run, 6)
    assert largest_difference(weights(finished.config.storage, 6), made) == 0


def test_the_generator_is_compiled_when_asked_for(config):
    """That it compiles whole is tested with every architecture; here only that it is asked to."""
    for wanted in (False, True):
        objective = build_objective(override(config, {"compile": wanted}), WorkerContext())
        assert (objective.generator._compiled_call_impl is not None) == wanted


def test_the_compiled_generator_is_launched_as_graphs_when_asked_for(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **form: modes.append(form["mode"]))
    config = TrainConfig(model=UNetConfig.tiny(), data=BatchConfig(), use_gpu=True, compile=True)
    for wanted in (False, True):
        build_objective(override(config, {"cuda_graphs": wanted}), WorkerContext())
    assert modes == [None, "reduce-overhead"]
    for missing in ("compile", "use_gpu"):
        with pytest.raises(ValueError, match="cuda_graphs needs compile and use_gpu"):
            override(config, {"cuda_graphs": True, missing: False})


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_a_compiled_training_on_a_gpu_has_the_losses_of_one_that_is_not(graphs):
    image, mask = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, 1, 64, 64)
    mask[..., 16:48, 16:40] = 1
    found = []
    for compiled in (False, True):
        config = TrainConfig(
            model=UNetConfig.tiny(),
            data=BatchConfig(),
            use_gpu=True,
            compile=compiled,
            cuda_graphs=compiled and graphs,
        )
        objective = build_objective(config, WorkerContext(device=torch.device("cuda")))
        losses = []
        for step in range(4):
            batch = Batch(image=image, mask=mask, keys=("a", "b"), mask_ids=("a", "b"), step=step)
            torch.compiler.cudagraph_mark_step_begin()
            losses += [v.cpu() for v in objective.step_with_accumulation(batch.to("cuda")).values()]
        found.append(losses)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.teacher": "asl"}, "teacher"),
        ({"model.teacher": "asl", "model.teacher_weights": "nowhere.pth"}, "nowhere.pth"),
        (
            {"model.teacher": "asl", "model.teacher_weights": "https://example.org/asl.pth"},
            "give its SHA-256",
        ),
    ],
)
def test_missing_teacher_weights_are_reported_in_a_sentence(config, changes, sentence, quietly):
    with pytest.raises(UserError, match=sentence):
        train(override(config, changes), quietly)


def test_files_of_weights_are_fetched_to_this_machine_and_checked(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = b"weights of a teacher"
    storage.write(f"{bucket}/asl.pth", data)
    checksum = hashlib.sha256(data).hexdigest()
    model = SPNConfig(teacher_weights=f"{bucket}/asl.pth", teacher_sha256=checksum)
    local = with_local_weights(model)
    assert Path(local.teacher_weights).read_bytes() == data
    assert local == replace(model, teacher_weights=local.teacher_weights)
    storage.write(f"{bucket}/asl.pth", b"something else")
    assert with_local_weights(model) == local  # kept under its checksum, not fetched again
    with pytest.raises(UserError, match="give its SHA-256"):
        with_local_weights(replace(model, teacher_sha256=None))
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        with_local_weights(replace(model, teacher_sha256="0" * 64))
    at_hand = SPNConfig(teacher_weights="asl.pth")
    assert with_local_weights(at_hand) == at_hand


def test_the_average_follows_the_exponential_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.0)
    average = ExponentialMovingAverage(network, decay=0.5)
    torch.nn.init.constant_(network.weight, 1.0)
    for step in range(100, 103):
        average.update(step)
    assert math.isclose(average.network.weight.item(), 1 - 0.5**3)


@pytest.mark.parametrize("name", ["lama", "spn"])
def test_the_average_is_to_the_bit_that_of_tensor_after_tensor(name):
    """That steps of every architecture keep their tensors is tested with their updates."""
    torch.manual_seed(0)
    generator = architecture.load(name).generator(architecture.load(name).config.tiny())
    average = ExponentialMovingAverage(generator, decay=0.9)
    expected = {key: value.clone() for key, value in generator.state_dict().items()}
    image, mask = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, 1, 64, 64)
    mask[..., 16:48, 16:40] = 1
    for step in (10, 11):
        with torch.no_grad():
            generator(image, mask)  # changes running statistics and counters
            for weight in generator.parameters():
                weight.add_(torch.randn_like(weight))
        average.update(step)
        for key, value in generator.state_dict().items():
            if value.is_floating_point():
                expected[key].lerp_(value, 1 - (1 + step) / (10 + step))
            else:
                expected[key].copy_(value)
    found = average.network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_integers_are_copied_into_the_average():
    network = torch.nn.BatchNorm2d(2)
    average = ExponentialMovingAverage(network, decay=0.5)
    network(torch.rand(3, 2, 4, 4))
    average.update(100)
    assert average.network.num_batches_tracked.item() == 1
    assert 0 < average.network.running_mean[0] < network.running_mean[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_workers": 3}, "multiple of num_workers 3"),
        ({"data.image_size_px": 30}, "image_size_px 30 must be a multiple of 4"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
    ],
)
def test_impossible_settings_are_refused_on_construction(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        override(config, changes)


@pytest.mark.parametrize("part", ["schedule", "discriminator_schedule"])
def test_a_schedule_that_fails_late_in_a_run_is_refused_before_it(config, part, monkeypatch):
    monkeypatch.setitem(
        SCHEDULES, "falling", lambda config, step, total: 1.0 if step < total - 1 else -0.1
    )
    for steps in (1, 6, 1_000_003):
        with pytest.raises(ValueError, match=rf"factor -0\.1 at step {steps - 1};"):
            override(config, {"steps": steps, f"model.{part}.name": "falling"})


def test_images_of_another_size_than_the_discriminator_are_refused_at_once(config, quietly):
    """Before, the first step of DeepFill v1 ended in a traceback."""
    other = replace(config, model=DeepFillConfig.tiny())
    with pytest.raises(UserError, match=r"data\.image_size_px 32 must be model\.image_size_px 64"):
        train(other, quietly)
    assert resolve(replace(other, model=replace(other.model, image_size_px=32)))


def test_missing_shards_and_too_small_images_are_reported_before_training(config, quietly):
    with pytest.raises(UserError, match="no shards given"):
        train(override(config, {"data.shards": ""}), quietly)
    with pytest.raises(UserError, match="not a finished shard set"):
        train(override(config, {"data.shards": config.storage}), quietly)
    with pytest.raises(UserError, match="64"):
        train(override(config, {"data.image_size_px": 64}), quietly)


def test_networks_are_built_without_opening_a_context_on_every_gpu(config, monkeypatch):
    opened, reseeded = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", opened.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    build_objective(config, WorkerContext())
    assert opened == []
    assert reseeded == []


def test_the_driver_accepts_the_right_file_and_refuses_another_network(config, tmp_path):
    right, other = tmp_path / "tresnet.pth", tmp_path / "vgg.pth"
    torch.save(random_network().state_dict(), right)
    torch.save(load_features(16, ["relu1_1"], "random").state_dict(), other)
    asl = {"model.teacher": "asl", "model.teacher_weights": str(right)}
    state = torch.random.get_rng_state()
    require_weights(override(config, asl))
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(UserError, match=r"vgg\.pth"):
        require_weights(override(config, {**asl, "model.teacher_weights": str(other)}))
    with pytest.raises(UserError, match="sha256"):
        require_weights(override(config, {**asl, "model.teacher_sha256": "0" * 64}))


def test_mask_file_that_marks_nothing_is_named_before_anything_is_written(
    config, quietly, tmp_path
):
    for name, level in (("good.png", 255), ("labels.png", 1)):
        picture = np.zeros((40, 40), np.uint8)
        picture[10:20, 5:30] = level
        cv2.imwrite(str(tmp_path / name), picture)
    changes = {"data.masks.folder": str(tmp_path), "data.masks.recipe": "files"}
    with pytest.raises(UserError, match=r"labels\.png cannot be used.*masks\.threshold=0"):
        train(override(config, changes), quietly)
    assert [path.name for path in Path(config.storage).iterdir()] == [LOCK]
