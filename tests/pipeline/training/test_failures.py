"""Workers on Ray: as good as one, killed, stopped and lost; a store that is away."""

import json
import os
import random
import re
import select
import signal
import socket
import socketserver
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infill.pipeline import checkpoints
from infill.pipeline.config import override, to_json
from infill.pipeline.config import run as run_job
from infill.pipeline.training import NonFiniteLossError, heartbeat, train
from infill.pipeline.training.heartbeat import Heartbeat, HeartbeatMonitor, diagnose
from infill.pipeline.training.launcher import missing_resources

TURNED_AWAY = 6
"""Connections, after which a store that was away is back: its client pauses longer each time."""


def parent(pid):
    """Return the parent of a process on this machine."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])


def image_losses(config):
    """Return the recorded losses of images by step; of a step taken twice, the last one."""
    files = sorted(Path(config.storage).glob("progress-*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {one["step"]: one["values"]["image"] for one in records if one["kind"] == "losses"}


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
def signalled(run, lines):
    """Kill a worker of the run within the block, and stop one of those that come after it."""
    known, sent, over = set(training_workers()), [], threading.Event()

    def signal_one(number):
        before = checkpoints.steps(run)
        while not over.wait(0.01):
            saved = checkpoints.steps(run) != before
            new = set(training_workers()) - known if saved else set()
            if new:
                os.kill(min(new), number)
                known.update(new)
                sent.append(number)
                return

    def send():
        signal_one(signal.SIGKILL)
        while not any("resuming at step" in line for line in lines) and not over.wait(0.01):
            pass
        signal_one(signal.SIGSTOP)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
    assert sent == [signal.SIGKILL, signal.SIGSTOP]


@pytest.fixture(scope="module")
def alone(training, tmp_path_factory, quietly):
    """Train in this process, undisturbed."""
    config = training(tmp_path_factory.mktemp("alone"))
    changes = {"steps": 60, "save_every_steps": 3, "keep_checkpoints": 20}
    config = override(config, {**changes, "sample_every_steps": 60})
    train(config, quietly)
    return config


@pytest.fixture(scope="module")
def calm(alone, ray_local, tmp_path_factory, quietly):
    """Train on two workers, undisturbed."""
    storage = str(tmp_path_factory.mktemp("calm"))
    config = override(alone, {"num_workers": 2, "storage": storage})
    train(config, quietly)
    return config


@pytest.mark.slow
def test_two_workers_take_the_same_updates_as_one(alone, calm, weights):
    ours, theirs = weights(alone.storage, 3), weights(calm.storage, 3)
    # Gradients agree. Weights agree where there is one: a bias before a norm has none but rounding,
    # which Adam divides by its own size, and makes no difference to what is predicted.
    for name, moment in ours["optimizers"].items():
        if name.endswith("/exp_avg"):
            other = theirs["optimizers"][name]
            assert torch.allclose(moment, other, rtol=1e-3, atol=1e-6), name
    image, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 6:22] = 1
    one, other = (
        checkpoints.load_generator(checkpoints.step_location(run.storage, 3)).generator(image, mask)
        for run in (alone, calm)
    )
    torch.testing.assert_close(one.final, other.final, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_and_a_stuck_worker_cost_no_update_and_the_stuck_one_is_named(
    calm, tmp_path, monkeypatch, weights, largest_difference
):
    monkeypatch.setattr(heartbeat, "SILENT_S", 5.0)
    changes = {"collective_timeout_s": 30.0, "max_failures": 10}
    stormy = override(calm, {**changes, "storage": str(tmp_path / "stormy")})
    lines = []
    with signalled(stormy.storage, lines):
        train(stormy, lines.append)
    again = [index for index, line in enumerate(lines) if "resuming at step" in line]
    assert len(again) >= 2, lines
    died = r"worker [01] has died: the system, .* ended its process; .* holds most memory outside"
    assert any(re.search(died, line) for line in lines), lines
    silent = [
        i
        for i, line in enumerate(lines)
        if re.search(r"worker [01] has been silent for \d+ s", line)
    ]
    assert any(again[0] < index < again[-1] for index in silent), "\n".join(lines)
    assert largest_difference(weights(calm.storage, 60), weights(stormy.storage, 60)) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_stuck_more_often_than_it_may_ends_the_job_in_a_sentence(
    config, ray_local, monkeypatch, capsys
):
    """With a status that is not 0; the same training resumes afterwards."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "15")
    changes = {"num_workers": 1, "max_failures": 0, "save_every_steps": 1, "steps": 10**6}
    run = override(config, changes)
    stopped, lines = [], []

    def log(line):
        lines.append(line)
        if checkpoints.steps(run.storage) and not stopped:
            stopped.extend(training_workers())
            for worker in stopped:
                os.kill(worker, signal.SIGSTOP)

    with pytest.raises(SystemExit) as ended:
        run_job(lambda: train(run, log))
    assert ended.value.code == 1
    assert len(stopped) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: a worker of this training has not answered Ray for \d+ s, once", said)
    monkeypatch.delenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S")
    saved = checkpoints.steps(run.storage)[-1]
    again = train(override(run, {"steps": saved + 1}), lines.append)
    assert again.step == saved + 1
    assert any(f"resuming at step {saved}" in line for line in lines), lines


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_a_run_on_the_cluster_at_once(config, ray_local):
    """Starting again from the same checkpoint would end in the same way."""
    spoilt = override(config, {"num_workers": 2, "model.learning_rate": 1e10, "steps": 40})
    lines = []
    with pytest.raises(NonFiniteLossError, match=r"the loss '\w+' is not finite at step \d"):
        train(spoilt, lines.append)
    assert sum("resuming at step" in line for line in lines) == 0


