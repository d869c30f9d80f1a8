"""The manifest of a shard set: key, position and checksum of every sample, in one Parquet file.

A shard set is a folder (or s3:// prefix) of plain tars and one ``manifest.parquet``. The manifest
is written last, so a set without one is unfinished. Each sample's image bytes are found by shard,
offset and size, without opening the tar: readers fetch only the bytes they need.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infill.pipeline import storage
from infill.pipeline.errors import UserError, require_format

FILE_NAME = "manifest.parquet"
FORMAT = 1
SAMPLE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # name in the tar, without suffix; [A-Za-z0-9_/-]+
        ("source", pa.string()),  # path of the original, relative to its source
        ("suffix", pa.string()),  # "jpg", "png" or "webp"
        ("shard", pa.int32()),  # index into the shards' records
        ("offset", pa.int64()),  # of the image bytes within the tar
        ("size", pa.int64()),  # of the image, in bytes
        ("sha256", pa.string()),  # of the image bytes
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
    ]
)
LABEL_FIELDS = (
    pa.field("label_offset", pa.int64()),  # of the label map's bytes within the tar
    pa.field("label_size", pa.int64()),  # of the label map, a PNG, in bytes
    pa.field("label_sha256", pa.string()),  # of its bytes
)
"""Columns of a set with label maps, beside those of :data:`SAMPLE_SCHEMA`."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One finished tar."""

    name: str
    samples: int
    size: int
    """Size of the tar in bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """An original that was rejected, and the reason."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished shard set, as described by its ``manifest.parquet``."""

    location: str
    samples: pa.Table
    """One row per sample, in shard and tar order, with :data:`SAMPLE_SCHEMA`."""
    shards: tuple[ShardRecord, ...]
    quarantined: tuple[Quarantined, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """The ingest settings, by dotted name."""
    mapped: str = ""
    """Path of the Arrow file that the samples are mapped from; empty if they are in memory."""

    def __len__(self) -> int:
        return int(self.samples.num_rows)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples per shard."""
        return tuple(record.samples for record in self.shards)

    @cached_property
    def first_rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Row of each shard's first sample."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """The identity of the content: SHA-256 over the shards' names and checksums."""
        identity = [[record.name, record.sha256] for record in self.shards]
        return storage.sha256(json.dumps(identity).encode())

    @property
    def has_labels(self) -> bool:
        """Whether each sample has a label map."""
        return LABEL_FIELDS[0].name in self.samples.column_names

    def row(self, index: int) -> dict[str, Any]:
        """Return one sample's row as a dictionary."""
        return {
            name: self.samples.column(name)[index].as_py() for name in self.samples.column_names
        }

    def shard_location(self, shard: int) -> str:
        """Return the location of a shard's tar."""
        return storage.join(self.location, self.shards[shard].name)


def write_manifest(manifest: Manifest) -> None:
    """Write ``manifest.parquet``, the last file of sharding, which completes the set."""
    storage.write(storage.join(manifest.location, FILE_NAME), serialize(manifest))


def serialize(manifest: Manifest) -> bytes:
    """Return a manifest as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(manifest), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def to_table(manifest: Manifest) -> pa.Table:
    """Return a manifest as one table: the samples, and everything else in its metadata."""
    about = {
        "format": FORMAT,
        "settings": manifest.settings,
        "shards": [asdict(record) for record in manifest.shards],
        "quarantined": [asdict(item) for item in manifest.quarantined],
    }
    return manifest.samples.replace_schema_metadata({b"infill": json.dumps(about).encode()})


def read_manifest(location: str) -> Manifest:
    """Read a shard set's manifest.

    Args:
        location: the set's folder or s3:// prefix.

    Raises:
        UserError: if the manifest is missing (sharding has not finished, or the location is wrong)
            or cannot be read.
    """
    location = storage.absolute(location)
    try:
        data = storage.read(storage.join(location, FILE_NAME))
    except FileNotFoundError as error:
        raise UserError(
            f"{location} is not a finished shard set: it has no {FILE_NAME}; {_advice(location)}"
        ) from error
    return parse(data, location, storage.join(location, FILE_NAME))


def _advice(location: str) -> str:
    """Return what to do about a location without a manifest."""
    sets = [storage.join(location, split) for split in ("train", "val", "test")]
    if found := [one for one in sets if storage.exists(storage.join(one, FILE_NAME))]:
        return f"name one of the sets in it: {', '.join(found)}"
    return (
        "make one with `python jobs/make_shards.py`, or name the tars of a WebDataset: "
        f"{storage.join(location, '{00000..00099}.tar')}"
    )


def parse(data: bytes, location: str, name: str) -> Manifest:
    """Return the manifest in the bytes of a Parquet file.

    Args:
        data: the file.
        location: location of the set.
        name: the file's name, for messages.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return from_table(storage.table_of(data), location)
    except (pa.ArrowInvalid, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{name} is damaged: {error}") from error


def from_table(table: pa.Table, location: str) -> Manifest:
    """Return the manifest of :func:`to_table`'s table.

    Raises:
        KeyError: if the table is not a manifest's; so are TypeError and JSONDecodeError.
        UserError: if it has another format.
    """
    about = json.loads(table.schema.metadata[b"infill"])
    require_format(about["format"], FORMAT, f"the manifest of {location}")
    return Manifest(
        location=location,
        samples=table.replace_schema_metadata(None),
        shards=tuple(ShardRecord(**record) for record in about["shards"]),
        quarantined=tuple(Quarantined(**item) for item in about["quarantined"]),
        settings=about["settings"],
    )
