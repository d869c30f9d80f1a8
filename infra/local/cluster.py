"""A cluster on one machine that behaves like one: `make cluster`, `make cluster-down`.

python infra/local/cluster.py up
source runs/cluster/environment
ray job submit --working-dir . -- python jobs/train_spn.py smoke
python infra/local/cluster.py down

It has three Ray nodes, a head without CPUs and two workers, each with its own ports and home, which
the others cannot see on systems with mount namespaces (``unshare``); the workers have the resources
"cpu" and "gpu-like". They share an S3 object store and an MLflow server, both of which lose their
data when they end. Those two and Ray's dashboard listen on 127.0.0.1; Ray's own ports listen on
Ray's default addresses and need a token. ``runs/cluster`` holds the state; ``down`` removes it.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node_processes import (
    HOST,
    MARK,
    empty_folder,
    environment_of,
    free_ports,
    hiding,
    inherited_environment,
    kill_process,
    marked_processes,
)

BUCKET = "infill"
HEAD, WORKERS = "head", ("cpu", "gpu-like")
LONGEST_START_S = 240.0
LONGEST_STOP_S = 20.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
    "RAY_JOB_STOP_WAIT_TIME_S": "30",  # An endpoint takes a moment to end.
    "RAY_agent_register_timeout_ms": "60000",  # A busy machine starts a node's agent slowly.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # Of generative AI's evaluations.
    "OMP_NUM_THREADS": "1",
}


class ClusterError(RuntimeError):
    """An error that the user has to correct, in one sentence."""


@dataclass
class LocalCluster:
    """The processes of one cluster, and the folder of its state."""

    folder: Path
    """Folder for logs, homes and the token; removed by :meth:`down`."""
    cpus_per_worker: int = 2
    object_store_bytes: int = 200_000_000
    host: str = HOST
    """Address of all parts without an address of their own."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Addresses of nodes on other hosts, by name."""
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Words before a node's command that run it on its host, by name."""
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Environment variables of one part, by name; "" applies to every part."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)
    """Processes started by this object, which are its children."""

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()

    # State.

    @property
    def book(self) -> Path:
        """File with ports, and process ids by name."""
        return self.folder / "cluster.json"

    @property
    def known(self) -> dict[str, Any]:
        """The contents of that file."""
        if not self.book.exists():
            return {"ports": {}, "processes": {}, "starts": {}}
        found: dict[str, Any] = json.loads(self.book.read_text())
        return found

    def running(self) -> list[int]:
        """Return the processes that carry this cluster's mark."""
        return [pid for pid, folder in marked_processes() if folder == str(self.folder)]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for shells that use the cluster, and for its nodes."""
        at = {name: f"http://{self.host}:{port}" for name, port in self.known["ports"].items()}
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_API_SERVER_ADDRESS": at["dashboard"],
            "AWS_ENDPOINT_URL": at["store"],
            "AWS_ACCESS_KEY_ID": "infill",
            "AWS_SECRET_ACCESS_KEY": (self.folder / "store-key").read_text(),
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": at["mlflow"],
        }

    # Up and down.

    def up(self, log: Callable[[str], None] = print) -> None:
        """Start everything, and return when jobs are accepted.

        Raises:
            ClusterError: if it runs already, or a part of it does not start.
        """
        if self.running():
            raise ClusterError(f"{self.folder} runs already; end it with: make cluster-down")
        self._require_own()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        names = ("gcs", "dashboard", "store", "mlflow")
        homes = Path(tempfile.mkdtemp(prefix="infill-"))  # Ray's sockets need a short path.
        for name in (HEAD, *WORKERS):
            (homes / name).mkdir()
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._remember(homes=str(homes), ports=ports, processes={}, starts={})
        for name in ("token", "store-key", "environment"):  # For their owner alone.
            (self.folder / name).touch(mode=0o600)
        for name in ("token", "store-key"):
            (self.folder / name).write_text(secrets.token_hex(32))
        try:
            self.start_store()
            self.start_mlflow()
            log(f"object store  s3://{BUCKET} at {self.environment['AWS_ENDPOINT_URL']}")
            log(f"MLflow        {self.environment['MLFLOW_TRACKING_URI']}")
            self.start_node(HEAD)
            for name in WORKERS:
                self.start_node(name)
            self.wait_for_nodes(1 + len(WORKERS))
        except BaseException:
            self.stop()
            raise
        lines = [f"export {name}={value}" for name, value in self.environment.items()]
        (self.folder / "environment").write_text("\n".join(lines) + "\n")
        log(f"Ray           {self.environment['RAY_API_SERVER_ADDRESS']}, 3 nodes")

    def down(self) -> None:
        """End every process and remove the folder.

        Raises:
            ClusterError: if the folder holds something else.
        """
        self._require_own()
        self.stop()
        for folder in (self.known.get("homes"), self.folder):
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """End every process; the logs stay."""
        for name in reversed(list(self.known["processes"])):
            self._signal(name, signal.SIGTERM)
        deadline = time.monotonic() + LONGEST_STOP_S
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in self.running():
            kill_process(pid)
        while self.running():
            time.sleep(0.1)
        for process in self.started:
            process.wait()

    def _require_own(self) -> None:
        """Refuse a folder that does not belong to a cluster, as it would be removed."""
        if self.folder.exists() and not self.book.exists() and any(self.folder.iterdir()):
            raise ClusterError(
                f"{self.folder} does not belong to a cluster and would be removed: choose another"
            )

    # Its parts.

    def start_node(self, name: str) -> None:
        """Start the head or a worker, with an empty disk as a new machine has.

        :meth:`wait_for_nodes` returns when it has joined.
        """
        ports = self.known["ports"]
        start = self.known["starts"].get(name, 0) + 1
        self._remember(starts=self.known["starts"] | {name: start})
        options = {
            "--num-cpus": str(0 if name == HEAD else self.cpus_per_worker),
            "--object-store-memory": str(self.object_store_bytes),
            "--resources": json.dumps({} if name == HEAD else {name: 1}),
            "--labels": f"infill={name},infill-start={start}",
            "--min-worker-port": "0",  # Any that is free: the nodes share an address.
            "--max-worker-port": "0",
        }
        named = ("--metrics-export-port", "--dashboard-agent-listen-port")
        options |= dict(zip(named, map(str, free_ports(2)), strict=True))
        where = {"--address": f"{self.address(HEAD)}:{ports['gcs']}"}
        if name == HEAD:
            where = {
                "--port": str(ports["gcs"]),
                "--dashboard-port": str(ports["dashboard"]),
                "--dashboard-host": self.host,
                "--ray-client-server-port": str(free_ports(1)[0]),
            }
            self._remember(ports=ports | {"agent": int(options["--dashboard-agent-listen-port"])})
        words = [f"{key}={value}" for key, value in {**options, **where}.items()]
        role = ["--head"] if name == HEAD else []
        home = self.home(name)
        empty_folder(home)
        others = [self.home(other) for other in (HEAD, *WORKERS) if other != name]
        address = f"--node-ip-address={self.address(name)}"
        command = [_beside("ray"), "start", "--block", address, *role, *words]
        before = [*self.before.get(name, ()), *hiding(others)]
        own = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR"), str(home))
        self._start(name, [*before, *command, f"--temp-dir={home}"], own, home)

    def address(self, name: str) -> str:
        """Return a node's own address.

        On Linux every node has one that only this machine reaches; Ray would replace 127.0.0.1,
        which it takes for a mistake, by an address that others reach too.
        """
        own = [HEAD, *WORKERS].index(name) + 1
        return self.addresses.get(name, f"127.0.1.{own}" if sys.platform == "linux" else self.host)

    def home(self, name: str) -> Path:
        """Return a node's own folder."""
        return Path(self.known["homes"], name)

    def wait_for_nodes(self, count: int) -> None:
        """Return when ``count`` nodes are alive and the head accepts jobs.

        A node whose Ray ends during its start, for example because a busy machine does not start
        its agent within half a minute, is started again, as Kubernetes restarts a container.

        Raises:
            ClusterError: if they are not in time, with the last lines of the logs.
        """
        deadline = time.monotonic() + LONGEST_START_S
        while not (len(self.alive()) == count and self._takes_jobs()):
            for name in self._ended():
                self.kill(name)
                self.start_node(name)
            if time.monotonic() > deadline:
                raise ClusterError(f"the nodes did not start in time:\n{self._last_words()}")
            time.sleep(0.3)

    def alive(self) -> list[str]:
        """Return the nodes that the head considers alive, by name.

        A restarted node counts once it has joined again: the head considers the former one alive
        until half a minute has passed without it.
        """
        summary = self.ask("/nodes?view=summary")
        nodes = summary["data"]["summary"] if summary else []
        labels = [n["raylet"].get("labels", {}) for n in nodes if n["raylet"]["state"] == "ALIVE"]
        starts = {name: str(start) for name, start in self.known["starts"].items()}
        return sorted(
            each["infill"]
            for each in labels
            if "infill" in each and each.get("infill-start") == starts[each["infill"]]
        )

    def _ended(self) -> list[str]:
        """Return the nodes whose Ray has ended by itself."""
        known, running = self.known["processes"], self.running()
        return [name for name in (HEAD, *WORKERS) if name in known and known[name] not in running]

    def kill(self, name: str) -> None:
        """End a part as a power cut does: all of its processes at once."""
        others = {key: pid for key, pid in self.known["processes"].items() if key != name}
        self._remember(processes=others)
        while parts := self.processes(name):
            for pid in parts:
                kill_process(pid)
        for process in self.started:
            process.poll()  # Ended processes leave the process table.

    def processes(self, name: str) -> list[int]:
        """Return the processes of one part: a node, "store" or "mlflow"."""
        return [pid for pid in self.running() if environment_of(pid).get(f"{MARK}_PART") == name]

    def start_store(self) -> None:
        """Start the object store with an empty bucket, and return when it answers."""
        environment = self.environment
        port = str(self.known["ports"]["store"])
        self._start("store", [_beside("moto_server"), "-H", self.host, "-p", port])
        _wait_for(f"{environment['AWS_ENDPOINT_URL']}/moto-api/", self._last_words)
        _make_bucket(environment)

    def start_mlflow(self) -> None:
        """Start MLflow's server on its database, and return when it answers."""
        port = str(self.known["ports"]["mlflow"])
        database = f"sqlite:///{self.folder / 'mlflow.db'}"
        where = ["--host", self.host, "--port", port, "--workers", "1"]
        kept = ["--backend-store-uri", database, "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        self._start("mlflow", [_beside("mlflow"), "server", *where, *kept])
        _wait_for(f"{self.environment['MLFLOW_TRACKING_URI']}/health", self._last_words)

    def _start(
        self,
        name: str,
        command: Sequence[str],
        changes: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder or self.folder,
                env={
                    **inherited_environment(),
                    **QUIET,
                    **self.environment,
                    **(changes or {}),
                    **self.settings.get("", {}),
                    **self.settings.get(name, {}),
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    MARK: str(self.folder),
                    f"{MARK}_PART": name,
                },
            )
        self.started.append(process)
        self._remember(processes=self.known["processes"] | {name: process.pid})

    def _remember(self, **facts: Any) -> None:
        aside = self.book.with_suffix(".part")
        aside.write_text(json.dumps({**self.known, **facts}, indent=2))
        aside.replace(self.book)

    def _signal(self, name: str, number: int) -> None:
        pid = self.known["processes"][name]
        if pid in self.running():  # Its number may be another process's by now.
            os.kill(pid, number)

    def _takes_jobs(self) -> bool:
        try:
            url = f"http://{self.host}:{self.known['ports']['agent']}/api/local_raylet_healthz"
            urllib.request.urlopen(self._request(url), timeout=5).close()
        except OSError:
            return False
        return True

    def ask(self, path: str, body: Any = None) -> Any:
        """Return the response of the head's dashboard, None if there is none.

        Args:
            path: path of its API, such as ``/api/jobs/``.
            body: sent as JSON, by POST; None sends a GET.
        """
        request = self._request(self.environment["RAY_API_SERVER_ADDRESS"] + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def _request(self, url: str) -> urllib.request.Request:
        token = (self.folder / "token").read_text()
        return urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})

    def _last_words(self) -> str:
        parts = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"{part.name}: {part.read_text()[-600:]}" for part in parts)


def _beside(name: str) -> str:
    """Return a command of this environment.

    Raises:
        ClusterError: if it is not installed.
    """
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        raise ClusterError(f"{name} is not installed: pip install -e '.[cluster]'")
    return str(found)


def _make_bucket(environment: Mapping[str, str]) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket=BUCKET)


def _wait_for(url: str, last_words: Callable[[], str]) -> None:
    deadline = time.monotonic() + LONGEST_START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"nothing answers at {url}:\n{last_words()}") from error
            time.sleep(0.2)


def main() -> int:
    """Start or end the cluster of this folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--folder", type=Path, default=Path("runs/cluster"))
    words = parser.parse_args()
    cluster = LocalCluster(words.folder)
    try:
        if words.what == "down":
            cluster.down()
            print(f"nothing of {words.folder} is left")
            return 0
        cluster.up()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nsource {words.folder}/environment   # then: ray job submit ..., docs/cluster.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
