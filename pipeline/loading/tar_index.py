"""Index WebDataset tars, so that their samples are found by row as those of a shard set.

Evaluation and validation need a list of the images and their sizes. The tars are read once to make
this index; it is kept beside the cached shards, by the tars' names, sizes and times.
"""

import json
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from infill.pipeline import manifest as manifests
from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import RejectedError, read_header
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.shard_reader import ShardCache
from infill.pipeline.loading.tar_names import (
    MEMBER_FLAG,
    expand,
    image_of,
    key_of,
    missing,
    names_tars,
    no_image,
    packed,
    parts_of,
    repeated,
)
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, Quarantined, ShardRecord
from infill.pipeline.tar_reader import GZIP, is_compressed, open_tar

FORMAT = 3
"""Version of the index's format; indexes of other versions are made again."""
MOST_NAMED = 10


def open_set(
    location: str, data: BatchConfig | None = None, member_flag: str = MEMBER_FLAG
) -> Manifest:
    """Return the manifest of a shard set, or an index of WebDataset tars as one.

    Args:
        location: a finished shard set, or tars by name, such as ``s3://bucket/{00000..01023}.tar``.
        data: ``image_member``, and the folder of the cache.
        member_flag: the flag that the job has for ``image_member``, for messages.

    Raises:
        UserError: if the location holds no finished set, or a tar is missing, damaged or without
            images.
    """
    if not names_tars(location):
        return manifests.read_manifest(location)
    data = data or BatchConfig()
    tars = expand(location)
    folder = posixpath.commonpath([posixpath.dirname(tar) for tar in tars])
    folder = folder.replace(":/", "://", 1) if storage.is_remote(tars[0]) else folder
    name = f"{_identity(tars, data.image_member)}.parquet"
    kept = Path(storage.absolute(data.cache_folder), "indexes", name)
    if kept.exists():
        return manifests.parse(kept.read_bytes(), folder, str(kept))
    cache = ShardCache(data.cache_folder, int(data.cache_size_gb * 1e9))
    rows, records = [], []
    quarantined: list[Quarantined] = []
    times = Counter[str]()
    for shard, tar in enumerate(tars):
        path, digest, size = _local(tar, cache)
        images = _images(path, tar, data.image_member, member_flag, times, quarantined)
        found = [*images]
        rows += [{**row, "shard": shard} for row in found]
        record = tar.removeprefix(folder).lstrip("/")
        records.append(ShardRecord(name=record, samples=len(found), size=size, sha256=digest))
    if not rows:
        raise no_image(location, data.image_member, len(quarantined))
    index = Manifest(
        location=folder,
        samples=pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA),
        shards=tuple(records),
        quarantined=tuple(quarantined),
        settings={"webdataset": location},
    )
    storage.write(str(kept), manifests.serialize(index))
    return index


def left_out(manifest: Manifest) -> list[str]:
    """Return a line for each unreadable image of indexed tars; sharding has reported its own."""
    if not manifest.quarantined or "webdataset" not in manifest.settings:
        return []
    images = manifest.quarantined
    lines = [f"left out: {image.source}: {image.reason}" for image in images[:MOST_NAMED]]
    if len(images) > MOST_NAMED:
        lines.append(
            f"left out: {len(images)} in all; `python jobs/make_shards.py` names every one"
        )
    return lines


def set_digest(location: str) -> str:
    """Return the identity of a training set: its manifest's digest, or that of its tars' names."""
    if names_tars(location):
        return storage.sha256(json.dumps(expand(location)).encode())
    return manifests.read_manifest(location).digest


def _unique(key: str, times: Counter[str]) -> str:
    """Return a key, the second time as ``key~2``: tars of two folders may have the same names."""
    times[key] += 1
    return key if times[key] == 1 else f"{key}~{times[key]}"


def _identity(tars: list[str], image_member: str) -> str:
    facts: list[object] = [FORMAT, image_member]
    for tar in tars:
        info = storage.info(tar)
        if info.type != fs.FileType.File:
            raise missing(tar)
        facts.append([tar, info.size, info.mtime_ns])
    return storage.sha256(json.dumps(facts).encode())


def _local(tar: str, cache: ShardCache) -> tuple[Path, str, int]:
    """Return the path on this machine of a tar, decompressed, its SHA-256 and its size in bytes."""
    if storage.is_remote(tar) or is_compressed(tar):
        path, digest = cache.fetch(tar)
    else:
        path, digest = Path(tar), storage.digest_of(tar)
    return path, digest, path.stat().st_size


def _images(
    path: Path,
    tar: str,
    image_member: str,
    member_flag: str,
    times: Counter[str],
    quarantined: list[Quarantined],
) -> Iterator[dict[str, object]]:
    """Yield the row of every image in a tar, without its shard."""
    try:
        _require_whole(path, tar)
        for sample, members in _samples(path, tar):
            for ending in image_of(sample, [*members], image_member, tar, member_flag):
                offset, size = members[ending]
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(size)
                key = _unique(key_of(tar, sample, ending), times)
                try:
                    header = read_header(data)
                except RejectedError as error:
                    quarantined.append(Quarantined(source=key, reason=str(error)))
                    continue
                yield {
                    "key": key,
                    "source": f"{key}.{ending.rpartition('.')[2]}",
                    "suffix": ending.rpartition(".")[2] if header.plain else "",
                    "offset": offset,
                    "size": size,
                    "sha256": storage.sha256(data),
                    "height_px": header.height_px,
                    "width_px": header.width_px,
                }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{tar} is not a complete tar: {error}; copy or make it again") from error


def _require_whole(path: Path, tar: str) -> None:
    """Refuse a tar without the empty block at its end: tarfile accepts truncated tars."""
    with path.open("rb") as file:
        if file.read(len(GZIP)) == GZIP:
            raise packed(tar)
        file.seek(-min(tarfile.BLOCKSIZE, path.stat().st_size), os.SEEK_END)
        if any(file.read()) or not path.stat().st_size:
            raise EOFError("it is truncated: its last block is not empty")


def _samples(path: Path, tar_name: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yield each sample's name, and offset and size of its members by their lower-case endings."""
    current, members = "", dict[str, tuple[int, int]]()
    with path.open("rb") as file, open_tar(file) as tar:
        for member in tar:
            sample, ending = parts_of(member.name)
            if not member.isreg() or not sample:
                continue
            if sample != current and members:
                yield current, members
                members = {}
            current = sample
            if ending in members:
                raise repeated(tar_name, member.name)
            members[ending] = member.offset_data, member.size
    if members:
        yield current, members
