"""Verify a finished shard set by reading it again, and repair it.

``verify`` reads every tar and compares it with the manifest; ``repair`` makes the damaged shards
again from their range of the list and accepts only the same bytes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from infill.pipeline import forkserver, storage
from infill.pipeline.cluster import connect
from infill.pipeline.config import from_dict
from infill.pipeline.errors import UserError
from infill.pipeline.images import decode_sample
from infill.pipeline.manifest import FILE_NAME as MANIFEST_NAME
from infill.pipeline.manifest import Manifest, ShardRecord, read_manifest
from infill.pipeline.progress import Log, Progress
from infill.pipeline.sharding import listing
from infill.pipeline.sharding.config import ShardConfig
from infill.pipeline.sharding.parallel_map import parallel_map
from infill.pipeline.sharding.shard_writer import make_shard, record_name
from infill.pipeline.shared_folders import require_seen, seen_here
from infill.pipeline.sources import SPLITS, S3Config


@dataclass(frozen=True, kw_only=True)
class Damage:
    """The damage of one tar of a set."""

    split: str
    number: int
    """Number of the shard."""
    what: str
    """Description: missing, of another size, or the damaged samples."""


def read_sets(location: str) -> dict[str, Manifest]:
    """Return the finished sets under a location, by split.

    Raises:
        UserError: if there are no finished sets.
    """
    sets = {
        split: read_manifest(storage.join(location, split))
        for split in SPLITS
        if storage.exists(storage.join(location, split, MANIFEST_NAME))
    }
    if not sets and storage.exists(storage.join(location, MANIFEST_NAME)):
        folder = storage.absolute(location).rpartition("/")[0]
        raise UserError(f"{location} is one set: give the folder that holds it, {folder}")
    if not sets:
        raise UserError(
            f"{location} holds no finished shard sets; make some with `python jobs/make_shards.py`"
        )
    return sets


def verify(location: str, report: Log = print, s3: S3Config | None = None) -> list[Damage]:
    """Read every tar of the sets under a location again and return the damage.

    Runs on the driver; the tars are read on any free core. A set is intact if each tar has the
    recorded size and SHA-256, and so have each sample's bytes at the manifest's position, which
    the decoder of trainings takes.

    Raises:
        UserError: if there are no finished sets.
    """
    s3 = s3 or S3Config()
    s3.use()
    location = storage.absolute(location)
    sets = read_sets(location)
    tasks = [(split, n) for split, found in sets.items() for n in range(len(found.shards))]
    digests = {split: found.digest for split, found in sets.items()}

    seen = seen_here(location)

    def task(index: int) -> dict[str, Any]:
        s3.use()
        require_seen(seen)
        split, number = tasks[index]
        manifest = _manifest(storage.join(location, split), digests[split])
        return {"index": index, "what": check_shard(manifest, number)}

    damages = []
    with (
        connect(preload=forkserver.WITHOUT_TORCH),
        Progress("verification", len(tasks), "shards", log=report) as progress,
    ):
        for result in parallel_map(task, len(tasks)):
            if result["what"]:
                split, number = tasks[result["index"]]
                damages.append(Damage(split=split, number=number, what=result["what"]))
            progress.advance(1, f"{len(damages)} damaged")
    samples = sum(len(found) for found in sets.values())
    report(f"read {len(tasks)} shards with {samples} samples again: {len(damages)} damaged")
    return sorted(damages, key=lambda damage: (damage.split, damage.number))


@lru_cache(maxsize=1)
def _manifest(location: str, digest: str) -> Manifest:
    """Read a manifest once per worker and state of the set, not once per shard."""
    manifest = read_manifest(location)
    assert manifest.digest == digest
    return manifest


def check_shard(manifest: Manifest, number: int) -> str:
    """Return the damage of one tar of a set, or ""; runs in a task."""
    shard = manifest.shards[number]
    try:
        data = storage.read(manifest.shard_location(number))
    except FileNotFoundError:
        return "is missing"
    if len(data) != shard.size:
        return f"has {len(data)} bytes, the manifest says {shard.size}"
    bad = list(_bad_keys(manifest, number, data))
    if bad:
        return f"has {len(bad)} damaged samples, the first {bad[0]}"
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        return "is damaged between its samples"
    return ""


def _bad_keys(manifest: Manifest, number: int, data: bytes) -> Iterator[str]:
    first = int(manifest.first_rows[number])
    for row in manifest.samples.slice(first, manifest.shards[number].samples).to_pylist():
        kinds = ("", "label_") if manifest.has_labels else ("",)
        intact = all(_is_intact(row, kind, data) for kind in kinds)
        if row["shard"] != number or not intact:
            yield row["key"]


def _is_intact(row: dict[str, Any], kind: str, data: bytes) -> bool:
    """Return whether a row's image, or its label map ("label_"), is in a tar and is decoded."""
    start = row[f"{kind}offset"]
    found = data[start : start + row[f"{kind}size"]]
    return storage.sha256(found) == row[f"{kind}sha256"] and decode_sample(found) is not None


def repair(
    location: str, damages: list[Damage], report: Log = print, s3: S3Config | None = None
) -> None:
    """Make damaged shards again, from the same originals, to the same bytes.

    Raises:
        UserError: if a shard's bytes differ, because the originals, or the libraries that decode
            and encode them, have changed.
    """
    s3 = s3 or S3Config()
    s3.use()
    location = storage.absolute(location)
    sets = read_sets(location)
    settings = {split: found.settings for split, found in sets.items()}

    seen = seen_here(location, *(str(one.get("source", "")) for one in settings.values()))

    def task(index: int) -> dict[str, Any]:
        damage = damages[index]
        s3.use()
        require_seen(seen)
        made = remake(settings[damage.split], location, damage.split, damage.number)
        return {"index": index, "sha256": made.sha256}

    with (
        connect(preload=forkserver.WITHOUT_TORCH),
        Progress("repair", len(damages), "shards", log=report) as progress,
    ):
        for result in parallel_map(task, len(damages)):
            damage = damages[result["index"]]
            shard = sets[damage.split].shards[damage.number]
            if result["sha256"] != shard.sha256:
                raise UserError(
                    f"{damage.split}/{shard.name} differs from the original shard: the images "
                    "or the decoding libraries have changed; make the set again with "
                    "`python jobs/make_shards.py` and --overwrite"
                )
            progress.say(f"{damage.split}/{shard.name} is repaired")
            progress.advance()


def remake(settings: dict[str, Any], location: str, split: str, number: int) -> ShardRecord:
    """Make one shard of a finished set again; runs in a task.

    Args:
        settings: settings in the manifest.
        location: location of all sets.
        split: the split.
        number: number of the shard.
    """
    folder = storage.join(location, split)
    if listing.read_digest(folder) is None:
        raise UserError(
            f"{folder} has lost {listing.FILE_NAME}, from which shards are made; "
            "run `python jobs/make_shards.py` as before to write it again"
        )
    config = from_dict(ShardConfig, {**settings, "out": location}, f"the settings of {folder}")
    storage.remove(storage.join(folder, record_name(number)))
    return make_shard(config, split, number)[0].shard
