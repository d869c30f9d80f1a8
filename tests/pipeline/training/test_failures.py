"""Workers killed, stopped and lost; nodes that go and come; a store that is away."""

import os
import random
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import checkpoints
from pipeline.config import override, to_json
from pipeline.training import (
    NonFiniteLossError,
    train,
    watching,
)
from pipeline.training.driving import room_wanted
from pipeline.training.watching import Beat, diagnose


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


@contextmanager
def signalled_once(run, number):
    """Signal one of the workers that start within the block, after the first checkpoint."""
    earlier, sent = set(training_workers()), []

    def send():
        while not checkpoints.steps(run):
            time.sleep(0.002)
        sent.extend(set(training_workers()) - earlier)
        os.kill(sent[0], number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    yield
    sender.join(timeout=5)
    assert sent


@pytest.fixture(scope="module")
def calm(training, ray_local, tmp_path_factory, quietly):
    """Train on two workers, undisturbed."""
    config = training(tmp_path_factory.mktemp("calm"))
    config = override(config, {"num_workers": 2, "steps": 60, "save_every_steps": 5})
    train(config, quietly)
    return config


@pytest.mark.slow
def test_a_killed_worker_costs_no_update(calm, tmp_path, weights, largest_difference):
    stormy = override(calm, {"storage": str(tmp_path / "stormy")})
    lines = []
    with signalled_once(stormy.storage, signal.SIGKILL):
        train(stormy, lines.append)
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
def test_a_stuck_worker_is_named_and_the_run_ends_right(
    calm, tmp_path, monkeypatch, weights, largest_difference
):
    monkeypatch.setattr(watching, "SILENT_S", 5.0)
    changes = {"storage": str(tmp_path / "stuck"), "collective_timeout_s": 15.0}
    stuck, lines = override(calm, changes), []
    with signalled_once(stuck.storage, signal.SIGSTOP):
        train(stuck, lines.append)
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
def test_a_store_that_is_away_for_a_while_is_waited_for(config, bucket, gate, quietly):
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
def test_nodes_that_go_and_come_change_nothing(config, tmp_path, quietly):
    """Two workers, one, two, one: the batches and so the updates are the same."""
    changes = {"num_workers": 2, "min_workers": 1, "steps": 10**6, "save_every_steps": 19}
    storm = override(config, {**changes, "storage": str(tmp_path / "storm")})
    (tmp_path / "config.json").write_text(to_json(storm))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("two_nodes.py")), tmp_path / "config.json"],
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
        env={
            **os.environ,
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    events = ("noticed", "taken", "come", "lost", "enough")
    assert [line for line in said if line in events] == list(events)
    warned = [line for line in said[: said.index("taken")] if "will be taken away" in line]
    assert warned, done.stdout
    assert sum("going on from step" in line for line in said) == 3, done.stdout
    [saved] = [line for line in said if "saved at step" in line]
    assert warned[0] in said[: said.index(saved)]
    assert said.index(saved) < said.index("taken")
    assert int(saved.rsplit(" ", 1)[1]) % 10 == 0
    newest = checkpoints.latest(storm.storage)
    steps = checkpoints.read_state(newest)["step"]
    changes = {"storage": str(tmp_path / "alone"), "min_workers": 0, "num_workers": 0}
    alone = override(storm, {**changes, "steps": steps})
    other = override(alone, {"storage": str(tmp_path / "other"), "data.seed": 1})
    image, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 6:22] = 1

    def drawn(run):
        location = checkpoints.step_location(run.storage, steps)
        return checkpoints.load_generator(location).generator(image, mask).final

    for run in (alone, other):
        train(run, quietly)
    # Sums over two workers round differently, which hundreds of steps of Adam make visible; other
    # samples make another network.
    difference = (drawn(storm) - drawn(alone)).abs().mean()
    assert difference < (drawn(other) - drawn(alone)).abs().mean() / 5, difference


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_driver_killed_at_any_moment_costs_nothing(config, tmp_path, quietly, weights):
    """The same command again goes on from the newest whole checkpoint, to the same weights."""
    lost = override(config, {"storage": str(tmp_path / "lost"), "steps": 60, "num_workers": 1})
    file = tmp_path / "config.json"
    file.write_text(to_json(lost))
    program = (
        "import sys; from pathlib import Path; from pipeline.cluster import connect\n"
        "from pipeline.config import from_json; from pipeline.training import TrainConfig, train\n"
        "with connect(num_cpus=2):\n"
        "    train(from_json(TrainConfig, Path(sys.argv[1]).read_text()))\n"
    )
    command = [sys.executable, "-c", program, str(file)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment = random.randrange(4, 40)
    while max(checkpoints.steps(lost.storage), default=0) < moment:
        assert driver.poll() is None
        time.sleep(0.003)
    driver.kill()
    driver.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "going on from step" in done.stdout
    torch.set_num_threads(1)
    calm = override(lost, {"storage": str(tmp_path / "calm"), "num_workers": 0})
    train(calm, quietly)
    ours, theirs = weights(lost.storage, 60), weights(calm.storage, 60)
    for part, tensors in ours.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[part][name]), f"{part} {name}"


def test_workers_that_find_no_room_are_told_of(ray_local):
    """With what they want and what there is; others' waiting is none of theirs."""
    import ray
    from ray.util import placement_group, remove_placement_group

    resources = {"CPU": 3.0}
    assert room_wanted(range(2, 4), resources) == ""
    group = placement_group([{"CPU": 3.0}] * 3)
    try:
        sentence = room_wanted(range(2, 4), resources)
        assert sentence.startswith("waiting for room: 3 workers want 3 CPU each")
        assert f"{ray.available_resources()['CPU']:g} CPU free; add nodes" in sentence
        assert room_wanted(range(2, 3), resources) == ""
        assert room_wanted(range(2, 4), {"CPU": 2.0}) == ""
    finally:
        remove_placement_group(group)
