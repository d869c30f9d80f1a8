"""A test set of eight small images and an untrained network, for the evaluation's tests."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.architecture import load
from pipeline import checkpoints
from pipeline.batches import BatchConfig
from pipeline.config import to_dict
from pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord
from pipeline.shards import ShardConfig, make_shards

SIDE = 48


def write_checkpoint(location: str, seed: int) -> str:
    torch.manual_seed(seed)
    architecture = load("spn")
    config = architecture.config.tiny()
    values = {"model": to_dict(config), "data": to_dict(BatchConfig(image_size_px=SIDE))}
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


@pytest.fixture
def listed() -> Manifest:
    """A manifest of twelve images of six photographs that are nowhere to be read."""
    count = 12
    columns = {
        "key": [f"sample{n:02d}" for n in range(count)],
        "source": [f"photograph{n // 2}.jpg" for n in range(count)],
        "suffix": ["png"] * count,
        "shard": [0] * count,
        "offset": [n * 1024 for n in range(count)],
        "size": [1000] * count,
        "sha256": ["0" * 64] * count,
        "height_px": np.full(count, 64),
        "width_px": [64 + n for n in range(count)],
    }
    record = ShardRecord(name="shard-000000.tar", samples=count, size=20_480, sha256="0" * 64)
    samples = pa.table(columns, schema=SAMPLE_SCHEMA)
    return Manifest(location="/nowhere", samples=samples, shards=(record,))
