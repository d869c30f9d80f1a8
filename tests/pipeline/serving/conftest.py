import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.registry import Lineage, RegistryConfig, register
from infill.pipeline.serving.config import ReplicaConfig, ServeConfig
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.door import bounded_protocol
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.deployment import start, stop
from infill.pipeline.serving.replica.replica import Replica


@pytest.fixture
def replica(spn) -> Replica:
    """The real replica, in this process."""
    made = Replica(ReplicaConfig())
    made.reconfigure({"models": [vars(spn)]})
    return made


@pytest.fixture
def imaginative(tmp_path, write_spn) -> Replica:
    """A replica whose model can fill one hole in several ways."""
    made = Replica(ReplicaConfig())
    model = write_spn(tmp_path, 3, variant="probabilistic")
    made.reconfigure({"models": [vars(model)]})
    return made


@contextmanager
def serve(backend, config: HttpConfig) -> Iterator[str]:
    """Serve an application over HTTP from this process and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = uvicorn.Config(
        create_app(backend, config),
        host="127.0.0.1",
        port=port,
        log_level="critical",
        http=bounded_protocol(config.limits),
        timeout_keep_alive=int(config.limits.idle_timeout_s) or 1,
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serving():
    """Return a context that serves an application, of a backend and a configuration."""
    return serve


LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Return a function that waits for a condition."""

    def wait(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG_S
        while not true():
            assert time.monotonic() < deadline, "never happened"
            time.sleep(0.05)

    return wait


@contextmanager
def asking(url: str, request: dict, callers: int = 1) -> Iterator[list[tuple[int, str]]]:
    """Ask for pictures all the while; give the answers' status and version so far."""
    answers, done = [], threading.Event()

    def load():
        with httpx.Client(timeout=LONG_S) as client:
            while not done.is_set():
                answer = client.post(f"{url}/v1/inpaint", **request)
                answers.append((answer.status_code, answer.headers.get("x-infill-model", "")[:5]))

    threads = [threading.Thread(target=load) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="session")
def under_load():
    """Return a context that loads a service, of its address, a request, and callers."""
    return asking


@pytest.fixture(scope="module")
def config(tmp_path_factory, migrated_database, spn) -> ServeConfig:
    """Return the configuration of an endpoint for the champion of a registry."""
    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(migrated_database, folder / "mlflow.db")
    registry = RegistryConfig(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )
    register(registry, spn.location, "spn", Lineage(configuration={}))
    return ServeConfig(
        model="spn@champion",
        port=0,
        registry=registry,
        cpus_per_replica=0.5,
        limits=LimitsConfig(max_pixels=1_000_000, max_waiting=16, request_timeout_s=15),
        tiling=TilingConfig(sides_px=(64, 128), least_crop_px=64),
    )


@pytest.fixture(scope="module")
def url(ray_local, config) -> Iterator[str]:
    """Serve on Ray while a module's tests run; give the address."""
    yield start(config)
    stop()


@pytest.fixture(scope="session")
def request_of(make) -> Callable[..., dict]:
    """Return what makes an image and a mask of a size into the files of a request."""

    def request(height: int = 60, width: int = 60, seed: int = 0) -> dict:
        rows, columns = slice(height // 3, height // 2), slice(width // 3, width // 2)
        image, hole = (
            make.photograph(height, width, seed=seed),
            make.hole(height, width, rows, columns),
        )
        return {"files": {"image": make.file(image), "mask": make.file(hole)}}

    return request
