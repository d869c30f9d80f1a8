import hashlib
import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.spn.config import SPNConfig
from pipeline import checkpoints, storage
from pipeline.batches import BatchConfig
from pipeline.config import UserError, override
from pipeline.masks import MaskConfig
from pipeline.tracking import TrackingConfig
from pipeline.training import (
    Average,
    NonFiniteLossError,
    Place,
    TrainConfig,
    build_objective,
    launch,
    train,
    with_local_weights,
)

WEIGHTS = ("generator", "discriminator", "ema", "optimizers")


@pytest.fixture
def config(shards, tmp_path):
    """Return a training of six tiny steps in this process."""
    return TrainConfig(
        model=SPNConfig.tiny(),
        data=BatchConfig(
            shards=shards, batch_size=4, image_size_px=32, masks=MaskConfig(max_hole_ratio=0.5)
        ),
        storage=str(tmp_path / "run"),
        steps=6,
        num_workers=0,
        ema_decay=0.9,
        report_every_steps=2,
        save_every_steps=2,
        sample_every_steps=6,
        keep_checkpoints=3,
        validation_samples=4,
        tracking=TrackingConfig(tracking_uri=""),
    )


def quietly(line):
    """Say nothing."""


def weights(run, step):
    location = Path(checkpoints.step_location(run, step))
    return {name: load_file(location / f"{name}.safetensors") for name in WEIGHTS}


def largest_difference(ours, theirs):
    return max(
        (ours[part][name].double() - theirs[part][name].double()).abs().max().item()
        for part in WEIGHTS
        for name in ours[part]
    )


def test_a_run_leaves_checkpoints_scores_grids_and_its_configuration(config):
    lines = []
    result = train(config, lines.append)
    run = Path(config.storage)
    assert result.checkpoint.startswith(str(run / "checkpoints"))
    assert set(result.scores) == {"hole_psnr", "psnr", "hole_l1"}
    assert checkpoints.steps(config.storage) == [2, 4, 6]
    assert (run / "samples" / "step-000000006.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "config.json").read_text())["model"]["architecture"] == "spn"
    text = "\n".join(lines)
    for word in ("prior", "image", "adversarial", "discriminator", "samples_per_s", "left"):
        assert word in text
    assert "data_wait_share" in text


def test_channels_lie_innermost_unless_told_otherwise(config, tmp_path):
    made = {}
    for channels_last in (True, False):
        place = Place(channels_last=channels_last)
        objective = build_objective(config, place)
        kernels = [p for p in objective.generator.parameters() if p.dim() == 4 and p.shape[1] > 1]
        kernels = [kernel for kernel in kernels if kernel[0, 0].numel() > 1]
        assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels) == (
            channels_last
        )
        settings = {"channels_last": channels_last, "storage": str(tmp_path / str(channels_last))}
        made[channels_last] = weights(train(override(config, settings), quietly).run, 6)
    assert largest_difference(made[True], made[False]) < 1e-3


def test_precision_and_parts_do_what_they_say(config, tmp_path):
    """Each changes the arithmetic a little and what is learned hardly."""
    plain = weights(train(config, quietly).run, 6)
    for change in ({"precision": "bfloat16"}, {"accumulate": 2}):
        storage_of_its_own = {"storage": str(tmp_path / next(iter(change)))}
        result = train(override(config, {**change, **storage_of_its_own}), quietly)
        learned = weights(result.run, 6)["generator"]
        difference = max((learned[k] - v).abs().max() for k, v in plain["generator"].items())
        assert 0 < difference < 0.01, (change, difference)


def test_the_generator_is_compiled_when_asked_for(config):
    """That it compiles whole is tested with every architecture; here only that it is asked to."""
    for wanted in (False, True):
        objective = build_objective(override(config, {"compile": wanted}), Place())
        assert (objective.generator._compiled_call_impl is not None) == wanted


def test_gradient_norms_and_learning_rates_are_written_down(config):
    train(override(config, {"max_gradient_norm": 0.5}), quietly)
    [file] = Path(config.storage).glob("progress-*.jsonl")
    lines = file.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    values = next(record["values"] for record in records if record["kind"] == "losses")
    for role in ("generator", "discriminator"):
        assert values[f"gradient_norm/{role}"] > 0
        assert values[f"learning_rate/{role}"] == config.model.learning_rate


def test_resumed_run_equals_uninterrupted_run(config, tmp_path):
    train(config, quietly)
    interrupted = override(config, {"storage": str(tmp_path / "other"), "steps": 3})
    train(interrupted, quietly)
    lines = []
    train(override(interrupted, {"steps": 6}), lines.append)
    assert any("going on from step 3" in line for line in lines)
    ours, theirs = weights(config.storage, 6), weights(interrupted.storage, 6)
    assert largest_difference(ours, theirs) == 0


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(config, tmp_path):
    train(config, quietly)
    broken = override(config, {"storage": str(tmp_path / "broken"), "steps": 4})
    train(broken, quietly)
    newest = Path(checkpoints.step_location(broken.storage, 4)) / "generator.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    lines = []
    train(override(broken, {"steps": 6}), lines.append)
    assert any("damaged" in line for line in lines)
    assert any("going on from step 2" in line for line in lines)
    assert largest_difference(weights(config.storage, 6), weights(broken.storage, 6)) == 0


def test_workers_that_find_the_last_step_taken_take_no_more(config):
    train(config, quietly)
    before = weights(config.storage, 6)
    launch(config, lambda record: None)
    assert largest_difference(before, weights(config.storage, 6)) == 0


