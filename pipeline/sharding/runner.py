"""Shard over the cluster: list, write the missing shards, write the manifests.

Runs on the driver, which holds one small result per shard and, for the list, 18 bytes per
photograph. Interruptions are harmless because of the order: the manifest of a set is deleted before
anything in it changes, and written last.
"""

import csv
import errno
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from infill.pipeline import forkserver, storage
from infill.pipeline.cluster import connect
from infill.pipeline.errors import UserError, printable
from infill.pipeline.images.kinds import passed_over_lines
from infill.pipeline.manifest import FILE_NAME as MANIFEST_NAME
from infill.pipeline.manifest import Manifest, Quarantined, read_manifest, write_manifest
from infill.pipeline.progress import Log, Progress, file_size
from infill.pipeline.sharding import listing
from infill.pipeline.sharding.config import ShardConfig, as_saved_now, content_settings
from infill.pipeline.sharding.listing import Listing, Shares, write_listings
from infill.pipeline.sharding.parallel_map import parallel_map
from infill.pipeline.sharding.shard_writer import (
    make_shard,
    read_record,
    record_name,
    schema_of,
    tar_name,
)
from infill.pipeline.shared_folders import require_seen, seen_here
from infill.pipeline.sources import SPLITS, SUFFIXES, Original, open_source
from infill.pipeline.temporary_folders import UNFINISHED, temporary_folder

NAMED_REASONS = 3
NAMED_FILES = 10
"""Number of quarantined images that are printed."""
QUARANTINED_NAME = "quarantined.csv"


def make_shards(config: ShardConfig, report: Log = print) -> dict[str, Manifest]:
    """Write the shard sets of a source, or their missing shards, over the cluster.

    Runs on the driver. The same source and settings give the same tars to the byte, for any number
    of workers and interruptions. Ray is started or joined only if a shard is missing and Ray is not
    connected yet.

    Args:
        config: the source, the preprocessing and the output.
        report: prints one line.

    Returns:
        The manifest of each split that has images.

    Raises:
        UserError: if there are no images, too many are rejected, or ``out`` is not writable or
            holds a set made with other settings.
    """
    config = replace(
        config,
        out=storage.absolute(config.out),
        source=_absolute_source(config.source),
        labels=_absolute_source(config.labels),
    )
    config.s3.use()
    _require_writable(config.out)
    _require_same_settings(config)
    with temporary_folder() as folder:
        listings = _list(config, folder, report)
        missing = {}
        for split, found in listings.items():
            manifest = _whole(config, found)
            lacking = [] if manifest is None else _lacking(config, manifest)
            if manifest is None or (lacking and config.overwrite):
                _begin(config, found)
                missing[split] = found
            else:
                names = ", ".join(lacking)
                without = f", without {names}: --overwrite makes them again" if names else ""
                report(f"{split}: {found.shards} finished shards; reused{without}")
    _drop_sets_without_photographs(config, listings)
    if missing:
        with connect(preload=forkserver.WITHOUT_TORCH):
            _make_missing(config, listings, missing, report)
    for found in missing.values():
        _finish(config, found, report)
    return {split: read_manifest(storage.join(config.out, split)) for split in listings}


def _absolute_source(source: str) -> str:
    return storage.absolute(source) if source else ""


