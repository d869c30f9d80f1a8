"""Estimate a training before it starts: hours, cost, storage, decoding CPUs and bottleneck.

python jobs/plan.py spn-places2 --images 1803460 --train.num-workers 8 --gpu v100
python jobs/plan.py spn-cpu --train.data.shards runs/shards --run runs/spn-cpu
python jobs/plan.py madf-places2 --train.num-workers 8 --price-per-worker-hour 2.5

The preset is an architecture and a preset of its training job. The estimate is a range. With --run,
a short run of the same training on the machine in question, it is one figure.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence

from infill.models.config import names
from infill.pipeline.config import parse, run
from infill.pipeline.cost_estimate import CostEstimateConfig, estimate_cost, lines
from infill.pipeline.progress import Progress
from infill.pipeline.train_cli import describe
from infill.pipeline.training import TrainConfig


def training_presets(name: str) -> Mapping[str, TrainConfig]:
    """Return the presets of an architecture's training job; none as long as it has no job."""
    job = f"infill.jobs.train_{name}"
    if importlib.util.find_spec(job) is None:
        return {}
    found: Mapping[str, TrainConfig] = importlib.import_module(job).PRESETS
    return found


def presets() -> dict[str, CostEstimateConfig]:
    """Return an estimate's configuration for each preset of each training job."""
    return {
        f"{name}-{preset}": CostEstimateConfig(train=train)
        for name in names()
        for preset, train in training_presets(name).items()
    }


def describe_training(name: str, config: CostEstimateConfig) -> str:
    """Describe the training of a preset such as ``spn-cpu`` in one line."""
    architecture, _, preset = name.partition("-")
    job = importlib.import_module(f"infill.jobs.train_{architecture}")
    return describe(preset, config.train, getattr(job, "TABLES", {}))


def main(words: Sequence[str] | None = None) -> None:
    """Estimate the cost of one training, and print it."""
    config = parse(presets(), __doc__, words, describe_training)
    with Progress(f"estimate for {config.train.model.architecture}: counting its operations"):
        estimate = estimate_cost(config)
    print("\n".join(lines(estimate, config)))


if __name__ == "__main__":
    run(main)
