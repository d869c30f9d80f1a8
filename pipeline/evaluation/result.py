"""The result of an evaluation, as saved in ``scores.json``."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.scores import ALL, Score, Scores, SetScore, SetScores
from infill.pipeline.metrics.metric_registry import Metric, chosen_metrics

SCORES = "scores.json"
FORMAT = 1
"""Format version; it changes when the same settings would give other rows or scores."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished evaluation: its scores, inputs and files."""

    out: str
    digest: str
    """Digest of settings, checkpoint and data: equal digests mean equal scores."""
    settings: dict[str, Any]
    """The configuration, as JSON values."""
    checkpoint: dict[str, Any]
    """``location``, ``digest``, ``architecture`` and ``step`` of the network."""
    data: dict[str, Any]
    """``location`` and ``digest`` of the test set; its ``images``, ``photographs`` and ``pairs``;
    the mean of the ``hole_ratios`` in each group."""
    scores: Scores
    """Scores by method (the network first), group ("all" last) and metric."""
    cost: dict[str, float]
    """Seconds the actors spent on each stage, summed over them; of the last session only."""
    set_scores: SetScores = field(default_factory=dict)
    """FID, KID and inception scores by method, group and metric; empty without their networks."""

    @property
    def methods(self) -> list[str]:
        """The network, then the baselines."""
        return list(self.scores)

    @property
    def network(self) -> str:
        """The network's name among the methods."""
        return self.methods[0]

    @property
    def groups(self) -> list[str]:
        """The columns: ranges of hole ratio, then "all"."""
        return list(self.scores[self.network])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The measured metrics, in the order of the tables."""
        names = list(self.scores[self.network][ALL])
        return tuple(metric for metric in chosen_metrics(names) if metric.name in names)

    @property
    def summary(self) -> dict[str, float]:
        """The network's mean of every metric over all pairs, for gates and searches."""
        return {name: score.mean for name, score in self.scores[self.network][ALL].items()}

    def location(self, name: str) -> str:
        """Return the location of one of the evaluation's files."""
        return storage.join(self.out, name)

    @property
    def files(self) -> dict[str, str]:
        """Location of each file, by its content."""
        names = {
            "report": "report.html",
            "grid": "grid.png",
            "scores": SCORES,
            "table": "scores.md",
            "spreadsheet": "scores.csv",
            "rows": "rows.parquet",
            "pairs": "pairs.parquet",
        }
        return {kind: self.location(name) for kind, name in names.items()}


def save_evaluation(evaluation: Evaluation) -> None:
    """Write ``scores.json``, the last file, which completes an evaluation."""
    values = {
        "format": FORMAT,
        "digest": evaluation.digest,
        "summary": evaluation.summary,
        "checkpoint": evaluation.checkpoint,
        "data": evaluation.data,
        "settings": evaluation.settings,
        "metrics": {metric.name: metric.display() for metric in evaluation.metrics},
        "cost": evaluation.cost,
        "scores": _plain(evaluation.scores),
        "set_scores": _plain(evaluation.set_scores),
    }
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    storage.write(evaluation.location(SCORES), text.encode())


def load_evaluation(out: str) -> Evaluation:
    """Read a finished evaluation.

    Raises:
        UserError: if it does not exist, or another version of this program wrote it.
    """
    out = storage.absolute(out)
    try:
        values = json.loads(storage.read(storage.join(out, SCORES)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{out} holds no finished evaluation: it has no {SCORES}; "
            "make one with `python jobs/evaluate.py`"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{storage.join(out, SCORES)} is not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f"{storage.join(out, SCORES)} is not of format {FORMAT}, which this program reads; "
            "evaluate the checkpoint again"
        )
    kept = ("digest", "settings", "checkpoint", "data", "cost")
    return Evaluation(
        out=out,
        scores=_rebuilt(Score, values["scores"]),
        set_scores=_rebuilt(SetScore, values.get("set_scores", {})),
        **{name: values[name] for name in kept},
    )


def _plain(scores: Scores | SetScores) -> dict[str, Any]:
    return {
        method: {
            group: {name: asdict(score) for name, score in found.items()}
            for group, found in groups.items()
        }
        for method, groups in scores.items()
    }


def _rebuilt(kind: type[Score] | type[SetScore], values: dict[str, Any]) -> dict[str, Any]:
    return {
        method: {
            group: {name: kind(**score) for name, score in found.items()}
            for group, found in groups.items()
        }
        for method, groups in values.items()
    }


def finished(out: str, digest: str, names: Iterable[str]) -> Evaluation | None:
    """Return the finished evaluation of these settings in a folder, or None.

    Args:
        out: the folder.
        digest: as :attr:`Evaluation.digest`.
        names: the metrics that it must have; one may have been declared since.
    """
    try:
        evaluation = load_evaluation(out)
    except UserError:
        return None
    whole = all(storage.exists(location) for location in evaluation.files.values())
    measured = set(names) <= set(evaluation.scores[evaluation.network][ALL])
    return evaluation if whole and measured and evaluation.digest == digest else None
