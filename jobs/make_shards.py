"""Write photographs as shards: numbered tars and a manifest, for train, val and test.

python jobs/make_shards.py folder --source DIR --out runs/shards
python jobs/make_shards.py places2 --source DIR --out s3://bucket/places2
python jobs/make_shards.py bundled --out runs/demo/shards

If the job is interrupted, run the same command again: it writes the shards that are missing. DIR
and --out can be s3://bucket/prefix. For the preset "folder", DIR can also be one zip or tar, or a
CSV or Parquet list. For a public dataset, DIR holds the files that its authors distribute.
"""

from collections.abc import Sequence

from infill.pipeline import sharding, storage
from infill.pipeline.commands import typed
from infill.pipeline.config import parse, run
from infill.pipeline.job_summary import announce, report_results
from infill.pipeline.manifest import Manifest
from infill.pipeline.progress import file_size
from infill.pipeline.sharding import ShardConfig
from infill.pipeline.sources import KINDS, require_location

PRESETS = {
    **{kind: ShardConfig(kind=kind) for kind in KINDS},  # the folder, archives, public sets
    "bundled": ShardConfig(
        kind="bundled", photographs_per_shard=2, format="jpg", crop_size_px=128, crop_stride_px=96
    ),
    "demo": ShardConfig(
        kind="bundled",
        out="runs/demo/shards",
        photographs_per_shard=2,
        format="jpg",
        resize_short_side_px=256,
        crop_size_px=128,
        crop_stride_px=64,
    ),
    "smoke": ShardConfig(
        kind="bundled",
        out="runs/smoke/shards",
        photographs_per_shard=4,
        format="jpg",
        resize_short_side_px=96,
        crop_size_px=64,
        crop_stride_px=64,
    ),
}


ABOUT = {
    "places2-12k": "Places2, the first 12,000 test photographs, as MADF and SPN test.",
    "places2-large-12k": "Places2's large photographs, the first 12,000 of them for testing.",
    "bundled": "The photographs that installed packages carry, cut into crops of 128 px.",
    "demo": "Bundled photographs for the demo: resized to 256 px, crops of 128 px.",
    "smoke": "Bundled photographs for tests: resized to 96 px, crops of 64 px.",
}
"""What presets with settings of their own shard; the others are a kind of source."""


def about(name: str, config: ShardConfig) -> str:
    """Return what a preset shards."""
    return ABOUT.get(name, KINDS[config.kind].about)


def main(words: Sequence[str] | None = None) -> None:
    """Write the sets, and print one line for each."""
    config = parse(PRESETS, __doc__, words, about)
    require_location(config.kind, config.source)
    announce(describe(config), out=config.out)
    for split, manifest in sharding.make_shards(config).items():
        print(summary(split, manifest))
    report_results({}, typed("train_spn", "cpu", "--data.shards", storage.absolute(config.out)))


def describe(config: ShardConfig) -> str:
    """Return what will be sharded and how, in one line."""
    source = config.source or f"the kind {config.kind}"
    size = f", crops of {config.crop_size_px} px" if config.crop_size_px else ""
    return f"sharding {source}: {config.photographs_per_shard} images a shard{size}"


def summary(split: str, manifest: Manifest) -> str:
    """Return what a set holds and where, in one line."""
    photographs = len(set(manifest.samples.column("source").to_pylist()))
    size = sum(shard.size for shard in manifest.shards)
    labelled = " with label maps" if manifest.has_labels else ""
    return (
        f"{split}: {photographs} photographs, {len(manifest)} samples{labelled} in "
        f"{len(manifest.shards)} shards, {file_size(size)}, "
        f"{len(manifest.quarantined)} quarantined, in {manifest.location}"
    )


if __name__ == "__main__":
    run(main)
