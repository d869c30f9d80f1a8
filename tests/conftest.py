"""Fixtures that several packages' tests share."""

import fcntl
import gc
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="60",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
    RAY_TRAIN_METRICS_ENABLED="0",
    RAY_SERVE_LOG_TO_STDERR="0",
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60",
    RAY_DEDUP_LOGS="0",
    RAY_worker_niceness="0",  # Not 15, by which other work on the machine starves them.
    RAY_COLOR_PREFIX="0",
    RAY_SCHEDULER_EVENTS="0",
    RAY_TQDM_PATCH_PRINT="0",
    NO_ALBUMENTATIONS_UPDATE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    OMP_NUM_THREADS="1",
    AWS_ACCESS_KEY_ID="test",  # Of the tests' own object stores, for the workers of their Ray.
    AWS_SECRET_ACCESS_KEY="test",
    AWS_DEFAULT_REGION="us-east-1",
)
# Before the first import of the libraries that read them.

import numpy as np
import pytest

from infill.pipeline.cluster import start_ray
from infill.pipeline.serving.replica.deployment import direct_ingress

# A shell's background job ignores Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).parents[1]
ONE_CLUSTER = (
    "tests/drills/test_training_drills.py",
    "tests/drills/test_head_drill.py",
    "tests/drills/test_partition_drill.py",
)
"""Files that share a cluster of three nodes, so that one test process takes them all."""
LONGEST = (
    *ONE_CLUSTER,
    "tests/pipeline/serving/test_soak.py",
    "tests/test_docs.py",
    "tests/benchmarks/test_gpu_bench.py",
    "tests/pipeline/test_attempts.py",
    "tests/pipeline/test_store_outages.py",
    "tests/infra/test_local.py",
    "tests/infra/test_shared_folders.py",
    "tests/pipeline/test_head_process.py",
    "tests/jobs/test_demo.py",
    "tests/drills/test_disk_drill.py",
    "tests/pipeline/tuning/test_tuner.py",
    "tests/pipeline/serving/test_deployment_faults.py",
    "tests/pipeline/training/test_failures.py",
    "tests/pipeline/batch_inference/test_shards.py",
    "tests/jobs/test_noise.py",
    "tests/pipeline/training/test_stopping.py",
    "tests/pipeline/sharding/test_interruptions.py",
    "tests/test_notebook.py",
    "tests/jobs/test_import_weights.py",
)
"""Files that start first, in this order, those of `make test-cluster` before those of `make test`.

The first three run beside each other: drills, the soak of ten minutes, and the pages' commands. The
fourth is a short one, since xdist queues it in the process of the soak, a single test.
"""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank_of(item: pytest.Item) -> tuple[int, bool]:
        named = (rank for rank, name in enumerate(LONGEST) if item.nodeid.startswith(name))
        return next(named, len(LONGEST)), item.path not in slow

    items.sort(key=rank_of)


def pytest_collection() -> None:
    """Import the tests without the garbage collector, which takes a quarter of that time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of the garbage collector's scans, a million objects."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal tests to processes by file, and the files of one cluster together."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = nodeid.startswith(ONE_CLUSTER)
            return ONE_CLUSTER[0] if shared else super()._split_scope(nodeid)

        def _reschedule(self, node: Any) -> None:
            """Leave a file to whichever process is free, not behind a test of ten minutes.

            A process begins a test when it knows the next, so that it has one in advance.
            """
            if not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
                super()._reschedule(node)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how long each failure drill took, from the reports of whichever process ran it."""
    reports = terminalreporter.stats.get("passed", ())
    found = [
        value for report in reports for name, value in report.user_properties if name == "drill"
    ]
    if found:
        terminalreporter.write_sep("-", "failure drills")
    for line in found:
        terminalreporter.write_line(line)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def on_terminal() -> Callable[..., tuple[int, str]]:
    """Run a command on a terminal of its own; press Ctrl-C there once it is ready for that.

    The function takes the command, a function of what it has printed that returns whether it is
    ready, and its folder. It returns the status and what was printed.
    """

    def run(
        command: Sequence[str | Path], ready: Callable[[bytes], bool], folder: Path
    ) -> tuple[int, str]:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=folder,
            env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(follower)
        printed, pressed = b"", False
        while True:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    printed += os.read(leader, 65536)
                except OSError:  # The last process has left the terminal.
                    break
            if not pressed and ready(printed):
                pressed = True
                os.write(leader, b"\x03")
        os.close(leader)
        return process.wait(), printed.decode(errors="replace")

    return run


