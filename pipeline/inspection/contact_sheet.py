"""Statistics of a shard set, and a contact sheet of what a training sees of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from infill.pipeline import checkpoints
from infill.pipeline.config import from_dict
from infill.pipeline.errors import UserError
from infill.pipeline.image_grid import grid, masked_view
from infill.pipeline.inspection.config import InspectConfig
from infill.pipeline.loading import BatchConfig, InpaintingDataset, Sample, order_of
from infill.pipeline.manifest import Manifest
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, bucket_of, check_mask_files, generate_mask
from infill.pipeline.progress import file_size

SAMPLES_PER_LINE = 4
MEASURED_MASKS = 1000


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One sample in one training step."""

    row: int
    epoch: int
    step: int
    index: int
    """Index in the global batch."""
    sample: Sample


def data_settings(config: InspectConfig) -> BatchConfig:
    """Return the data settings of the configured run, or the given ones."""
    data = config.data
    if config.run:
        location = checkpoints.find(config.run)
        values = checkpoints.read_config(location).get("data")
        if values is None:
            raise UserError(f"{location} was not trained here: it has no data settings")
        data = from_dict(BatchConfig, values, f"{location}/config.json: data")
    return replace(data, shards=config.shards)


def look(config: InspectConfig, data: BatchConfig, manifest: Manifest) -> list[Sighting]:
    """Make the samples for the sheet, as training makes them."""
    maker = InpaintingDataset(data, manifest)
    order = order_of(manifest.counts, data)
    first = config.epoch * order.total
    positions = list(range(first, first + min(config.num_samples, order.total)))
    if config.sample:
        positions = [order.position(config.epoch, row_of(manifest, config.sample))]
    sightings = []
    for position in positions:
        epoch, row = order.at(position)
        step, index = divmod(position * data.masks_per_image, data.batch_size)
        sample = maker.make(row, epoch, step)
        sightings.append(Sighting(row=row, epoch=epoch, step=step, index=index, sample=sample))
    return sightings


def row_of(manifest: Manifest, key: str) -> int:
    """Return a sample's row by its key.

    Raises:
        UserError: if the set does not have the key.
    """
    row = int(pc.index(manifest.samples["key"], key).as_py())
    if row < 0:
        example = manifest.row(0)["key"]
        raise UserError(
            f"{manifest.location} holds no sample with key {key!r}; its keys look like {example!r}"
        )
    return row


def describe(manifest: Manifest) -> list[str]:
    """Describe a set, one line per fact."""
    table = manifest.samples
    short = pc.min_element_wise(table["height_px"], table["width_px"]).to_numpy()
    sizes = table["size"].to_numpy() / 1e3
    suffixes = Counter(table["suffix"].to_pylist())
    lines = [
        f"{'set':<14} {manifest.location}",
        f"{'content':<14} {manifest.digest[:16]}",
        f"{'samples':<14} {len(manifest)} of {len(pc.unique(table['source']))} originals, "
        + ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common()),
        f"{'shards':<14} {len(manifest.shards)}, "
        f"{file_size(sum(record.size for record in manifest.shards))} together",
        f"{'shard holds':<14} {_spread(np.array(manifest.counts))} samples",
        f"{'height':<14} {_spread(table['height_px'].to_numpy())} px",
        f"{'width':<14} {_spread(table['width_px'].to_numpy())} px",
        f"{'short side':<14} {_spread(short)} px",
        f"{'bytes':<14} {_spread(sizes, decimals=1)} kB",
        f"{'quarantined':<14} {len(manifest.quarantined)}",
    ]
    reasons = Counter(item.reason for item in manifest.quarantined)
    return lines + [f"{'':<14} {count} x {reason}" for reason, count in reasons.most_common(10)]


def _spread(values: np.ndarray, decimals: int = 0) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:.{decimals}f} to {high:.{decimals}f} (median {middle:.{decimals}f})"


def describe_masks(data: BatchConfig, manifest: Manifest) -> list[str]:
    """Return the distribution of the hole ratios of an epoch's masks, one line per range."""
    check_mask_files(data.masks)
    size = data.image_size_px
    keys = manifest.samples["key"].slice(0, MEASURED_MASKS).to_pylist()
    ratios = [
        generate_mask(
            data.masks, keys[i % len(keys)], i // len(keys), data.seed, size, size
        ).hole_ratio
        for i in range(MEASURED_MASKS)
    ]
    counts = Counter(bucket_of(ratio) for ratio in ratios)
    lines = [f"{'masks':<14} {data.masks.recipe}, hole ratio {_spread(np.array(ratios), 3)}"]
    for bucket in (*HOLE_RATIO_BUCKETS, None):
        share = counts[bucket] / MEASURED_MASKS
        name = f"{bucket[0]:g} to {bucket[1]:g}" if bucket else "other"
        lines.append(
            f"{'':<14} {name:<12} {100 * share:5.1f} %  {'#' * round(40 * share)}".rstrip()
        )
    return lines


def describe_sample(manifest: Manifest, sighting: Sighting) -> list[str]:
    """Describe a sample: its shard, its step and its mask."""
    row, hole = manifest.row(sighting.row), sighting.sample.hole
    shard = manifest.shards[row["shard"]].name
    return [
        "",
        f"{'sample':<14} {row['key']}, from {row['source']}",
        f"{'lies in':<14} {shard}, {row['size']} bytes from {row['offset']}",
        f"{'SHA-256':<14} {row['sha256']}",
        f"{'image':<14} {row['width_px']}x{row['height_px']} px",
        f"{'seen':<14} epoch {sighting.epoch}, step {sighting.step}, "
        f"index {sighting.index} in the global batch",
        f"{'mask':<14} {sighting.sample.mask_id}",
        f"{'hole ratio':<14} {hole.mean():.4f}",
    ]


def sheet(samples: Sequence[Sample]) -> bytes:
    """Return samples beside their masked images, several per row, as one PNG."""
    per_line = min(SAMPLES_PER_LINE, len(samples))
    blank = np.full_like(samples[0].pixels, 255)
    rows, captions = [], []
    for first in range(0, len(samples), per_line):
        line = samples[first : first + per_line]
        row = [view for s in line for view in (s.pixels, masked_view(s.pixels, s.hole))]
        rows.append(row + [blank] * (2 * per_line - len(row)))
        captions.append("left to right: " + ", ".join(sample.key for sample in line))
    if len(samples) == 1:
        captions = [samples[0].mask_id]
    return grid(rows, ("image", "masked image") * per_line, captions)
