import hashlib
import json
import math
import os
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
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
from pipeline.config import UserError, override, to_json
from pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig
from pipeline.tracking import TrackingConfig
from pipeline.training import (
    Average,
    NonFiniteLossError,
    Place,
    TrainConfig,
    build_objective,
    launch,
    train,
    watching,
    with_local_weights,
)
from pipeline.training.watching import Beat, diagnose

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
    overall = {"hole_psnr", "psnr", "hole_l1"}
    ranges = {f"hole_psnr/{low:g}-{high:g}" for low, high in HOLE_RATIO_BUCKETS}
    assert overall < set(result.scores) <= overall | ranges
    of_ranges = [result.scores[name] for name in set(result.scores) & ranges]
    assert min(of_ranges) <= result.scores["hole_psnr"] <= max(of_ranges)
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
    assert 0 < values["accuracy/discriminator"] < 1


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
    killed, lines, earlier = [], [], set(training_workers())

    def kill_once():
        while not checkpoints.steps(stormy.storage):
            time.sleep(0.002)
        killed.extend(set(training_workers()) - earlier)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_once, daemon=True)
    killer.start()
    train(stormy, lines.append)
    killer.join(timeout=5)
    assert killed
    assert any("going on from step" in line for line in lines), lines
    assert largest_difference(weights(calm.storage, 60), weights(stormy.storage, 60)) == 0


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_a_run_on_the_cluster_at_once(config, ray_local):
    """Starting again from the same checkpoint would end in the same way."""
    spoilt = override(config, {"num_workers": 2, "model.learning_rate": 1e10, "steps": 40})
    lines = []
    with pytest.raises(NonFiniteLossError, match=r"the loss '\w+' is not finite at step \d"):
        train(spoilt, lines.append)
    assert sum("going on from step" in line for line in lines) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stuck_worker_is_named_and_the_run_ends_right(config, ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "SILENT_S", 5.0)
    calm = override(config, {"num_workers": 2, "steps": 60, "save_every_steps": 5})
    train(calm, quietly)
    changes = {"storage": str(tmp_path / "stuck"), "collective_timeout_s": 15.0}
    stuck, lines = override(calm, changes), []
    stopped, earlier = [], set(training_workers())

    def stop_once():
        while not checkpoints.steps(stuck.storage):
            time.sleep(0.002)
        stopped.extend(set(training_workers()) - earlier)
        os.kill(stopped[0], signal.SIGSTOP)

    stopper = threading.Thread(target=stop_once, daemon=True)
    stopper.start()
    train(stuck, lines.append)
    stopper.join(timeout=5)
    assert stopped
    assert any(re.search(r"worker [01] has been silent for \d+ s", line) for line in lines), lines
    assert any("going on from step" in line for line in lines), lines
    assert largest_difference(weights(calm.storage, 60), weights(stuck.storage, 60)) == 0


def test_a_worker_is_named_by_what_it_did_last():
    beats = {
        0: Beat(step=7, doing="taking a step", heard_s=99.0, since_s=90.0),
        1: Beat(step=7, doing="waiting for a batch", heard_s=70.0, since_s=60.0),
    }
    [(name, sentence)] = diagnose(beats, now=100.0)
    assert name == "silent 1"
    assert (
        "worker 1 has been silent for 30 s, since it was waiting for a batch at step 7" in sentence
    )
    everybody = {rank: replace(beat, heard_s=299.0) for rank, beat in beats.items()}
    [(name, sentence)] = diagnose(everybody, now=300.0)
    assert name == "stalled"
    assert "worker 0 taking a step at step 7, worker 1 waiting for a batch at step 7" in sentence
    assert list(diagnose({0: replace(beats[0], since_s=99.0)}, now=100.0)) == []


class Gate(socketserver.BaseRequestHandler):
    """Passes connections on to the real store, or hangs up while it is shut."""

    upstream, shut = 0, threading.Event()

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            pairs = {self.request: server, server: self.request}
            while not self.shut.is_set():
                for ready in select.select(list(pairs), [], [], 0.1)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pairs[ready].sendall(data)


class Gatekeeper(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing of connections that were cut."""


@pytest.fixture
def gate(s3_server, monkeypatch):
    """Put a gate before the store, and yield the event that shuts it."""
    Gate.upstream = int(s3_server["AWS_ENDPOINT_URL"].rpartition(":")[2])
    Gate.shut.clear()
    with Gatekeeper(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield Gate.shut
        server.shutdown()


@pytest.mark.slow
def test_a_store_that_is_away_for_a_while_is_waited_for(config, bucket, gate):
    remote = override(config, {"storage": f"{bucket}/run", "save_every_steps": 1})
    lines = []

    def shut_once():
        while not any("validation" in line for line in lines):
            time.sleep(0.01)
        gate.set()
        time.sleep(12)
        gate.clear()

    shutter = threading.Thread(target=shut_once, daemon=True)
    shutter.start()
    started = time.monotonic()
    result = train(remote, lines.append)
    assert time.monotonic() - started > 12
    assert result.step == 6
    assert checkpoints.steps(remote.storage) == [4, 5, 6]
    checkpoints.verify(checkpoints.step_location(remote.storage, 6))
    plain = train(config, quietly)
    ours, theirs = (checkpoints.step_location(run, 6) for run in (remote.storage, plain.run))
    drawn = [checkpoints.load_generator(location).generator for location in (ours, theirs)]
    image, mask = torch.rand(1, 3, 32, 32) * 2 - 1, torch.ones(1, 1, 32, 32)
    assert torch.equal(*(generator(image, mask).final for generator in drawn))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_lost_node_and_a_new_one_change_nothing(config, tmp_path):
    """Two workers, then one, then two again: the batches and so the updates are the same."""
    changes = {"num_workers": 2, "min_workers": 1, "steps": 400, "save_every_steps": 20}
    storm = override(config, {**changes, "storage": str(tmp_path / "storm")})
    (tmp_path / "config.json").write_text(to_json(storm))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("two_nodes.py")), tmp_path / "config.json"],
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
        env={**os.environ, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout
    assert said.index("lost") < said.index("come")
    assert said.count("going on from step") >= 2, said
    changes = {"storage": str(tmp_path / "alone"), "min_workers": 0, "num_workers": 0}
    alone = override(storm, changes)
    other = override(alone, {"storage": str(tmp_path / "other"), "data.seed": 1})
    image, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 6:22] = 1

    def drawn(run):
        location = checkpoints.step_location(run.storage, 400)
        return checkpoints.load_generator(location).generator(image, mask).final

    for run in (alone, other):
        train(run, quietly)
    # Sums over two workers round differently, which 400 steps of Adam make visible; other samples
    # make another network.
    difference = (drawn(storm) - drawn(alone)).abs().mean()
    assert difference < (drawn(other) - drawn(alone)).abs().mean() / 5, difference
