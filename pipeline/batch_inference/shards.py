"""Inpaint a shard set on Ray Data into a new shard set, each sample exactly once.

    read a part of a shard and tile it (tasks) -> predict (actors) -> composite (tasks)

A part is a run of consecutive samples, stored as one file when it is done; the parts of a shard
become its tar when all of them are done, and the manifest is written last. So an interrupted run
loses only its unfinished parts, and no finished part is predicted twice. Each tar holds KEY.png,
KEY.mask.png and KEY.json of the samples of the shard of the same number.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infill.pipeline import storage
from infill.pipeline.attempts import NOT_COUNTED, Attempts, counted_attempts
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.pairs import MaskFinder, generate_mask_file
from infill.pipeline.batch_inference.ray_data import (
    NO_TILES,
    InpaintActor,
    Rows,
    actor_cpus,
    columns_of,
    composed,
    for_model,
    replica_config,
    row_of,
    split_pair,
)
from infill.pipeline.batch_inference.runner import (
    Summary,
    claim,
    failure_of,
    read_file,
    write_failures,
)
from infill.pipeline.cluster import quiet_data
from infill.pipeline.error_sentences import sentence_of
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images.conversion import mask_as_upload
from infill.pipeline.loading.shard_reader import missing_shard
from infill.pipeline.manifest import (
    FILE_NAME,
    SAMPLE_SCHEMA,
    Manifest,
    Quarantined,
    ShardRecord,
    read_manifest,
    write_manifest,
)
from infill.pipeline.masks import check_mask_files
from infill.pipeline.progress import Log, Progress, shows_everything
from infill.pipeline.serving.replica.replica import ServedModel
from infill.pipeline.sharding.shard_writer import record_name, tar_name
from infill.pipeline.sharding.tar_writer import TarWriter, written_whole
from infill.pipeline.shared_folders import made_here, require_seen, seen_here

PARTS = "_parts"
ROWS_PER_PART = 32
_FIELDS = ("key", "source", "suffix", "offset", "size", "sha256", "height_px", "width_px")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive samples of one shard."""

    shard: int
    first: int
    """First row of the manifest."""
    last: int
    """One past its last row."""

    @property
    def name(self) -> str:
        """Name of the file that holds its results."""
        return f"{self.shard:06d}-{self.first:09d}.parquet"


def is_shard_set(location: str) -> bool:
    """Return whether a folder is a finished shard set."""
    return storage.exists(storage.join(location, FILE_NAME))


def begin_shards(config: BatchInferenceConfig, model: str) -> tuple[BatchInferenceConfig, Manifest]:
    """Record settings and model beside the results of a shard set.

    Args:
        config: the configuration.
        model: the label of the model.

    Returns:
        The configuration with absolute locations, and the manifest of the set.

    Raises:
        UserError: if ``out`` is the set itself or holds results of other settings, or a mask file
            of the recipe marks nothing.
    """
    if config.generate_masks:
        check_mask_files(config.recipe)
    manifest = read_manifest(config.folder)
    if storage.absolute(config.out) == manifest.location:
        raise UserError(f"{config.out} is the shard set itself; give another OUT")
    masks = storage.absolute(config.masks) if config.masks else ""
    out = storage.absolute(config.out)
    config = replace(config, folder=manifest.location, masks=masks, out=out)
    claim(config, model, manifest.digest)
    return config, manifest


def inpaint_shards(model: ServedModel, config: BatchInferenceConfig, say: Log = print) -> Summary:
    """Inpaint every sample of a shard set that has no result yet. On the driver, with Ray.

    Raises:
        UserError: if ``out`` holds results of other settings, the disk is full, the store is down,
            or the model cannot be read.
    """
    config, manifest = begin_shards(config, model.label)
    started = time.monotonic()
    parts = _parts(manifest)
    finished = {shard for shard in range(len(manifest.shards)) if _record(config.out, shard)}
    there = set(storage.names(storage.join(config.out, PARTS)))
    missing = [p for p in parts if p.shard not in finished and p.name not in there]
    total = sum(part.last - part.first for part in missing)
    left = Counter(part.shard for part in missing)
    for shard in sorted({part.shard for part in parts} - finished - set(left)):
        _assemble(config, manifest, parts, shard)
    refused, scales = 0, list[float]()
    with Progress("batch inference", total, "images", log=say) as progress:
        for part, failures, seen in _run(model, config, manifest, missing):
            refused += len(failures)
            scales += seen
            left[part.shard] -= 1
            if not left[part.shard]:
                _assemble(config, manifest, parts, part.shard)
            progress.advance(part.last - part.first, f"{refused} failed" if refused else "")
    whole = _finish(config, manifest, model)
    return Summary(
        filled=total - refused,
        kept=len(manifest) - total,
        failed=len(whole.quarantined),
        seconds=time.monotonic() - started,
        models=(model.label,) if total else (),
        out=config.out,
        price_per_hour=config.price_per_hour,
        reduced=sum(scale < 1 for scale in scales),
        smallest_scale=min(scales, default=1.0),
    )