def _take_terminal() -> None:
    """Make standard input the terminal that this session's Ctrl-C comes from."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(scope="session")
def ray_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a Ray of the tests' own, without dashboard; it serves as jobs/serve.py's own does.

    Nor does it measure itself, which nobody reads here, all the while that tests run.
    """
    os.environ.update(direct_ingress(free_port()))
    import ray

    shared = tmp_path_factory.getbasetemp().parent
    with open(shared / "ray.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # One of several test processes at a time.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REPORTER_UPDATE_INTERVAL_MS", "600000")
            start_ray(
                address="local",
                num_cpus=4,
                object_store_memory=150 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _system_config={"enable_metrics_collection": False},
            )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a Chromium without a window, the one that ``make test`` has found or installed.

    For one module: while it runs, so does an event loop, which others could not start.
    """
    from playwright.sync_api import sync_playwright

    found = Path(sys.prefix, "browser")
    place = found.read_text().strip() if found.exists() else shutil.which("chromium")
    own = None if place in (None, "playwright") else place
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        yield browser
        browser.close()


WIDTHS = (1440, 1280, 390)
"""Widths of windows in pixels: two common screens and a phone."""
OVERFLOW = """() => {
  const cut = [...document.querySelectorAll('.table, table, pre, img, form, section, main')]
    .filter(e => innerWidth >= 1280 && e.scrollWidth > e.clientWidth + 1 && e.clientWidth);
  const hidden = [...document.querySelectorAll('.table tbody tr:first-child > :nth-child(2)')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  const squeezed = [...document.querySelectorAll('.table th:first-child')]
    .filter(e => e.innerText.length > 8 && e.getBoundingClientRect().width < 56);
  const page = document.documentElement.scrollWidth > innerWidth ? ['the page itself'] : [];
  const all = [...document.querySelectorAll('body *')];
  const wide = !page.length ? [] : all
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .filter(e => !e.closest('.table, .picture'));
  const shown = e => `${e.tagName}.${e.className}: ${e.innerText}`.slice(0, 200);
  return page.concat([...cut, ...hidden, ...squeezed, ...wide].map(shown));
}"""
"""Finds elements that a window cuts off; on a phone a table may scroll by itself."""


@pytest.fixture
def require_fit(browser: Any) -> Callable[[str], None]:
    """Yield a function that opens a page, and fails if a window cuts it off."""

    def require(address: str) -> None:
        address = address if "://" in address else Path(address).as_uri()
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(address)
            found = page.evaluate(OVERFLOW)
            page.close()
            assert not found, f"{address} at {width} px: {found}"

    return require


ONE_AFTER_THE_OTHER = """
import json, runpy, sys
for line in sys.stdin:
    sys.argv = json.loads(line)
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code or 0
    print("ended:", status, flush=True)
"""


@pytest.fixture
def jobs_in_one_process(
    tmp_path: Path,
) -> Iterator[Callable[..., Callable[[Sequence[str]], tuple[int, str]]]]:
    """Yield a function that starts a process in the test's folder for jobs one after the other.

    It imports everything once; a process for each job takes twice as long. The function takes the
    process's environment and returns another, which runs a job to its end: it takes the program and
    its words, and returns the status and what was printed.
    """
    with ExitStack() as stack:

        def start(environment: Mapping[str, str]) -> Callable[[Sequence[str]], tuple[int, str]]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ONE_AFTER_THE_OTHER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=tmp_path,
                    env=environment,
                    text=True,
                )
            )
            assert process.stdin
            assert process.stdout
            words_to, lines_from = process.stdin, process.stdout

            def run(words: Sequence[str]) -> tuple[int, str]:
                words_to.write(f"{json.dumps(words)}\n")
                words_to.flush()
                printed = ""
                for line in lines_from:
                    if line.startswith("ended: "):
                        return int(line.split()[1]), printed
                    printed += line
                raise AssertionError(f"the process ended with {process.wait()}: {printed}")

            return run

        yield start


@pytest.fixture(scope="session")
def in_one_shell() -> Callable[[Sequence[str], Path, Mapping[str, str]], str]:
    """Yield a function that runs commands one after the other in a folder, as a user types them.

    The first that fails ends it, and the test. Returns what they have said.
    """

    def run(commands: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", "\n".join(commands)],
            cwd=folder,
            env={**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1400,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make MLflow's empty SQLite database once; a copy costs no second of migrations."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write eight small colourful JPEG pictures into a folder and return its path."""
    import cv2

    folder = tmp_path_factory.mktemp("photographs")
    rows, columns = np.mgrid[0:96, 0:128].astype(np.float64)
    for index in range(8):
        phase = index * 0.7
        channels = [
            127 + 80 * np.sin(rows / (9 + index) + phase) + 40 * np.cos(columns / (7 + c) + c)
            for c in range(3)
        ]
        picture = np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
        cv2.circle(picture, (20 + 12 * index, 40), 14, (30 * index, 255 - 30 * index, 128), -1)
        cv2.imwrite(str(folder / f"picture{index}.jpg"), picture)
    return str(folder)


@pytest.fixture(scope="session")
def shards(photographs: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shard the eight pictures, cut into crops of 48 px, into train, val and test."""
    from infill.pipeline.sharding import ShardConfig, make_shards

    out = str(tmp_path_factory.mktemp("shards"))
    config = ShardConfig(
        source=photographs,
        out=out,
        crop_size_px=48,
        min_side_px=48,
        photographs_per_shard=3,
        val_share=0.2,
        test_share=0.2,
    )
    make_shards(config, report=lambda line: None)
    return out
