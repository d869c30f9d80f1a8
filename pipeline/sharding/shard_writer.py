"""Write one shard: a pure function of its range of the list and the configuration.

Runs inside a task, on any machine that sees the source and the destination.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import cv2
import pyarrow as pa

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import ENCODER, RejectedError
from infill.pipeline.manifest import LABEL_FIELDS, SAMPLE_SCHEMA, Quarantined, ShardRecord
from infill.pipeline.sharding.config import ShardConfig, identity
from infill.pipeline.sharding.listing import digest_of, original_of, read_range
from infill.pipeline.sharding.samples import Sample, samples_of
from infill.pipeline.sharding.tar_writer import TarWriter, written_whole
from infill.pipeline.sources import Source, open_source

SCHEMA = SAMPLE_SCHEMA.append(pa.field("perceptual_hash", pa.uint64()))
LABELLED_SCHEMA = pa.schema([*SCHEMA, *LABEL_FIELDS])
REMOTE_READS = 16
"""Concurrent requests to an object store, where latency exceeds the time of decoding."""
THREADS = 2
"""Threads per task: one computes while the other reads or waits for the next task."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a finished shard, a file beside its tar."""

    digest: str
    """Digest of the range and the settings of the shard."""
    shard: ShardRecord
    rows: list[dict[str, Any]]
    """Rows of its samples, as in the manifest."""
    quarantined: list[Quarantined]
    photographs: int
    bytes_read: int


def tar_name(number: int) -> str:
    """Return the name of a shard's tar."""
    return f"shard-{number:06d}.tar"


def record_name(number: int) -> str:
    """Return the name of a shard's record."""
    return f"_record-{number:06d}.json"


def make_shard(config: ShardConfig, split: str, number: int) -> tuple[Record, bool]:
    """Write one shard and its record, unless they exist and are intact.

    Args:
        config: the configuration, with absolute locations.
        split: the split, whose list is in ``out``.
        number: number of the shard and of its range in the list.

    Returns:
        The record, and whether it existed before.

    Raises:
        UserError: if an original differs from the list.
    """
    config.s3.use()
    cv2.setNumThreads(1)  # one task per core: OpenCV's own threads would compete
    folder = storage.join(config.out, split)
    rows = read_range(folder, number)
    digest = shard_digest(config, rows)
    found = read_record(folder, number)
    source = open_source(config.kind, config.source)
    if (
        found is not None
        and found.digest == digest
        and _has_columns(config, found.rows)
        and _is_true(folder, found.shard)
        and _still_refused(config, source, rows, found.quarantined)
    ):
        return found, True
    return _write(config, source, folder, number, rows, digest), False


def shard_digest(config: ShardConfig, rows: list[dict[str, Any]]) -> str:
    """Return the identity of a shard: its originals, settings and codecs."""
    return storage.sha256(json.dumps([identity(config), ENCODER, digest_of(rows)]).encode())


