"""Bytes of samples: damaged samples are named, remote shards are copied once."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig, BatchStream, load_sample, shard_reader
from infill.pipeline.loading.shard_reader import ShardCache
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, read_manifest, write_manifest
from infill.pipeline.masks import MaskConfig

SMALL = {"image_size_px": 32, "batch_size": 6, "masks": MaskConfig(recipe="box"), "seed": 3}


def test_truncated_shard_names_shard_and_key(
    pictures: list[bytes],
    tmp_path: Path,
    write_set,
    take,
) -> None:
    broken = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    os.truncate(broken, len(pictures[0]) + 700)
    with pytest.raises(UserError, match=r"'p00[12]' in shard .*shard-00000.tar is damaged.*ends"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_missing_shard_is_named(
    pictures: list[bytes],
    tmp_path: Path,
    write_set,
    take,
) -> None:
    write_set(tmp_path, pictures[:4], per_shard=2)
    (tmp_path / "shard-00001.tar").unlink()
    with pytest.raises(UserError, match="shard-00001.tar is missing"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_overwritten_image_is_noticed(
    pictures: list[bytes],
    tmp_path: Path,
    write_set,
    take,
) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    manifest = read_manifest(str(tmp_path))
    row = manifest.row(1)
    data = bytearray(path.read_bytes())
    data[row["offset"] : row["offset"] + 200] = b"\0" * 200
    path.write_bytes(data)
    with pytest.raises(UserError, match="'p001'.*not an image"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_changed_bits_are_noticed_by_checksum(
    pictures: list[bytes],
    tmp_path: Path,
    write_set,
    take,
) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    row = read_manifest(str(tmp_path)).row(2)
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="'p002'.*SHA-256"):
        take(BatchConfig(shards=str(tmp_path), verify_checksums=True, **SMALL), 1)
    with pytest.raises(UserError, match="SHA-256"):
        load_sample(read_manifest(str(tmp_path)), 2, 32)


def test_image_of_another_size_than_the_manifest_says_is_noticed(
    pictures: list[bytes],
    tmp_path: Path,
    write_set,
    take,
) -> None:
    write_set(tmp_path, pictures[:2], per_shard=2)
    manifest = read_manifest(str(tmp_path))
    rows = [{**manifest.row(index), "width_px": 127} for index in range(2)]
    table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    write_manifest(replace(manifest, samples=table))
    with pytest.raises(UserError, match="is 128x96 px, the manifest says 127x96"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_unfinished_and_empty_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished shard set"):
        BatchStream(BatchConfig(shards=str(tmp_path)))
    empty = pa.Table.from_pylist([], schema=SAMPLE_SCHEMA)
    write_manifest(Manifest(location=str(tmp_path), samples=empty, shards=()))
    with pytest.raises(UserError, match="holds no samples"):
        BatchStream(BatchConfig(shards=str(tmp_path)))
    write_manifest(Manifest(location=str(tmp_path / "sets/test"), samples=empty, shards=()))
    with pytest.raises(UserError, match=r"name one of the sets in it: \S+/test$"):
        read_manifest(str(tmp_path / "sets"))


def test_cached_shard_is_copied_once_verified_and_evicted(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    sizes = [record.size for record in manifest.shards]
    cache = ShardCache(str(tmp_path), max_bytes=sizes[0] + sizes[1])
    locations = [manifest.shard_location(shard) for shard in range(3)]
    first = cache.path(locations[0], manifest.shards[0])
    assert first.read_bytes() == Path(locations[0]).read_bytes()
    stamp = first.stat().st_ino
    cache.path(locations[1], manifest.shards[1])
    assert cache.path(locations[0], manifest.shards[0]).stat().st_ino == stamp
    cache.path(locations[2], manifest.shards[2])  # no room for three: the second is the oldest
    kept = {path.name for path in tmp_path.glob("*.tar")}
    assert kept == {f"{manifest.shards[i].sha256}.tar" for i in (0, 2)}


def test_copy_with_another_checksum_is_never_kept(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    wrong = replace(manifest.shards[0], sha256="0" * 64)
    with pytest.raises(UserError, match="its manifest says 0000"):
        ShardCache(str(tmp_path), 10**9).path(manifest.shard_location(0), wrong)
    assert not list(tmp_path.glob("*.tar"))
    assert not list(tmp_path.glob("_tmp-*"))


def test_remote_shards_give_the_same_batches_from_one_download_per_node(
    shards: str, tmp_path: Path, s3_server: dict[str, str], take, assert_same
) -> None:
    storage_client = boto3.client("s3")
    storage_client.create_bucket(Bucket="photographs")
    for path in Path(shards).iterdir():
        storage_client.upload_file(str(path), "photographs", f"set/{path.name}")
    config = BatchConfig(shards=shards, **SMALL)
    remote = replace(config, shards="s3://photographs/set", cache_folder=str(tmp_path))
    assert_same(take(remote, 3), take(config, 3))
    kept = {path.name: path.stat().st_ino for path in tmp_path.glob("*.tar")}
    assert len(kept) == 3
    for record in read_manifest(shards).shards:
        storage_client.delete_object(Bucket="photographs", Key=f"set/{record.name}")
    assert_same(take(remote, 2, rank=1, world_size=2), take(config, 2, rank=1, world_size=2))
    assert {path.name: path.stat().st_ino for path in tmp_path.glob("*.tar")} == kept


def test_processes_that_want_a_shard_at_once_download_it_once(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(shards)
    copies = []
    copy = shard_reader._copy
    monkeypatch.setattr(shard_reader, "_copy", lambda *a: copies.append(a) or copy(*a))
    cache = ShardCache(str(tmp_path), 10**9)
    location, record = manifest.shard_location(0), manifest.shards[0]
    with ThreadPoolExecutor(8) as pool:  # a lock on a file opened anew holds between threads, too
        paths = set(pool.map(lambda _: cache.path(location, record), range(8)))
    assert len(paths) == 1
    assert len(copies) == 1