def _require_writable(out: str) -> None:
    """Refuse a folder that is not writable, before listing the originals."""
    if storage.is_remote(out):
        storage.require_bucket(out)
        return
    folder = next(path for path in (Path(out), *Path(out).parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        what = "must not be written to" if folder.is_dir() else "is a file"
        raise UserError(f"cannot write to {out}: {folder} {what}; choose another --out")


def _list(config: ShardConfig, folder: Path, report: Log) -> dict[str, Listing]:
    source = open_source(config.kind, config.source)
    shares = Shares(
        val=config.val_share, test=config.test_share, seed=config.seed, splits=config.splits
    )
    listings = write_listings(
        _without_labels(source.originals(), config),
        shares,
        config.photographs_per_shard,
        folder,
        report,
    )
    unread = passed_over_lines(source.passed_over)
    if not listings:
        names = "; ".join([f"names that count end in {' '.join(SUFFIXES)}", *unread])
        raise UserError(f"{config.source} holds no photographs; {names}")
    total = sum(found.photographs for found in listings.values())
    size = sum(found.bytes for found in listings.values())
    parts = ", ".join(f"{found.photographs} for {name}" for name, found in listings.items())
    report(f"listed {total} photographs, {file_size(size)}: {parts}")
    for line in unread:
        report(line)
    return listings


def _without_labels(originals: Iterator[Original], config: ShardConfig) -> Iterator[Original]:
    """Yield the originals, without label maps that lie in a folder among them.

    Raises:
        UserError: if both lie in one folder.
    """
    source, labels = config.source.rstrip("/"), config.labels.rstrip("/")
    if labels and labels == source:
        raise UserError(f"labels is the source itself: move the label maps out of {source}")
    inside = labels.removeprefix(f"{source}/") if labels.startswith(f"{source}/") else ""
    for original in originals:
        if not inside or not original.path.startswith(f"{inside}/"):
            yield original


def _require_same_settings(config: ShardConfig) -> None:
    """Refuse to change a finished set unintentionally."""
    if config.overwrite:
        return
    wanted = content_settings(config)
    for split in SPLITS:
        location = storage.join(config.out, split)
        if not storage.exists(storage.join(location, MANIFEST_NAME)):
            continue
        found = as_saved_now(read_manifest(location).settings)
        if different := [name for name in wanted if found.get(name) != wanted[name]]:
            name = different[0]
            raise UserError(
                f"{location} was made with {name} {found.get(name)!r}, now {wanted[name]!r} is "
                "given; choose another --out, or give --overwrite to replace it"
            )


def _whole(config: ShardConfig, found: Listing) -> Manifest | None:
    """Return the manifest of a finished split, with the same list and the recorded sizes."""
    location = storage.join(config.out, found.split)
    if listing.read_digest(location) != found.digest:
        return None
    if not storage.exists(storage.join(location, MANIFEST_NAME)):
        return None
    manifest = read_manifest(location)
    sizes = _sizes(location)
    same = as_saved_now(manifest.settings) == content_settings(config)
    whole = all(sizes.get(shard.name) == shard.size for shard in manifest.shards)
    return manifest if same and whole else None


def _lacking(config: ShardConfig, manifest: Manifest) -> list[str]:
    """Return the columns that a manifest of another version does not have."""
    return [n for n in schema_of(config).names if n not in manifest.samples.column_names]


def _sizes(location: str) -> dict[str, int]:
    return {info.base_name: info.size for info in storage.infos(location)}


def _begin(config: ShardConfig, found: Listing) -> None:
    """Delete the manifest, then write the list."""
    location = storage.join(config.out, found.split)
    try:
        storage.remove(storage.join(location, MANIFEST_NAME))
        storage.upload(found.file, storage.join(location, listing.FILE_NAME))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"cannot write to {location}: {error}; choose another --out") from error


def _drop_sets_without_photographs(config: ShardConfig, listings: dict[str, Listing]) -> None:
    for split in SPLITS:
        if split not in listings:
            storage.remove(storage.join(config.out, split, MANIFEST_NAME))


@dataclass
class Tally:
    """The amount of work done so far."""

    photographs: int
    """Total number of originals."""
    shards: int
    started_s: float = field(default_factory=time.monotonic)
    done_shards: int = 0
    made_bytes: int = 0
    """Bytes written, without those of earlier shards."""
    quarantined: int = 0
    reasons: list[str] = field(default_factory=list)
    finished: int = 0
    """Number of originals of the sets that were finished before."""

    def add(self, result: dict[str, Any]) -> None:
        """Count one finished shard."""
        self.done_shards += 1
        if not result["reused"]:
            self.made_bytes += result["bytes_read"]
        self.quarantined += result["quarantined"]
        self.reasons += list(result["reasons"])[: NAMED_REASONS - len(self.reasons)]

    def line(self) -> str:
        """Return the finished shards, MB/s and quarantined images."""
        elapsed = max(time.monotonic() - self.started_s, 1e-6)
        bad = f", {self.quarantined} quarantined" if self.quarantined else ""
        return (
            f"{self.done_shards} of {self.shards} shards, "
            f"{file_size(self.made_bytes / elapsed)}/s{bad}"
        )


def _make_missing(
    config: ShardConfig, listings: dict[str, Listing], missing: dict[str, Listing], report: Log
) -> None:
    """Make every shard of the missing splits; stop when too many of all images are quarantined."""
    whole = [found for split, found in listings.items() if split not in missing]
    sets = [read_manifest(storage.join(config.out, found.split)) for found in whole]
    tally = Tally(
        finished=sum(found.photographs for found in whole),
        quarantined=sum(len(manifest.quarantined) for manifest in sets),
        photographs=sum(found.photographs for found in missing.values()),
        shards=sum(found.shards for found in missing.values()),
    )
    with Progress("sharding", tally.photographs, "photographs", log=report) as progress:
        for result in _results(config, {name: found.shards for name, found in missing.items()}):
            tally.add(result)
            _require_few_quarantined(config, tally)
            if result["reused"]:
                progress.skip(result["photographs"])
            else:
                progress.advance(result["photographs"], tally.line())


def _require_few_quarantined(config: ShardConfig, tally: Tally) -> None:
    bad, total = tally.quarantined, tally.finished + tally.photographs
    if bad > config.max_quarantined_share * total or bad == total:
        raise UserError(
            f"{bad} of {total} photographs cannot be taken, more than max_quarantined_share "
            f"{config.max_quarantined_share:g} allows: {'; '.join(tally.reasons)}; repair "
            "or remove them, or allow a larger share"
        )


def _results(config: ShardConfig, shards: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield one small result per shard, as they are finished."""
    seen = seen_here(config.source, config.labels, config.out)

    def task(number: int) -> dict[str, Any]:
        require_seen(seen)
        for split, count in shards.items():
            if number < count:
                return _summary(config, split, number)
            number -= count
        raise AssertionError("more tasks than shards")

    return parallel_map(task, sum(shards.values()))


def _summary(config: ShardConfig, split: str, number: int) -> dict[str, Any]:
    """Make one shard; runs in a task."""
    record, reused = make_shard(config, split, number)
    bad = record.quarantined
    return {
        "photographs": record.photographs,
        "bytes_read": record.bytes_read,
        "quarantined": len(bad),
        "reasons": [f"{item.source}: {item.reason}" for item in bad[:NAMED_REASONS]],
        "reused": reused,
    }


def _finish(config: ShardConfig, found: Listing, report: Log) -> None:
    """Assemble a split's manifest from its records, delete other files, and write it."""
    location = storage.join(config.out, found.split)
    schema = schema_of(config)
    shards, tables, quarantined = [], [], list[Quarantined]()
    for number in range(found.shards):
        record = read_record(location, number)
        if record is None:
            raise UserError(
                f"{location} lacks {record_name(number)} although it was written: every machine "
                "of the cluster must see the same --out, a shared folder or s3://bucket/prefix"
            )
        shards.append(record.shard)
        tables.append(pa.Table.from_pylist(record.rows, schema=schema))
        quarantined += record.quarantined
    samples = pa.concat_tables(tables)
    if not samples.num_rows:
        raise UserError(
            f"all images of {found.split} are quarantined; the first, "
            f"{quarantined[0].source}: {quarantined[0].reason}"
        )
    _clear(location, found.shards)
    _write_quarantined(location, quarantined, report)
    write_manifest(
        Manifest(
            location=location,
            samples=samples,
            shards=tuple(shards),
            quarantined=tuple(quarantined),
            settings=content_settings(config),
        )
    )


def _write_quarantined(location: str, quarantined: list[Quarantined], report: Log) -> None:
    """List the quarantined images: all in a CSV file, the first on the screen."""
    file = storage.join(location, QUARANTINED_NAME)
    if not quarantined:
        storage.remove(file)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "reason"))
    writer.writerows((item.source, item.reason) for item in quarantined)
    storage.write(file, text.getvalue().encode())
    for item in quarantined[:NAMED_FILES]:
        report(f"quarantined: {printable(item.source)}: {printable(item.reason)}")
    more = len(quarantined) - NAMED_FILES
    report(f"quarantined: {f'{more} more, ' if more > 0 else ''}all of them in {file}")


def _clear(location: str, shards: int) -> None:
    """Delete leftovers of killed tasks, and the shards of a longer list."""
    ours = {name(number) for number in range(shards) for name in (tar_name, record_name)}
    for name in storage.names(location):
        old = name.startswith(("shard-", "_record-")) and name not in ours
        if old or name.startswith(UNFINISHED):
            storage.remove(storage.join(location, name))
