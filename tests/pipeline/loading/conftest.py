"""Shard sets of small photographs, written with the standard library alone."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from infill.models.architecture import Batch
from infill.pipeline import storage
from infill.pipeline.loading import BatchConfig, BatchStream
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord, write_manifest


@pytest.fixture(scope="session")
def write_set() -> Callable[..., str]:
    """Return a function that writes encoded images as a shard set."""
    return _write_set


def _write_set(folder: Path, pictures: list[bytes], per_shard: int) -> str:
    """Write encoded pictures as a shard set, with the standard library alone."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, records = [], []
    for shard, first in enumerate(range(0, len(pictures), per_shard)):
        path = folder / f"shard-{shard:05d}.tar"
        group = pictures[first : first + per_shard]
        with tarfile.open(path, "w") as tar:
            for index, data in enumerate(group, start=first):
                member = tarfile.TarInfo(f"p{index:03d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        with tarfile.open(path) as tar:
            for index, member in enumerate(tar.getmembers(), start=first):
                height, width = cv2.imdecode(np.frombuffer(pictures[index], np.uint8), 1).shape[:2]
                rows.append(
                    {
                        "key": f"p{index:03d}",
                        "source": f"{index}.jpg",
                        "suffix": "jpg",
                        "shard": shard,
                        "offset": member.offset_data,
                        "size": member.size,
                        "sha256": storage.sha256(pictures[index]),
                        "height_px": height,
                        "width_px": width,
                    }
                )
        data = path.read_bytes()
        records.append(
            ShardRecord(
                name=path.name, samples=len(group), size=len(data), sha256=storage.sha256(data)
            )
        )
    table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    write_manifest(Manifest(location=str(folder), samples=table, shards=tuple(records)))
    return str(folder)


@pytest.fixture(scope="session")
def take() -> Callable[..., list[Batch]]:
    """Return a function that takes the first batches of a stream."""
    return _take


def _take(config: BatchConfig, steps: int, **place: int) -> list[Batch]:
    with BatchStream(config, **place) as stream:
        return [next(stream) for _ in range(steps)]


@pytest.fixture(scope="module")
def pictures(photographs: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(photographs).glob("*.jpg"))]


@pytest.fixture(scope="module")
def shards(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    return _write_set(tmp_path_factory.mktemp("set"), pictures, per_shard=3)


@pytest.fixture(scope="session")
def assert_same() -> Callable[[list[Batch], list[Batch]], None]:
    """Return a function that compares batches to the bit."""
    return _assert_same


def _assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert (one.keys, one.mask_ids) == (other.keys, other.mask_ids)
        assert (one.step, one.seed) == (other.step, other.seed)
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.mask, other.mask)