def _parts(manifest: Manifest) -> list[Part]:
    return [
        Part(shard=shard, first=first, last=min(first + ROWS_PER_PART, start + record.samples))
        for shard, (record, start) in enumerate(
            zip(manifest.shards, manifest.first_rows.tolist(), strict=True)
        )
        for first in range(start, start + record.samples, ROWS_PER_PART)
    ]


def _run(
    model: ServedModel, config: BatchInferenceConfig, manifest: Manifest, parts: list[Part]
) -> Any:
    """Yield each part when its results are written, with its rows' errors and scales."""
    if not parts:
        return
    with quiet_data(), counted_attempts() as attempts:
        for row in _stream(model, for_model(config, model), manifest, parts, attempts).iter_rows():
            if row["refusal"]:
                raise UserError(row["refusal"])
            part = Part(shard=row["shard"], first=row["first"], last=row["last"])
            failures = {int(at): why for at, why in json.loads(row["failures"]).items()}
            yield part, failures, json.loads(row["scales"])


def _stream(
    model: ServedModel,
    config: BatchInferenceConfig,
    manifest: Manifest,
    parts: list[Part],
    attempts: Attempts,
) -> Any:
    """Return the dataset of the parts' results, which it computes when it is read."""
    import ray

    find = MaskFinder("", [], config.masks) if config.masks else None
    own: dict[str, Any] = {"config": config, "attempts": attempts}
    seen = seen_here(manifest.location, config.masks, made_here(config.out))
    stream = (
        ray.data.from_arrow([_block(manifest, part, config, find) for part in parts])
        .map_batches(partial(split_part, seen=seen, **own), batch_size=None, num_cpus=0.5)
        .map_batches(
            InpaintActor,
            fn_constructor_args=(model, replica_config(config), attempts),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=config.num_actors),
            num_cpus=actor_cpus(config),
            num_gpus=int(config.use_gpu),
        )
        .map_batches(partial(finish_part, model=model.label, **own), batch_size=None, num_cpus=0.5)
    )
    stream.context.enable_progress_bars = shows_everything()
    return stream


def _block(
    manifest: Manifest, part: Part, config: BatchInferenceConfig, find: MaskFinder | None
) -> pa.Table:
    """Return the input of a part's task: its rows of the manifest, and their masks."""
    rows = manifest.samples.slice(part.first, part.last - part.first).select(_FIELDS)
    keys = rows["key"].to_pylist()
    count = len(keys)
    more = {
        "name": [
            f"{key}.{suffix}" for key, suffix in zip(keys, rows["suffix"].to_pylist(), strict=True)
        ],
        "mask_file": [os.fsencode(find(f"{key}.png") if find else "") for key in keys],
        "tar": [manifest.shard_location(part.shard)] * count,
        "shard": [part.shard] * count,
        "first": [part.first] * count,
    }
    for name, values in more.items():
        rows = rows.append_column(name, pa.array(values))
    return rows.combine_chunks()


def split_part(
    rows: Rows,
    config: BatchInferenceConfig,
    attempts: Attempts = NOT_COUNTED,
    seen: Sequence[str] = (),
) -> Rows:
    """Read a part's images at once and split them into tiles. In a task."""
    try:
        require_seen(seen)
        with attempts.at(f"{rows['name'][0]} (reading)"):
            split = _split_part(rows, config)
    except Exception as error:
        refused = {**NO_TILES, "refusal": sentence_of(error)}
        split = [{**row_of(rows, at), **refused} for at in range(len(rows["name"]))]
    return columns_of(split)


def _split_part(rows: Rows, config: BatchInferenceConfig) -> list[Rows]:
    begin = int(rows["offset"].min())
    end = int((rows["offset"] + rows["size"]).max())
    tar = str(rows["tar"][0])
    try:
        data = storage.read(tar, begin, end - begin)
    except FileNotFoundError as error:
        raise missing_shard(tar) from error
    split = []
    for at in range(len(rows["name"])):
        row = row_of(rows, at)
        start = int(row["offset"]) - begin
        image = data[start : start + int(row["size"])]
        try:
            found = _laid(config, row, image)
        except (ImageError, FileNotFoundError) as error:
            found = {"failure": failure_of(error)}
        split.append({**row, **NO_TILES, **found})
    return split


def _laid(config: BatchInferenceConfig, row: Rows, image: bytes) -> Rows:
    if storage.sha256(image) != row["sha256"]:
        raise ImageError(
            "damaged_image", "its SHA-256 differs from the manifest's: the shard is damaged"
        )
    if config.generate_masks:
        limit = config.limits.max_pixels
        mask = generate_mask_file(image, str(row["key"]), config.recipe, config.seed, limit)
    elif row["mask_file"]:
        limit = config.limits.max_pixels
        mask = mask_as_upload(read_file(os.fsdecode(row["mask_file"])), limit)
    else:
        raise ImageError("bad_request", "it has no mask: use --masks or --generate-masks")
    return split_pair(config, str(row["name"]), image, mask)


