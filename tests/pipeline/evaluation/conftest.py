"""A listed test set that is nowhere to be read, for the evaluation's tests."""

import pyarrow as pa
import pytest

from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord


@pytest.fixture
def listed() -> Manifest:
    """A manifest of twelve images of six photographs that are nowhere to be read."""
    count = 12
    rows = [
        {
            "key": f"sample{n:02d}",
            "source": f"photograph{n // 2}.jpg",
            "suffix": "png",
            "shard": 0,
            "offset": n * 1024,
            "size": 1000,
            "sha256": "0" * 64,
            "height_px": 64,
            "width_px": 64 + n,
        }
        for n in range(count)
    ]
    record = ShardRecord(name="shard-000000.tar", samples=count, size=20_480, sha256="0" * 64)
    samples = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    return Manifest(location="/nowhere", samples=samples, shards=(record,))
