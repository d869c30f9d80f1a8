"""Inspect a shard set: its statistics, and a contact sheet of samples as a training loads them.

python jobs/inspect_shards.py --shards runs/shards/train
python jobs/inspect_shards.py --shards runs/shards/train --preset spn-cpu
python jobs/inspect_shards.py --shards runs/shards/train --run runs/train --sample KEY --epoch 7

With --preset, crops, flips and masks are those of a training preset; `python jobs/plan.py --help`
lists the presets, and --data fields override them. With --run, they are those of a run or
checkpoint. With --sample, the sheet shows what that training loaded of one sample in one epoch, and
the text names the step and the position in the batch.
"""

import sys
from collections.abc import Sequence

import tyro

from infill.pipeline import inspection, loading, storage
from infill.pipeline.config import leave, parse_one, run
from infill.pipeline.inspection import InspectConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.progress import Progress

PRESET = "--preset"


def main(words: Sequence[str] | None = None) -> None:
    """Print the statistics and write the contact sheet."""
    words = sys.argv[1:] if words is None else words
    config = parse_one(InspectConfig, __doc__ or "", words, defaults(words))
    with Progress(f"inspection of {config.shards}"):
        data = inspection.data_settings(config)
        manifest = loading.open_set(config.shards, config.data)
        seen = inspection.look(config, data, manifest)
        lines = inspection.describe(manifest)
        if config.sample:
            lines += inspection.describe_sample(manifest, seen[0])
        else:
            lines += inspection.describe_masks(data, manifest)
        storage.write(config.out, inspection.sheet([sighting.sample for sighting in seen]))
    print("\n".join(lines))
    print(f"{'sheet':<14} {storage.absolute(config.out)}")


def defaults(words: Sequence[str]) -> InspectConfig | None:
    """Return the configuration of ``--preset``, from which all other fields start; None without."""
    split = [part for word in words for part in word.split("=", 1)]
    if PRESET not in split[:-1]:
        return None
    name = split[split.index(PRESET) + 1]
    return InspectConfig(shards=tyro.MISSING, preset=name, data=data_of(name))


def data_of(preset: str) -> BatchConfig:
    """Return the data settings of a training preset, such as "spn-cpu"."""
    from infill.jobs.plan import presets

    known = presets()
    if preset not in known:
        leave(f"unknown training preset {preset!r}", preset, list(known), "training presets")
    return known[preset].train.data


if __name__ == "__main__":
    run(main)
