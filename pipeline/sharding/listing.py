"""List the originals, assign splits, and number the ranges of the shards.

Each split's list is one Parquet file whose row group k holds the originals of shard k, so that a
task reads only its range. The driver holds 18 bytes per original in memory.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.progress import Log
from infill.pipeline.sources import SPLITS, Original

FILE_NAME = "_listing.parquet"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("file", pa.binary()),
        ("size", pa.int64()),
        ("offset", pa.int64()),
        ("packed_size", pa.int64()),
    ]
)
LONGEST_KEY = 72  # with a crop's number and a suffix it fits a tar header's 100 characters
BATCH_ROWS = 10_000
UNSPLIT = len(SPLITS)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How images without a published split are divided."""

    val: float
    test: float
    seed: int
    splits: str = "auto"
    """"auto", "folders" or "shares"; see ``ShardConfig.splits``."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One split's list: its length and its digest."""

    split: str
    file: Path
    photographs: int
    bytes: int
    shards: int
    digest: str
    """SHA-256 over all rows."""


def key_of(path: str) -> str:
    """Return the key of an original: its path without suffix, if that is a valid key.

    If a character was replaced or the end cut off, eight digits of the path's SHA-256 keep the key
    unique.
    """
    stem = path.rpartition(".")[0]
    key = re.sub(r"[^A-Za-z0-9_/-]", "_", stem)
    if key != stem or len(key) > LONGEST_KEY:
        return distinct(key, path)
    return key


def distinct(key: str, path: str) -> str:
    """Return the key with eight digits of the path's SHA-256 appended."""
    return f"{key[: LONGEST_KEY - 9]}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def write_listings(
    originals: Iterable[Original],
    shares: Shares,
    photographs_per_shard: int,
    folder: Path,
    report: Log = print,
) -> dict[str, Listing]:
    """Write each split's list into ``folder``; splits without images have none.

    Runs on the driver. Reads ``originals`` once; memory grows only by 18 bytes per original.

    Args:
        originals: the source's images.
        shares: how images without a split of their own are divided.
        photographs_per_shard: rows of a row group.
        folder: a folder of this machine, for the lists.
        report: prints one line, if folders are named as splits and not used.

    Raises:
        UserError: if there are no originals, or only some of them have a split of their own.
    """
    spool = folder / "_all.parquet"
    path_hashes, key_hashes = array("Q"), array("Q")
    published, nested = array("B"), array("B")
    with pq.ParquetWriter(spool, SCHEMA.append(pa.field("split", pa.uint8()))) as writer:
        for rows in _batches(_rows(originals, shares), BATCH_ROWS):
            nested.extend(row.pop("nested") for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
            path_hashes.extend(_hash(f"{shares.seed}/{row['path']}") for row in rows)
            key_hashes.extend(_hash(row["key"]) for row in rows)
            published.extend(row["split"] for row in rows)
    named = _by_folders(np.asarray(published), np.asarray(nested), shares, spool, report)
    splits = named if named is not None else _by_shares(np.asarray(path_hashes), shares)
    if repeated := _repeated(np.asarray(path_hashes)):
        _refuse_repetition(spool, shares, repeated)
    shared_keys = _repeated(np.asarray(key_hashes))
    return {
        name: _write_split(name, code, spool, splits, shared_keys, photographs_per_shard)
        for code, name in enumerate(SPLITS)
        if (splits == code).any()
    }


def _rows(originals: Iterable[Original], shares: Shares) -> Iterator[dict[str, Any]]:
    for original in originals:
        ignored = original.split is None or shares.splits == "shares"
        yield {
            "key": key_of(original.path),
            "path": original.path,
            "file": original.file,
            "size": original.size,
            "offset": original.offset,
            "packed_size": original.packed_size,
            "split": UNSPLIT if ignored else SPLITS.index(str(original.split)),
            "nested": SPLITS.index(original.nested_split) if original.nested_split else UNSPLIT,
        }


def _batches(rows: Iterable[dict[str, Any]], batch_rows: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == batch_rows:
            yield batch
            batch = []
    if batch:
        yield batch


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _repeated(hashes: np.ndarray[Any, Any]) -> set[int]:
    values, counts = np.unique(hashes, return_counts=True)
    return set(values[counts > 1].tolist())


def _by_folders(
    published: np.ndarray[Any, Any],
    nested: np.ndarray[Any, Any],
    shares: Shares,
    spool: Path,
    report: Log,
) -> np.ndarray[Any, Any] | None:
    """Return each original's split by its folders or its list, or None if there are no splits.

    Folders below the first one, or of other case, count if every original lies in one of them, and
    they name two splits at least.
    """
    if shares.splits == "shares":
        return None
    splits = np.where(published == UNSPLIT, nested, published)
    names = [name for code, name in enumerate(SPLITS) if (splits == code).any()]
    inside = splits != UNSPLIT
    explicit = bool((published != UNSPLIT).any())
    wanted = explicit or shares.splits == "folders"
    if inside.all() and (wanted or len(names) > 1):
        return splits
    if wanted or len(names) > 1:
        stray = _path_at(spool, int(np.argmin(inside)))
        raise UserError(
            f"{stray} lies outside the folders train/, val/ and test/ (its split is empty, in a "
            "list), but others do not; move it into one of them, or give --splits "
            "shares to split all photographs by hash instead"
        )
    if names:
        report(
            f"a folder is named {names[0]}, but not every photograph lies in train, val or test: "
            "all are split by hash; give --splits folders if it is a split"
        )
    return None


def _by_shares(hashes: np.ndarray[Any, Any], shares: Shares) -> np.ndarray[Any, Any]:
    """Return each original's split by its share.

    By rank of a hash, so that the shares are exact and the choice is independent of names; from
    three images on, a share above 0 gets at least one.
    """
    total = len(hashes)
    least = 1 if total >= 3 else 0
    test, val = (
        max(round(share * total), least) if share else 0 for share in (shares.test, shares.val)
    )
    if test + val >= total:
        test, val = min(test, least), min(val, least)
    order = np.argsort(hashes, kind="stable")
    splits = np.full(total, SPLITS.index("train"), np.uint8)
    splits[order[:test]] = SPLITS.index("test")
    splits[order[test : test + val]] = SPLITS.index("val")
    return splits


def _path_at(spool: Path, index: int) -> str:
    for batch in _stored(spool).iter_batches(columns=["path"], use_threads=False):
        if index < len(batch):
            return str(batch["path"][index])
        index -= len(batch)
    raise AssertionError("called only with an index of the list")


def _refuse_repetition(spool: Path, shares: Shares, repeated: set[int]) -> None:
    """Refuse two originals of one path, as in a tar, or in a folder beside a zip of that name."""
    for batch in _stored(spool).iter_batches(columns=["path"], use_threads=False):
        for row in batch.to_pylist():
            if _hash(f"{shares.seed}/{row['path']}") in repeated:
                raise UserError(
                    f"the source holds two photographs called {row['path']}; rename one of them"
                )
    raise AssertionError("called only if a path is repeated")


def _write_split(
    name: str,
    code: int,
    spool: Path,
    splits: np.ndarray[Any, Any],
    shared_keys: set[int],
    photographs_per_shard: int,
) -> Listing:
    """Write one split's rows, a row group per shard; equal keys of two paths become distinct."""
    digest, size, shards = hashlib.sha256(), 0, 0
    file = spool.parent / f"{name}.parquet"
    chosen = _chosen(spool, splits == code, shared_keys)
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for rows in _batches(chosen, photographs_per_shard):
            for row in rows:
                digest.update(_identity(row))
                size += row["size"]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), len(rows))
            shards += 1
        writer.add_key_value_metadata({"digest": digest.hexdigest()})
    return Listing(
        split=name,
        file=file,
        photographs=int((splits == code).sum()),
        bytes=size,
        shards=shards,
        digest=digest.hexdigest(),
    )