def read_record(folder: str, number: int) -> Record | None:
    """Return the record of a shard, or None if it is missing or unreadable."""
    try:
        values = json.loads(storage.read(storage.join(folder, record_name(number))))
        return Record(
            **{
                **values,
                "shard": ShardRecord(**values["shard"]),
                "quarantined": [Quarantined(**item) for item in values["quarantined"]],
            }
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def schema_of(config: ShardConfig) -> pa.Schema:
    """Return the columns of a set's manifest."""
    return LABELLED_SCHEMA if config.labels else SCHEMA


def _has_columns(config: ShardConfig, rows: list[dict[str, Any]]) -> bool:
    """Return whether a record has every column, which one of another version may not."""
    return all(row.keys() >= set(schema_of(config).names) for row in rows[:1])


def _is_true(folder: str, shard: ShardRecord) -> bool:
    """Return whether the tar exists and has the recorded checksum."""
    if storage.info(storage.join(folder, shard.name)).size != shard.size:
        return False
    checksum = hashlib.sha256()
    for block in storage.blocks(storage.join(folder, shard.name)):
        checksum.update(block)
    return checksum.hexdigest() == shard.sha256


def _still_refused(
    config: ShardConfig, source: Source, rows: list[dict[str, Any]], before: list[Quarantined]
) -> bool:
    """Return whether the quarantined originals are still rejected: they may have been repaired."""
    reasons = {item.source: item.reason for item in before}
    bad = [row for row in rows if row["path"] in reasons]
    return all(
        isinstance(prepared, RejectedError) and str(prepared) == reasons[row["path"]]
        for row, prepared in zip(bad, _prepared(source, bad, config), strict=True)
    )


def _write(
    config: ShardConfig,
    source: Source,
    folder: str,
    number: int,
    rows: list[dict[str, Any]],
    digest: str,
) -> Record:
    samples: list[dict[str, Any]] = []
    quarantined: list[Quarantined] = []
    with written_whole(storage.join(folder, tar_name(number))) as stream:
        writer = TarWriter(stream)
        for row, prepared in zip(rows, _prepared(source, rows, config), strict=True):
            if isinstance(prepared, RejectedError):
                quarantined.append(Quarantined(source=row["path"], reason=str(prepared)))
            else:
                samples += [_add(writer, sample, row["path"], number) for sample in prepared]
        writer.close()
    record = Record(
        digest=digest,
        shard=ShardRecord(
            name=tar_name(number),
            samples=len(samples),
            size=writer.size,
            sha256=writer.checksum.hexdigest(),
        ),
        rows=samples,
        quarantined=quarantined,
        photographs=len(rows),
        bytes_read=sum(row["size"] for row in rows),
    )
    storage.write(storage.join(folder, record_name(number)), _as_json(record))
    return record


def _as_json(record: Record) -> bytes:
    values = {
        **vars(record),  # asdict() would copy every value of every row
        "shard": asdict(record.shard),
        "quarantined": [asdict(item) for item in record.quarantined],
    }
    return json.dumps(values).encode()


def _prepared(
    source: Source, rows: list[dict[str, Any]], config: ShardConfig
) -> Iterator[list[Sample] | RejectedError]:
    """Yield each original's samples, in order, or the reason of its rejection.

    A few are prepared ahead; memory holds only those.
    """
    threads = REMOTE_READS if storage.is_remote(config.source) else THREADS
    waiting = iter(rows)
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(
            pool.submit(_prepare, source, row, config) for row in islice(waiting, 2 * threads)
        )
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(
                    pool.submit(_prepare, source, row, config) for row in islice(waiting, 1)
                )
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(
    source: Source, row: dict[str, Any], config: ShardConfig
) -> list[Sample] | RejectedError:
    try:
        data = _checked(row, _read(source, row))
        labels = _read_labels(config.labels, row["path"]) if config.labels else None
        return list(samples_of(row["key"], data, config, labels))
    except RejectedError as error:
        return error


def _read(source: Source, row: dict[str, Any]) -> bytes | Exception:
    """Return an original's bytes, or the error of a file that is gone.

    Raises:
        RejectedError: if it is damaged in its archive, or cannot be read while others can.
    """
    try:
        return source.read(original_of(row))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and row["size"]:
            return error
        if why := storage.why_unreadable(error):
            raise RejectedError(why) from error
        if isinstance(error, PermissionError):  # Of an object store.
            raise RejectedError("permission denied") from error
        if isinstance(error, FileNotFoundError):
            return error
        raise


def _read_labels(labels: str, path: str) -> bytes:
    """Return the bytes of an image's label map: by its path, or by the longest end of it.

    Raises:
        RejectedError: if there is none.
    """
    parts = f"{path.rpartition('.')[0]}.png".split("/")
    for first in range(len(parts)):
        try:
            return storage.read(storage.join(labels, *parts[first:]))
        except OSError as error:
            if why := storage.why_unreadable(error):
                raise RejectedError(f"its label map {parts[-1]}: {why}") from error
            if not isinstance(error, FileNotFoundError):
                raise
    raise RejectedError(f"has no label map {parts[-1]} in {labels}")


def _checked(row: dict[str, Any], data: bytes | Exception) -> bytes:
    """Return the bytes if their size is the listed one: a shard must match its list."""
    found = "gone" if isinstance(data, Exception) else f"{len(data)} bytes"
    if isinstance(data, Exception) or len(data) != row["size"]:
        raise UserError(
            f"{row['path']} had {row['size']} bytes when it was listed and now is {found}: "
            "the source is changing; run the same command again when it no longer changes"
        )
    return data


def _add(writer: TarWriter, sample: Sample, path: str, number: int) -> dict[str, Any]:
    """Append a sample's members and return its row of the manifest."""
    offset = writer.add(f"{sample.key}.{sample.suffix}", sample.data)
    labelled: dict[str, Any] = {}
    if sample.labels is not None:
        labelled = {
            "label_offset": writer.add(f"{sample.key}.labels.png", sample.labels),
            "label_size": len(sample.labels),
            "label_sha256": storage.sha256(sample.labels),
        }
    about = {
        "source": path,
        "crop": sample.crop,
        "height_px": sample.height_px,
        "width_px": sample.width_px,
    }
    writer.add(f"{sample.key}.json", json.dumps(about).encode())
    return {
        "key": sample.key,
        "source": path,
        "suffix": sample.suffix,
        "shard": number,
        "offset": offset,
        "size": len(sample.data),
        "sha256": storage.sha256(sample.data),
        "height_px": sample.height_px,
        "width_px": sample.width_px,
        "perceptual_hash": sample.perceptual_hash,
        **labelled,
    }