def test_a_finished_run_is_reused_and_says_so(config):
    first = train(config, quietly)
    again = train(config, quietly)
    assert again.reused
    assert not first.reused
    assert again.checkpoint == first.checkpoint


def test_a_run_on_s3_is_saved_and_resumed_there(config, bucket):
    remote = override(config, {"storage": bucket, "steps": 3})
    train(remote, quietly)
    lines = []
    result = train(override(remote, {"steps": 6}), lines.append)
    assert any("going on from step 3" in line for line in lines)
    assert result.checkpoint.startswith("s3://")
    loaded = checkpoints.load_generator(result.checkpoint)
    train(config, quietly)
    ours = checkpoints.load_generator(checkpoints.step_location(config.storage, loaded.step))
    expected = ours.generator.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.generator.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.teacher": "asl"}, "teacher"),
        ({"model.teacher": "asl", "model.teacher_weights": "nowhere.pth"}, "nowhere.pth"),
        (
            {"model.teacher": "asl", "model.teacher_weights": "https://example.org/asl.pth"},
            "give its SHA-256",
        ),
    ],
)
def test_missing_teacher_weights_are_told_in_a_sentence(config, changes, told):
    with pytest.raises(UserError, match=told):
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


def test_another_model_in_the_same_folder_is_refused_by_field(config):
    train(override(config, {"steps": 1}), quietly)
    changed = override(config, {"model.image_weight": 1.0})
    with pytest.raises(UserError, match=r"another model.image_weight; give a new --storage"):
        train(changed, quietly)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(config):
    train(override(config, {"steps": 2}), quietly)
    generator = Path(checkpoints.step_location(config.storage, 2))
    good = checkpoints.verify(str(generator))
    spoilt = override(config, {"storage": config.storage + "-spoilt", "model.learning_rate": 1e10})
    with pytest.raises(NonFiniteLossError, match=r"the loss '\w+' is not finite at step \d"):
        train(override(spoilt, {"save_every_steps": 1}), quietly)
    last = checkpoints.latest(spoilt.storage, quietly)
    assert last is not None
    assert checkpoints.verify(str(generator)) == good


def test_fine_tuning_starts_from_weights_alone(config, tmp_path):
    first = train(config, quietly)
    tuned = override(
        config, {"storage": str(tmp_path / "tuned"), "init_from": first.run, "steps": 1}
    )
    tuned = override(tuned, {"model.learning_rate": 1e-12, "model.image_weight": 1.0})
    train(tuned, quietly)
    start = weights(config.storage, 6)["ema"]
    moved = weights(tuned.storage, 1)["generator"]
    assert all(torch.allclose(start[name], moved[name], atol=1e-6) for name in start)
    state = checkpoints.read_state(checkpoints.step_location(tuned.storage, 1))
    assert state["step"] == 1


def test_the_average_follows_the_exponential_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.0)
    average = Average(network, decay=0.5)
    torch.nn.init.constant_(network.weight, 1.0)
    for step in range(100, 103):
        average.update(network, step)
    assert math.isclose(average.network.weight.item(), 1 - 0.5**3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_workers": 3}, "multiple of num_workers 3"),
        ({"data.image_size_px": 30}, "image_size_px 30 must be a multiple of 4"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
    ],
)
def test_impossible_settings_are_refused_on_construction(config, changes, told):
    with pytest.raises(ValueError, match=told):
        override(config, changes)


def test_missing_shards_and_too_small_images_are_told_before_training(config):
    with pytest.raises(UserError, match="no shards given"):
        train(override(config, {"data.shards": ""}), quietly)
    with pytest.raises(UserError, match="no finished shard set"):
        train(override(config, {"data.shards": config.storage}), quietly)
    with pytest.raises(UserError, match="64"):
        train(override(config, {"data.image_size_px": 64}), quietly)


@pytest.mark.slow
def test_two_workers_take_the_same_updates_as_one(config, ray_local, tmp_path):
    alone = override(config, {"steps": 3})
    train(alone, quietly)
    together = override(alone, {"storage": str(tmp_path / "together"), "num_workers": 2})
    train(together, quietly)
    ours, theirs = weights(alone.storage, 3), weights(together.storage, 3)
    # Gradients agree. Weights agree where there is one: a bias before a norm has none but rounding,
    # which Adam divides by its own size, and makes no difference to what is drawn.
    for name, moment in ours["optimizers"].items():
        if name.endswith("/exp_avg"):
            other = theirs["optimizers"][name]
            assert torch.allclose(moment, other, rtol=1e-3, atol=1e-6), name
    image, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 6:22] = 1
    drawn, others = (
        checkpoints.load_generator(run.storage).generator(image, mask).final
        for run in (alone, together)
    )
    torch.testing.assert_close(drawn, others, rtol=0, atol=1e-4)


def parent(pid):
    """Return the parent of a process on this machine."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])


def training_workers():
    """Return the process ids of the training workers of the Ray that this process started."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                pid = int(folder.name)
                found += [pid] if parent(parent(pid)) == os.getpid() else []
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_killed_worker_costs_no_update(config, ray_local, tmp_path):
    calm = override(config, {"num_workers": 2, "steps": 60, "save_every_steps": 5})
    train(calm, quietly)
    stormy = override(calm, {"storage": str(tmp_path / "stormy")})
    killed, lines = [], []

    def kill_once():
        while not checkpoints.steps(stormy.storage):
            time.sleep(0.002)
        killed.extend(training_workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_once, daemon=True)
    killer.start()
    train(stormy, lines.append)
    killer.join(timeout=5)
    assert killed
    assert any("going on from step" in line for line in lines), lines
    assert largest_difference(weights(calm.storage, 60), weights(stormy.storage, 60)) == 0
