"""Look at a shard set: its statistics, and a contact sheet of what training sees of it.

python jobs/inspect_shards.py --shards runs/shards/train
python jobs/inspect_shards.py --shards runs/shards/train --run runs/train --sample KEY --epoch 7

With --run, crops, flips and masks are those of that training (or checkpoint), else those of the
--data fields. With --sample, the sheet shows exactly what that training saw of one sample in one
epoch, and the step and place in the batch at which it did.
"""

from collections.abc import Sequence

from infill.pipeline import inspection, loading, storage
from infill.pipeline.config import parse_one, run
from infill.pipeline.inspection import InspectConfig


def main(words: Sequence[str] | None = None) -> None:
    """Print the statistics and write the sheet."""
    config = parse_one(InspectConfig, __doc__ or "", words)
    data = inspection.data_settings(config)
    manifest = loading.open_set(config.shards, config.data)
    seen = inspection.look(config, data, manifest)
    lines = inspection.describe(manifest)
    if config.sample:
        lines += inspection.describe_sample(manifest, seen[0])
    else:
        lines += inspection.describe_masks(data, manifest)
    print("\n".join(lines))
    storage.write(config.out, inspection.sheet([sighting.sample for sighting in seen]))
    print(f"{'sheet':<14} {storage.absolute(config.out)}")


if __name__ == "__main__":
    run(main)
