"""Read the bytes of a sample by shard, offset and size, from a local tar or a cached copy."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.manifest import Manifest, ShardRecord
from infill.pipeline.tar_reader import DECOMPRESSION_ERRORS, decompressed, is_compressed
from infill.pipeline.temporary_folders import temporary_file

REPAIR = "repair the set with `python jobs/verify_shards.py --repair`"
MOST_OPEN = 256
"""Number of shards that a reader keeps open; it should exceed the shuffle windows of its lanes."""
LARGEST_REQUEST_BYTES = 512 * 2**20
"""Maximum size of a shard that is read in one request, and held in memory meanwhile."""


class DamagedSampleError(UserError):
    """A sample that cannot be used; the message names it, its shard and the reason."""


class ShardReader:
    """Reads samples' image bytes from a shard set; safe to share between threads.

    Args:
        manifest: the set's manifest.
        cache: the cache of remote shards; None for a set on local disk.
        verify: whether to compare every image with its SHA-256.
    """

    def __init__(self, manifest: Manifest, cache: "ShardCache | None", verify: bool) -> None:
        self.manifest, self.cache, self.verify = manifest, cache, verify
        self.opened: dict[int, OpenFile] = {}
        table = manifest.samples
        self.shards, self.offsets, self.sizes, self.heights, self.widths = (
            _numbers(table.column(name))
            for name in ("shard", "offset", "size", "height_px", "width_px")
        )
        self.keys = table.column("key")
        self.suffixes = table.column("suffix")
        self.checksums = table.column("sha256")
        self.labelled = manifest.has_labels
        if self.labelled:
            self.label_offsets, self.label_sizes = (
                _numbers(table.column(name)) for name in ("label_offset", "label_size")
            )
            self.label_checksums = table.column("label_sha256")

    def key(self, row: int) -> str:
        """Return a sample's key."""
        return str(self.keys[row].as_py())

    def read(self, row: int) -> bytes:
        """Return a sample's image, as it was encoded.

        Raises:
            UserError: if its shard is missing or shorter than the manifest says, or if the bytes
                have another checksum and checksums are verified.
        """
        return self._read(row, int(self.offsets[row]), int(self.sizes[row]), self.checksums)

    def read_labels(self, row: int) -> bytes:
        """Return a sample's label map, a PNG.

        Raises:
            UserError: as :meth:`read`, or if the set has no label maps.
        """
        self.require_labels()
        offset, size = int(self.label_offsets[row]), int(self.label_sizes[row])
        return self._read(row, offset, size, self.label_checksums)

    def require_labels(self) -> None:
        """Refuse a set without label maps.

        Raises:
            UserError: saying how to make one with them.
        """
        if not self.labelled:
            raise UserError(
                f"{self.manifest.location} has no label maps: make the set with `python "
                "jobs/make_shards.py --labels FOLDER`, or train a model without them"
            )

    def _read(self, row: int, offset: int, size: int, checksums: pa.ChunkedArray) -> bytes:
        data = self._read_at(int(self.shards[row]), offset, size)
        if len(data) != size:
            raise self.damaged(row, f"its shard ends after {len(data)} of its {size} bytes")
        if self.verify and storage.sha256(data) != checksums[row].as_py():
            raise self.damaged(row, "its SHA-256 differs from the manifest's")
        return data

    def plain(self, row: int) -> bool:
        """Return whether every decoder reads a sample alike; sharding makes no other samples."""
        return bool(self.suffixes[row].as_py())

    def damaged(self, row: int, reason: str) -> "DamagedSampleError":
        """Return the error for a sample that cannot be used."""
        location = self.manifest.shard_location(int(self.shards[row]))
        return DamagedSampleError(
            f"sample {self.key(row)!r} in shard {location} is damaged: {reason}; {REPAIR}"
        )

    def _read_at(self, shard: int, offset: int, size: int) -> bytes:
        file = self.opened.get(shard)
        if file is None:
            file = self._open(shard)
            while len(self.opened) >= MOST_OPEN:
                self.opened.pop(next(iter(self.opened)), None)  # closed with its last reader
            self.opened[shard] = file
        return os.pread(file.number, size, offset)

    def _open(self, shard: int) -> "OpenFile":
        location, record = self.manifest.shard_location(shard), self.manifest.shards[shard]
        for _ in range(3):  # another process may delete the copy between finding and opening it
            try:
                return OpenFile(self.cache.path(location, record) if self.cache else Path(location))
            except FileNotFoundError:
                continue
        raise missing_shard(location)


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as an array: of one chunk in place, so that mapped ones stay on disk."""
    whole = column.chunk(0) if column.num_chunks == 1 else column
    return np.asarray(whole.to_numpy())


def missing_shard(location: str) -> UserError:
    """Return the error for a shard that its manifest lists and that is not there."""
    return UserError(f"shard {location} is missing, though its manifest lists it; {REPAIR}")


class OpenFile:
    """A file that is closed with its last reference: another thread may still read it."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class ShardCache:
    """Local copies of remote or compressed shards, shared by all processes of a node.

    Each is downloaded or decompressed once.

    A copy is named by its content's SHA-256, appears under that name only once whole and
    verified, and the least recently used ones are deleted past ``max_bytes``.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(storage.absolute(folder)), max_bytes

    def path(self, location: str, record: ShardRecord) -> Path:
        """Return the local copy of a shard, downloading it if it is not there.

        Raises:
            UserError: if the shard is missing or its checksum differs from the manifest's.
        """
        kept = self.folder / f"{record.sha256}.tar"
        if _use(kept):
            return kept
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / f"{record.sha256}.lock"):
            if not _use(kept):  # another process may have fetched it while we waited
                self._download(location, record, kept)
                self._evict(kept)
        return kept

    def fetch(self, location: str) -> tuple[Path, str]:
        """Return the local copy of a shard whose content is not known yet, and its SHA-256.

        Raises:
            UserError: if the shard is missing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with temporary_file(self.folder / "any.tar") as aside:
            with open(aside, "wb") as copy:
                found = _copy(location, copy)
            kept = self.folder / f"{found}.tar"
            os.replace(aside, kept)
        self._evict(kept)
        return kept, found

    def _download(self, location: str, record: ShardRecord, kept: Path) -> None:
        with temporary_file(kept) as aside:
            with open(aside, "wb") as copy:
                found = _copy(location, copy, record.size)
            if found != record.sha256:
                raise UserError(
                    f"shard {location} has SHA-256 {found}, its manifest says {record.sha256}; "
                    f"{REPAIR}"
                )
            os.replace(aside, kept)

    def _evict(self, newest: Path) -> None:
        copies = []
        for path in self.folder.glob("*.tar"):
            try:
                status = path.stat()
            except FileNotFoundError:  # deleted by another process
                continue
            copies.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in copies) - self.max_bytes
        for _, size, path in sorted(copies):
            if excess <= 0:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                excess -= size


def _use(path: Path) -> bool:
    """Mark a copy as just used; return whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _copy(location: str, copy: BinaryIO, size: int | None = None) -> str:
    """Copy a shard, decompressed, into an open file; return the SHA-256 of what was written.

    A shard of known size that fits in memory is one request; others are read in blocks.
    """
    digest = hashlib.sha256()
    whole = size is not None and size <= LARGEST_REQUEST_BYTES
    try:
        if is_compressed(location):
            blocks = _decompressed(location)
        else:
            blocks = iter([storage.read(location, 0, size)]) if whole else storage.blocks(location)
        for block in blocks:
            digest.update(block)
            copy.write(block)
    except FileNotFoundError as error:
        raise missing_shard(location) from error
    except DECOMPRESSION_ERRORS as error:
        raise UserError(
            f"{location} cannot be decompressed: {error}; copy or make it again"
        ) from error
    return digest.hexdigest()


def _decompressed(location: str) -> Iterator[bytes]:
    with storage.open_binary(location) as stream:
        source = decompressed(stream, location)
        while block := source.read(storage.BLOCK_BYTES):
            yield block


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it is released even if the process is killed."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