def finish_part(
    rows: Rows, config: BatchInferenceConfig, model: str, attempts: Attempts = NOT_COUNTED
) -> Rows:
    """Composite a part and store it. In a task."""
    first, shard = int(rows["first"][0]), int(rows["shard"][0])
    last, refusal = first + len(rows["name"]), str(rows["refusal"][0])
    failures: dict[int, str] = {}
    scales: list[float] = []
    if not refusal:
        path = storage.join(config.out, PARTS, Part(shard=shard, first=first, last=last).name)
        try:
            with attempts.at(f"{rows['name'][0]} (writing)"):
                failures, scales = _keep_part(path, rows, config, model)
        except Exception as error:
            refusal = sentence_of(error)
    done: dict[str, Any] = {"shard": shard, "first": first, "last": last}
    done |= {"failures": json.dumps(failures), "scales": json.dumps(scales)}
    return {name: [value] for name, value in {**done, "refusal": refusal}.items()}


def _keep_part(
    path: str, rows: Rows, config: BatchInferenceConfig, model: str
) -> tuple[dict[int, str], list[float]]:
    """Write a part's composites with their masks.

    Returns:
        The errors by row of the manifest, and the scale of every composite.
    """
    first = int(rows["first"][0])
    kept, failures, scales = [], {}, []
    for at in range(len(rows["name"])):
        row = row_of(rows, at)
        why, data, ratio, scale = str(row["failure"]), b"", 0.0, 1.0
        if not why:
            try:
                data, ratio, scale = composed(config, row)
                scales.append(scale)
            except ImageError as error:
                why = failure_of(error)
        if why:
            failures[first + at] = why
        about = {"source": row["source"], "model": model, "hole_ratio": round(ratio, 6)}
        about["scale"] = round(scale, 4)
        kept.append(
            {
                **{name: row[name] for name in ("key", "name", "source", "height_px", "width_px")},
                **{"data": data, "mask": row["mask"], "about": json.dumps(about), "failure": why},
            }
        )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(kept), sink, compression="none")
    storage.write(path, sink.getvalue().to_pybytes())
    return failures, scales


def _assemble(
    config: BatchInferenceConfig, manifest: Manifest, parts: list[Part], shard: int
) -> None:
    """Make a shard's tar of its parts, write its record, and delete the parts."""
    own = [part for part in parts if part.shard == shard]
    locations = [storage.join(config.out, PARTS, part.name) for part in own]
    rows, quarantined = [], []
    with written_whole(storage.join(config.out, tar_name(shard))) as stream:
        writer = TarWriter(stream)
        for path in locations:
            for sample in storage.table_of(storage.read(path)).to_pylist():
                if sample["failure"]:
                    name = f"{sample['key']} ({sample['source']})"
                    quarantined.append({"source": name, "reason": sample["failure"]})
                else:
                    rows.append(_add(writer, sample, config, shard))
        writer.close()
    record = ShardRecord(
        name=tar_name(shard),
        samples=len(rows),
        size=writer.size,
        sha256=writer.checksum.hexdigest(),
    )
    values = {"shard": asdict(record), "rows": rows, "quarantined": quarantined}
    storage.write(storage.join(config.out, record_name(shard)), json.dumps(values).encode())
    for path in locations:
        storage.remove(path)


def _add(
    writer: TarWriter, sample: dict[str, Any], config: BatchInferenceConfig, shard: int
) -> Rows:
    key = sample["key"]
    form = config.format_of(sample["name"])
    suffix = "jpg" if form == "jpeg" else form
    offset = writer.add(f"{key}.{suffix}", sample["data"])
    writer.add(f"{key}.mask.png", sample["mask"])
    writer.add(f"{key}.json", sample["about"].encode())
    return {
        **{name: sample[name] for name in ("key", "source", "height_px", "width_px")},
        "suffix": suffix,
        "shard": shard,
        "offset": offset,
        "size": len(sample["data"]),
        "sha256": storage.sha256(sample["data"]),
    }


def _record(out: str, shard: int) -> dict[str, Any] | None:
    """Return a finished shard's record, or None if it or its tar does not exist."""
    path = storage.join(out, record_name(shard))
    if not storage.exists(path):
        return None
    values: dict[str, Any] = json.loads(storage.read(path))
    whole = storage.info(storage.join(out, tar_name(shard))).size == values["shard"]["size"]
    return values if whole else None


def _finish(config: BatchInferenceConfig, manifest: Manifest, model: ServedModel) -> Manifest:
    """Write the manifest over all records, which completes the set."""
    records = [_record(config.out, shard) for shard in range(len(manifest.shards))]
    rows = [row for record in records if record for row in record["rows"]]
    failures = [item for record in records if record for item in record["quarantined"]]
    whole = Manifest(
        location=config.out,
        samples=pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA),
        shards=tuple(ShardRecord(**record["shard"]) for record in records if record),
        quarantined=tuple(Quarantined(**item) for item in failures),
        settings={"filled": config.folder, "data": manifest.digest, "model": model.label},
    )
    write_manifest(whole)
    write_failures(
        config.out, [{"image": item["source"], "reason": item["reason"]} for item in failures]
    )
    storage.remove(storage.join(config.out, PARTS))
    return whole
