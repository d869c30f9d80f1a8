"""Compare two or more evaluated methods on the same pairs.

A mean of differences over the same pairs has a much narrower interval than a difference of means:
an image's difficulty is the same for every method and cancels.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infill.pipeline import checkpoints, storage
from infill.pipeline.config import from_dict
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.config import CompareConfig, EvaluationConfig
from infill.pipeline.evaluation.result import Evaluation, load_evaluation
from infill.pipeline.evaluation.scorer import Scorer, read_table
from infill.pipeline.evaluation.scores import ALL, intervals
from infill.pipeline.images import Pixels, composite
from infill.pipeline.metrics.metric_registry import DECIDING, Metric
from infill.pipeline.progress import Log, Progress


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One method of one evaluation."""

    name: str
    evaluation: Evaluation
    method: str
    rows: pa.Table
    """Its rows, in the order of the pairs."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The gain over the first contender on the same pairs."""

    mean: float
    """Mean of the differences; positive is better, whichever direction of the metric is better."""
    low: float | None
    """Lower end of the 95 % interval; None with one photograph."""
    high: float | None
    wins: float
    """Share of the pairs on which it is better; a tie counts half."""
    n: int
    photographs: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pair, inpainted by every contender."""

    pair: int
    key: str
    hole_ratio: float
    scores: dict[str, float]
    """The metric that selects the cases, by contender."""
    image: Pixels
    hole: Pixels
    composites: dict[str, Pixels]
    """Composites by contender, each [H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class PastedMethod:
    """One pair, inpainted by every method of an evaluation."""

    image: Pixels
    """[H, W, 3]."""
    hole: Pixels
    """[H, W], 1 where missing."""
    composites: dict[str, Pixels]
    """Composites by method, each [H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a comparison."""

    contenders: tuple[Contender, ...]
    metrics: tuple[Metric, ...]
    """The metrics that every evaluation measured."""
    groups: tuple[str, ...]
    gains: dict[str, dict[str, dict[str, Gain]]]
    """Gains by contender (all but the first), group and metric."""
    best: dict[str, list[int]]
    """By contender: the pairs with the largest gains, largest first."""
    worst: dict[str, list[int]]

    @property
    def first(self) -> Contender:
        """The contender that the others are compared with."""
        return self.contenders[0]


def compare(config: CompareConfig) -> Comparison:
    """Compare contenders with the first, pair by pair. Runs on the driver, without Ray.

    Raises:
        UserError: if an evaluation is missing, or their pairs are not the same.
    """
    contenders = load_contenders(config.evaluations, config.baselines)
    shared = [set(m.name for m in one.evaluation.metrics) for one in contenders]
    first = contenders[0].evaluation
    metrics = tuple(m for m in first.metrics if all(m.name in names for names in shared))
    gains = {
        other.name: {
            group: _gains(contenders[0], other, group, metrics, config.seed)
            for group in first.groups
        }
        for other in contenders[1:]
    }
    orders = {
        other.name: np.argsort(
            -_differences(contenders[0].rows, other.rows, DECIDING), kind="stable"
        )
        for other in contenders[1:]
    }
    return Comparison(
        contenders=tuple(contenders),
        metrics=metrics,
        groups=tuple(first.groups),
        gains=gains,
        best={name: order[: config.cases].tolist() for name, order in orders.items()},
        worst={name: order[::-1][: config.cases].tolist() for name, order in orders.items()},
    )


def load_contenders(locations: Sequence[str], baselines: Sequence[str] = ()) -> list[Contender]:
    """Read evaluations and check that their pairs are the same.

    Args:
        locations: folders of evaluations.
        baselines: names of baselines of the first one that are compared as well.

    Raises:
        UserError: if one is missing, or their pairs are not the same.
    """
    evaluations = [load_evaluation(location) for location in locations]
    holes = [read_table(evaluation.files["pairs"]) for evaluation in evaluations]
    for evaluation, found in zip(evaluations[1:], holes[1:], strict=True):
        if not found.equals(holes[0]):
            raise UserError(
                f"{evaluation.out} and {evaluations[0].out} are not over the same pairs; evaluate "
                f"again with --pairs {evaluations[0].files['pairs']}"
            )
    contenders = [
        _contender(_name(evaluation, evaluations), evaluation, evaluation.network)
        for evaluation in evaluations
    ]
    for name in baselines:
        if name not in evaluations[0].methods:
            raise UserError(
                f"{evaluations[0].out} has no scores of {name!r}; it has: "
                f"{', '.join(evaluations[0].methods)}"
            )
        contenders.append(_contender(name, evaluations[0], name))
    return contenders


def _name(evaluation: Evaluation, all_of_them: Sequence[Evaluation]) -> str:
    """Return the network's name, with its folder's if the name alone is ambiguous."""
    if sum(other.network == evaluation.network for other in all_of_them) == 1:
        return evaluation.network
    return f"{evaluation.network}, {evaluation.out.rstrip('/').rsplit('/', 1)[-1]}"


def _contender(name: str, evaluation: Evaluation, method: str) -> Contender:
    rows = read_table(evaluation.files["rows"])
    own = rows.filter(pc.equal(rows["method"], method)).sort_by("pair")
    return Contender(name=name, evaluation=evaluation, method=method, rows=own)


def _differences(first: pa.Table, other: pa.Table, metric: Metric) -> NDArray[np.float64]:
    """Return the gain of the other on each pair."""
    sign = 1.0 if metric.better == "higher" else -1.0
    difference: NDArray[np.float64] = sign * (
        other[metric.name].to_numpy() - first[metric.name].to_numpy()
    )
    return difference


def _gains(
    first: Contender, other: Contender, group: str, metrics: Sequence[Metric], seed: int
) -> dict[str, Gain]:
    names = [name for name in first.evaluation.groups if name != ALL]
    counted = set(_counted(first, names) if group == ALL else [group])
    chosen = np.array([name in counted for name in first.rows["group"].to_pylist()])
    values = np.stack([_differences(first.rows, other.rows, m)[chosen] for m in metrics], axis=1)
    wins = (values > 0) + 0.5 * (values == 0)
    sources = first.rows["source"].to_numpy(zero_copy_only=False)[chosen]
    _, photographs = np.unique(sources, return_inverse=True)
    low, high = intervals(values, photographs, seed)
    count = int(photographs.max()) + 1
    return {
        metric.name: Gain(
            mean=float(values[:, index].mean()),
            low=float(low[index]) if count > 1 else None,
            high=float(high[index]) if count > 1 else None,
            wins=float(wins[:, index].mean()),
            n=len(values),
            photographs=count,
        )
        for index, metric in enumerate(metrics)
    }


def _counted(contender: Contender, names: Sequence[str]) -> list[str]:
    """Return the groups that count in "all"."""
    pairs = read_table(contender.evaluation.files["pairs"])
    counts = dict(zip(pairs["group"].to_pylist(), pairs["in_all"].to_pylist(), strict=True))
    return [name for name in names if counts[name]]


def inpaint_cases(comparison: Comparison, indices: Sequence[int], log: Log = print) -> list[Case]:
    """Inpaint some pairs again, with every contender. Runs in this process.

    Raises:
        UserError: if a checkpoint has been changed or removed since its evaluation.
    """
    images: dict[str, list[PastedMethod]] = {}
    evaluations = {one.evaluation.out: one.evaluation for one in comparison.contenders}
    total = len(evaluations) * len(indices)
    with Progress("comparison", total, "pairs", log=log) as progress:
        for out, evaluation in evaluations.items():
            images[out] = []
            for pasted in fill_again(evaluation, indices):
                images[out].append(pasted)
                progress.advance()
    cases = []
    for at, index in enumerate(indices):
        pair = images[comparison.first.evaluation.out][at]
        row = comparison.first.rows.slice(index, 1).to_pylist()[0]
        cases.append(
            Case(
                pair=index,
                key=row["key"],
                hole_ratio=row["hole_ratio"],
                scores={
                    c.name: c.rows[DECIDING.name][index].as_py() for c in comparison.contenders
                },
                image=pair.image,
                hole=pair.hole,
                composites={
                    c.name: images[c.evaluation.out][at].composites[c.method]
                    for c in comparison.contenders
                },
            )
        )
    return cases


def fill_again(evaluation: Evaluation, indices: Sequence[int]) -> Iterator[PastedMethod]:
    """Inpaint some pairs of an evaluation again, as it did, on CPUs.

    Raises:
        UserError: if the checkpoint has been changed or removed since.
    """
    location = str(evaluation.checkpoint["location"])
    if checkpoints.digest(location) != evaluation.checkpoint["digest"]:
        raise UserError(
            f"the checkpoint {location} has changed since its evaluation {evaluation.out}; "
            "evaluate it again"
        )
    # A few images do not need a GPU, which the driver may not have.
    config = replace(from_dict(EvaluationConfig, evaluation.settings), gpus_per_actor=0.0)
    scorer = Scorer(config, evaluation.data["image_size_px"], evaluation.out)
    for few in scorer.pairs.batches(indices):
        filled = scorer.fill(few)
        for at, (image, hole) in enumerate(zip(filled.images, filled.holes, strict=True)):
            pasted = {
                method: composite(prediction[at], image, hole)
                for method, prediction in filled.predictions.items()
            }
            yield PastedMethod(image=image, hole=hole, composites=pasted)


def comparison_json(comparison: Comparison) -> str:
    """Return a comparison's figures as JSON."""
    values = {
        "contenders": [
            {
                "name": one.name,
                "method": one.method,
                "evaluation": one.evaluation.out,
                "digest": one.evaluation.digest,
                "checkpoint": one.evaluation.checkpoint,
            }
            for one in comparison.contenders
        ],
        "first": comparison.first.name,
        "gains": {
            name: {
                group: {metric: asdict(gain) for metric, gain in found.items()}
                for group, found in groups.items()
            }
            for name, groups in comparison.gains.items()
        },
        "best": comparison.best,
        "worst": comparison.worst,
    }
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def save_figures(comparison: Comparison, out: str) -> str:
    """Write ``comparison.json`` and return its location."""
    location = storage.join(storage.absolute(out), "comparison.json")
    storage.write(location, comparison_json(comparison).encode())
    return location
