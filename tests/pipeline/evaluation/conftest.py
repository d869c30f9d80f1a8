"""A listed test set that is nowhere to be read, for the evaluation's tests."""

import numpy as np
import pyarrow as pa
import pytest

from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord


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