def _chosen(
    spool: Path, wanted: np.ndarray[Any, Any], shared_keys: set[int]
) -> Iterator[dict[str, Any]]:
    index = 0
    columns = SCHEMA.names
    batches = _stored(spool).iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
    for batch in batches:
        for row in batch.to_pylist():
            if wanted[index]:
                if shared_keys and _hash(row["key"]) in shared_keys:
                    row["key"] = distinct(row["key"], row["path"])
                yield row
            index += 1


def _identity(row: dict[str, Any]) -> bytes:
    values = [row["file"].hex() if name == "file" else row[name] for name in SCHEMA.names]
    return json.dumps(values).encode()


def original_of(row: dict[str, Any]) -> Original:
    """Return the original of a row."""
    return Original(**{name: row[name] for name in SCHEMA.names if name != "key"})


def digest_of(rows: list[dict[str, Any]]) -> str:
    """Return the SHA-256 of some rows of a list."""
    return storage.sha256(b"".join(_identity(row) for row in rows))


def _stored(file: Any) -> pq.ParquetFile:
    """Open a list without Arrow's threads, which abort a process that exits while one ends."""
    return pq.ParquetFile(file, pre_buffer=False)


def read_range(location: str, shard: int) -> list[dict[str, Any]]:
    """Return the rows of one shard from a split's list.

    Args:
        location: the folder of the shard set.
        shard: its number.
    """
    with storage.open_seekable(storage.join(location, FILE_NAME)) as stream:
        rows: list[dict[str, Any]] = (
            _stored(stream).read_row_group(shard, use_threads=False).to_pylist()
        )
    return rows


def read_digest(location: str) -> str | None:
    """Return the digest of the list beside a shard set, or None if there is no list."""
    try:
        with storage.open_seekable(storage.join(location, FILE_NAME)) as stream:
            metadata = _stored(stream).metadata.metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return metadata.get(b"digest", b"").decode() or None
