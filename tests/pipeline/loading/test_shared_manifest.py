"""A large manifest is one mapped file per node, whoever reads it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig, shared_manifest
from infill.pipeline.loading.shared_manifest import read_shared
from infill.pipeline.manifest import (
    SAMPLE_SCHEMA,
    Manifest,
    ShardRecord,
    read_manifest,
    write_manifest,
)

ROWS = 2_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the manifest of as many samples as Places2 has, without their shards."""
    folder = tmp_path_factory.mktemp("large")
    numbers = np.arange(ROWS)
    keys = pa.array([f"places/{number:08d}" for number in range(ROWS)])
    checksums = pa.array([f"{number * 2654435761:064x}" for number in range(ROWS)])
    columns = {
        "key": keys,
        "source": keys,
        "suffix": pa.array(np.full(ROWS, "jpg")),
        "shard": pa.array((numbers // 1000).astype(np.int32)),
        "offset": pa.array(numbers % 1000 * 40_960),
        "size": pa.array(np.full(ROWS, 40_000)),
        "sha256": checksums,
        "height_px": pa.array(np.full(ROWS, 256, np.int32)),
        "width_px": pa.array(np.full(ROWS, 256, np.int32)),
    }
    further = {one.name: pa.nulls(ROWS, one.type) for one in SAMPLE_SCHEMA}
    table = pa.table(further | columns, schema=SAMPLE_SCHEMA)
    records = [
        ShardRecord(name=f"shard-{shard:06d}.tar", samples=1000, size=41_000_000, sha256="0" * 64)
        for shard in range(ROWS // 1000)
    ]
    write_manifest(Manifest(location=str(folder), samples=table, shards=tuple(records)))
    return str(folder)


MEASUREMENT = """
import sys
from pathlib import Path

from infill.pipeline.loading import BatchConfig
from infill.pipeline.loading.dataset import InpaintingDataset
from infill.pipeline.loading.shared_manifest import read_shared
from infill.pipeline.manifest import read_manifest


def anonymous_bytes():
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    ]
    return int(line.split()[1]) * 1024


location, cache = sys.argv[1:]
config = BatchConfig(shards=location, image_size_px=256)
first = InpaintingDataset(config, read_shared(location, cache))
before = anonymous_bytes()
shared = InpaintingDataset(config, read_shared(location, cache))
assert shared.reader.key(1_234_567) == "places/01234567"
assert shared.reader.offsets[1_234_567] == 567 * 40_960
with_shared = anonymous_bytes()
own = InpaintingDataset(config, read_manifest(location))
assert own.reader.key(1_234_567) == shared.reader.key(1_234_567)
print(with_shared - before, anonymous_bytes() - with_shared)
"""
"""Prints the bytes that no file backs: of the mapped copy, then of one of the process's own.

A process of its own, because one that has freed memory before takes new tables from that. The first
data set is kept, so that the second cannot take its memory, but finds all libraries started.
"""


def test_two_million_samples_stay_in_the_mapped_file(large: str, tmp_path: Path) -> None:
    shared = read_shared(large, str(tmp_path))  # as the first worker of a node does
    words = [sys.executable, "-c", MEASUREMENT, large, str(tmp_path)]
    printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    of_shared, of_own = map(int, printed.split())
    whole = read_manifest(large)
    assert of_own > whole.samples.nbytes / 2
    assert of_shared < of_own / 10
    assert shared.samples.equals(whole.samples)
    assert replace(shared, samples=whole.samples, mapped="") == whole


def test_a_set_that_is_made_again_is_read_again(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_manifest, "LEAST_BYTES", 0)
    folder = tmp_path / "set"
    manifest = replace(read_manifest(shards), location=str(folder))
    write_manifest(manifest)
    assert len(read_shared(str(folder), str(tmp_path))) == len(manifest)
    write_manifest(replace(manifest, samples=manifest.samples.slice(0, 3)))
    assert len(read_shared(str(folder), str(tmp_path))) == 3
    (folder / "manifest.parquet").unlink()
    with pytest.raises(UserError, match="not a finished shard set"):
        read_shared(str(folder), str(tmp_path))


@pytest.mark.parametrize("loader", ["threads", "processes"])
def test_batches_of_a_mapped_manifest_are_the_same(
    loader: str,
    shards: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    take,
    assert_same,
) -> None:
    config = BatchConfig(
        shards=shards,
        batch_size=3,
        image_size_px=32,
        loader=loader,
        num_decode_workers=1,
        cache_folder=str(tmp_path),
    )
    expected = take(config, 2)
    monkeypatch.setattr(shared_manifest, "LEAST_BYTES", 0)
    assert_same(take(config, 2), expected)
    assert len(list((tmp_path / "manifests").glob("*.arrow"))) == 1
