"""One copy of a large manifest per node: all processes map the same file.

Two million samples take 285 MiB, and a node of eight GPUs has dozens of processes that need them.
The first process writes them as an Arrow file into the node's cache; every process maps it, and
holds the pages that it reads, which the system shares.
"""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from infill.pipeline import manifest as manifests
from infill.pipeline import storage
from infill.pipeline.loading.shard_reader import locked
from infill.pipeline.manifest import FILE_NAME, FORMAT, Manifest
from infill.pipeline.temporary_folders import temporary_file

LEAST_BYTES = 2**22
"""Size from which a manifest is mapped; smaller ones are held in memory."""
MOST_KEPT = 8
"""Number of manifests that a cache keeps."""


def read_shared(location: str, cache_folder: str) -> Manifest:
    """Read a shard set's manifest, from the node's mapped copy if it is large.

    Args:
        location: the set's folder or s3:// prefix.
        cache_folder: the node's cache.

    Raises:
        UserError: as :func:`infill.pipeline.manifest.read_manifest`.
    """
    location = storage.absolute(location)
    info = storage.info(storage.join(location, FILE_NAME))
    if info.type != fs.FileType.File or info.size < LEAST_BYTES:
        return manifests.read_manifest(location)
    folder = Path(storage.absolute(cache_folder), "manifests")
    folder.mkdir(parents=True, exist_ok=True)
    identity = f"{FORMAT} {location} {info.size} {info.mtime_ns}"
    kept = folder / f"{storage.sha256(identity.encode())}.arrow"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            _write(manifests.read_manifest(location), kept)
        os.utime(kept)
        samples = pa.ipc.open_file(pa.memory_map(str(kept))).read_all()
    return replace(manifests.from_table(samples, location), mapped=str(kept))


def _write(manifest: Manifest, kept: Path) -> None:
    """Write a manifest as an Arrow file of one piece, and delete the oldest others."""
    table = manifests.to_table(manifest).combine_chunks()
    with temporary_file(kept) as aside:
        with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        os.replace(aside, kept)
    copies = sorted(kept.parent.glob("*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    for path in copies[:-MOST_KEPT]:
        path.unlink(missing_ok=True)