def test_workers_that_start_drop_the_heartbeats_of_earlier_groups():
    monitor = HeartbeatMonitor()
    for group in ("first", "second", "second"):  # The last starts again in a trial's resources.
        monitor.reserve(group)
        assert not monitor.heartbeats
        assert monitor.reservation() == group
        for rank in (0, 1):
            monitor.record(rank, 0, "starting")
        assert set(monitor.heartbeats) == {0, 1}


def test_a_worker_is_named_by_what_it_did_last():
    beats = {
        0: Heartbeat(step=7, doing="taking a step", heard_s=99.0, since_s=90.0),
        1: Heartbeat(step=7, doing="waiting for a batch", heard_s=70.0, since_s=60.0),
    }
    [(name, sentence)] = diagnose(beats, now=100.0)
    assert name.startswith("silent 1 since ")
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

    upstream, shut, turned_away = 0, threading.Event(), []

    def handle(self):
        if self.shut.is_set():
            self.turned_away.append(self.client_address)
            if len(self.turned_away) == TURNED_AWAY:
                self.shut.clear()
            return
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
    """Put a gate before the store; once shut, it opens when it has turned away some."""
    Gate.upstream = int(s3_server["AWS_ENDPOINT_URL"].rpartition(":")[2])
    Gate.shut.clear()
    Gate.turned_away.clear()
    with Gatekeeper(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield Gate
        server.shutdown()


@pytest.mark.slow
def test_a_store_that_is_away_for_a_while_is_waited_for(config, finished, bucket, gate):
    remote = override(config, {"storage": f"{bucket}/run", "save_every_steps": 1})

    def shut_once(line):
        """With the first scores, which the saving thread reports before it continues."""
        if "validation" in line and not gate.turned_away:
            gate.shut.set()

    result = train(remote, shut_once)
    assert len(gate.turned_away) >= TURNED_AWAY
    assert result.step == 6
    assert checkpoints.steps(remote.storage) == [4, 5, 6]
    checkpoints.verify(checkpoints.step_location(remote.storage, 6))
    runs = (remote.storage, finished.config.storage)
    ours, theirs = (checkpoints.step_location(run, 6) for run in runs)
    predicted = [checkpoints.load_generator(location).generator for location in (ours, theirs)]
    image, mask = torch.rand(1, 3, 32, 32) * 2 - 1, torch.ones(1, 1, 32, 32)
    assert torch.equal(*(generator(image, mask).final for generator in predicted))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_nodes_that_go_and_come_change_nothing(config, tmp_path, quietly):
    """Two workers, one, two, one: the batches and so the updates are the same."""
    changes = {"num_workers": 2, "min_workers": 1, "steps": 10**6, "save_every_steps": 19}
    storm = override(config, {**changes, "storage": str(tmp_path / "storm")})
    (tmp_path / "config.json").write_text(to_json(storm))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("two_nodes.py")), tmp_path / "config.json"],
        capture_output=True,
        text=True,
        timeout=1100,
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
    warned = [line for line in said[: said.index("taken")] if "will be removed" in line]
    assert warned, done.stdout
    assert sum("resuming at step" in line for line in said) == 3, done.stdout
    [saved] = [line for line in said if "saved at step" in line]
    assert warned[0] in said[: said.index(saved)]
    assert said.index(saved) < said.index("taken")
    assert int(saved.rsplit(" ", 1)[1]) % 10 == 0
    resumed = [int(line.rsplit(" ", 1)[1]) for line in said if "resuming at step" in line]
    stormy = image_losses(storm)
    steps = max(stormy)
    assert steps > max(resumed)
    changes = {"storage": str(tmp_path / "alone"), "min_workers": 0, "num_workers": 0}
    alone = override(storm, {**changes, "steps": steps})
    other = override(alone, {"storage": str(tmp_path / "other"), "data.seed": 1})
    for run in (alone, other):
        train(run, quietly)
    # Sums over two workers round differently, and Adam makes that larger with every step, but far
    # from as large as what other samples cost: 3,000 times as much after 200 steps.
    calm, differing = image_losses(alone), image_losses(other)
    assert stormy.keys() == calm.keys() == set(range(2, steps + 1, 2))
    difference = statistics.median(abs(stormy[step] - calm[step]) for step in calm)
    of_other_samples = statistics.median(abs(differing[step] - calm[step]) for step in calm)
    assert difference < of_other_samples / 20, (steps, difference, of_other_samples)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_at_any_moment_costs_nothing(alone, ray_local, tmp_path, weights):
    """The same command again resumes from the newest intact checkpoint, to the same weights.

    The driver's Ray, which it has started, ends with it.
    """
    lost = override(alone, {"storage": str(tmp_path / "lost"), "num_workers": 1})
    file = tmp_path / "config.json"
    file.write_text(to_json(lost))
    program = (
        "import sys; from pathlib import Path; from infill.pipeline.cluster import connect\n"
        "from infill.pipeline.config import from_json\n"
        "from infill.pipeline.training import TrainConfig, train\n"
        "with connect(num_cpus=2):\n"
        "    train(from_json(TrainConfig, Path(sys.argv[1]).read_text()))\n"
    )
    moment = random.randrange(4, 40)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        while max(checkpoints.steps(lost.storage), default=0) < moment:
            assert driver.poll() is None
            time.sleep(0.003)
        driver.kill()
    lines = []
    train(lost, lines.append)
    [again] = [line for line in lines if "resuming at step" in line]
    assert int(again.rsplit(" ", 1)[1]) >= moment
    ours, theirs = weights(lost.storage, 60), weights(alone.storage, 60)
    for part, tensors in ours.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[part][name]), f"{part} {name}"


def test_workers_that_find_no_resources_are_reported(ray_local):
    """With the resources they need and those that are free; others' waiting does not count."""
    import ray
    from ray.util import placement_group, remove_placement_group

    def cpus():
        return ray.available_resources().get("CPU", 0.0)

    resources = {"CPU": 3.0}
    assert missing_resources(range(2, 4), resources) == ""
    group = placement_group([{"CPU": 3.0}] * 3)
    try:
        free, sentence = -1.0, ""
        while free != cpus():  # Earlier trainings give theirs back late.
            free, sentence = cpus(), missing_resources(range(2, 4), resources)
        assert sentence.startswith("waiting for resources: 3 workers need 3 CPU each")
        assert f"{free:g} CPU free; add nodes" in sentence
        assert missing_resources(range(2, 3), resources) == ""
        assert missing_resources(range(2, 4), {"CPU": 2.0}) == ""
    finally:
        remove_placement_group(group)
