"""Mean scores with confidence intervals, by method and group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.protocols import Group
from infill.pipeline.metrics.distribution_metrics import FeatureSet
from infill.pipeline.metrics.metric_registry import METRICS, OF_SETS, Classify, Metric

ALL = "all"
"""Name of the column over all groups that count in it."""
RESAMPLES = 1000
"""Number of bootstrap resamples."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over pairs, with its confidence interval."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval; None for a single photograph, which gives no interval."""
    high: float | None
    n: int
    """Pairs."""
    photographs: int
    """Number of original photographs, the independent observations."""


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """A figure of a whole set of composites."""

    value: float
    spread: float | None
    """Standard deviation over subsets or splits; None if the metric has none."""
    n: int
    """Composites."""


SetScores = dict[str, dict[str, dict[str, SetScore]]]
"""By method, group and metric."""

Scores = dict[str, dict[str, dict[str, Score]]]
"""By method, group and metric."""


def average(
    rows: pa.Table,
    groups: Sequence[Group],
    methods: Sequence[str],
    seed: int,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Average every metric over the pairs of each group, and over all of them.

    The interval is a percentile bootstrap over photographs, not over pairs: crops of one
    photograph and masks over one crop succeed and fail together, and counting them as
    independent would make any interval too narrow.

    Args:
        rows: one per pair and method, with ``source``, ``group``, ``method`` and each metric.
        groups: groups of the evaluation.
        methods: in the order of the tables.
        seed: seed of the resampling.
        metrics: columns of the rows.
    """
    scores: Scores = {method: {} for method in methods}
    chosen = {group.name: [group.name] for group in groups}
    chosen[ALL] = [group.name for group in groups if group.in_all]
    for column, names in chosen.items():
        part = rows.filter(pc.is_in(rows["group"], pa.array(names)))
        for method in methods:
            own = part.filter(pc.equal(part["method"], method))
            scores[method][column] = _average_one(own, seed, metrics)
    return scores


def distribution_scores(
    composites: Numbers | FeatureSet,
    images: Numbers | FeatureSet,
    classify: Classify,
    seed: int,
    originals: Numbers | FeatureSet | None = None,
    network: str = "inception",
) -> dict[str, SetScore]:
    """Return every metric of a set by one network; an empty result for fewer than two composites.

    Args:
        composites: features [N, D].
        images: features [M, D] of their originals, each once.
        classify: features -> probabilities, [N, classes].
        seed: seed of the subsets.
        originals: features [N, D] of the original of each composite; without them metrics of pairs
            are left out.
        network: the network of these features, as the metrics name it.
    """
    count = len(composites)
    if min(count, len(images)) < 2:
        return {}
    found = {}
    for name, metric in OF_SETS.items():
        assert metric.compare is not None
        if metric.network != network or (metric.paired and originals is None):
            continue
        compared = originals if metric.paired and originals is not None else images
        sets = FeatureSet.of(composites), FeatureSet.of(compared)
        value, spread = metric.compare(*sets, classify, seed)
        if not math.isfinite(value):
            raise UserError(f"the metric {name!r} is {value} for {count} images; it must be finite")
        found[name] = SetScore(value=value, spread=spread, n=count)
    return found


def _average_one(rows: pa.Table, seed: int, metrics: Sequence[Metric]) -> dict[str, Score]:
    """Average each metric over rows of one method."""
    values = np.stack([rows[metric.name].to_numpy() for metric in metrics], axis=1)
    _, photographs = np.unique(rows["source"].to_numpy(zero_copy_only=False), return_inverse=True)
    low, high = intervals(values, photographs, seed)
    count = int(photographs.max()) + 1
    return {
        metric.name: Score(
            mean=float(values[:, index].mean()),
            low=float(low[index]) if count > 1 else None,
            high=float(high[index]) if count > 1 else None,
            n=len(values),
            photographs=count,
        )
        for index, metric in enumerate(metrics)
    }


def intervals(
    values: Numbers, photographs: NDArray[np.int64], seed: int, resamples: int = RESAMPLES
) -> tuple[Numbers, Numbers]:
    """Return the 95 % interval of each column's mean, resampling whole photographs.

    Args:
        values: [pairs, metrics].
        photographs: [pairs], which photograph each pair comes from, numbered from 0.
        seed: the same seed and photographs give the same resamples, whatever the values.
        resamples: how often photographs are resampled, with replacement.

    Returns:
        Lower and upper ends, each [metrics]: the 2.5th and 97.5th percentiles.
    """
    count = int(photographs.max()) + 1
    sizes = np.bincount(photographs, minlength=count).astype(np.float64)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, photographs, values)
    random = np.random.Generator(np.random.Philox(seed))
    share = np.full(count, 1 / count)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, 100):  # A hundred at a time: memory stays small.
        stop = min(start + 100, resamples)
        counts = random.multinomial(count, share, size=stop - start).astype(np.float64)
        means[start:stop] = counts @ sums / (counts @ sizes)[:, None]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
