import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from models.architecture import load
from pipeline import checkpoints
from pipeline.config import to_dict
from pipeline.serving.app import create_app
from pipeline.serving.model import Replica, ReplicaConfig, ServedModel
from pipeline.serving.work import AppConfig


def export_spn(folder, seed: int, **settings) -> ServedModel:
    """Write a tiny SPN with random weights and return how it is served."""
    torch.manual_seed(seed)
    architecture = load("spn")
    model = replace(architecture.config.tiny(), **settings)
    config = {"model": to_dict(model), "data": {"image_size_px": 64}}
    location = str(folder / f"step-{seed:09d}")
    networks = {"generator": architecture.generator(model).state_dict()}
    digest = checkpoints.export(location, networks, config, {"step": seed})
    return ServedModel(
        name="spn", reference="spn@champion", version=str(seed), digest=digest, location=location
    )


@pytest.fixture(scope="session")
def spn(tmp_path_factory) -> ServedModel:
    return export_spn(tmp_path_factory.mktemp("checkpoints"), 1)


@pytest.fixture(scope="session")
def newer_spn(tmp_path_factory) -> ServedModel:
    return export_spn(tmp_path_factory.mktemp("checkpoints"), 2)


@pytest.fixture
def replica(spn) -> Replica:
    """The real replica, in this process."""
    made = Replica(ReplicaConfig())
    made.reconfigure({"models": [vars(spn)]})
    return made


@pytest.fixture
def imaginative(tmp_path) -> Replica:
    """A replica whose model can fill one hole in several ways."""
    made = Replica(ReplicaConfig())
    made.reconfigure({"models": [vars(export_spn(tmp_path, 3, variant="probabilistic"))]})
    return made


class Make:
    """Pictures, holes and files of them."""

    @staticmethod
    def photograph(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
        """Draw uint8 [H, W, C] noise: no two neighbours are equal for long."""
        return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)

    @staticmethod
    def hole(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
        """Return bool [H, W], True in one rectangle."""
        hole = np.zeros((height, width), bool)
        hole[rows, columns] = True
        return hole

    @staticmethod
    def file(pixels: np.ndarray, form: str = "png", **options) -> bytes:
        """Encode [H, W] or [H, W, C], bool or uint8."""
        pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
        sink = io.BytesIO()
        picture = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        Image.fromarray(picture).save(sink, form, **options)
        return sink.getvalue()

    @staticmethod
    def pixels(data: bytes) -> np.ndarray:
        """Decode a file."""
        return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


@contextmanager
def serve(backend, config: AppConfig) -> Iterator[str]:
    """Serve an application over HTTP from this process and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = uvicorn.Config(
        create_app(backend, config), host="127.0.0.1", port=port, log_level="critical"
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
    """Return what serves an application while a block runs: a backend and a configuration."""
    return serve


LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Return what waits until something is true."""

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
    """Return what asks a service while a block runs: its address, a request, and callers."""
    return asking
