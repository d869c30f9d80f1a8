"""Optuna's TPE: proposes the combinations that earlier trials make promising."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infill.pipeline.progress import shows_everything

if TYPE_CHECKING:
    from infill.pipeline.tuning.spaces import Space

Encoded = Mapping[str, Any]
"""Values by name, as ``encode_values`` writes them for Ray Tune."""


def tpe(
    space: "Space",
    metric: str,
    seed: int,
    begun: Sequence[Encoded],
    finished: Sequence[tuple[Encoded, float]],
) -> Any:
    """Return Ray Tune's searcher for Optuna's TPE.

    Args:
        space: values or ranges by name.
        metric: the score to maximize.
        seed: of the proposals.
        begun: combinations of interrupted trials, which are proposed first.
        finished: combinations of finished trials with their scores.
    """
    import optuna

    from infill.pipeline.tuning.optuna_search import DistinctOptuna

    if not shows_everything():
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher = DistinctOptuna(
        _choices(space),
        [values for values, _ in finished],
        seed,
        space=_distributions(space),
        metric=metric,
        mode="max",
        points_to_evaluate=list(begun) or None,
    )
    for values, score in finished:
        if math.isfinite(score):
            searcher.add_evaluated_point(values, score)
    return searcher


def _choices(space: "Space") -> "Space":
    """Return a space whose listed values are in Ray's form, each once."""
    from infill.pipeline.tuning.spaces import Range, distinct

    return {
        name: values
        if isinstance(values, Range)
        else [json.dumps(value) for value in distinct(values)]
        for name, values in space.items()
    }


def _distributions(space: "Space") -> dict[str, Any]:
    from optuna import distributions

    from infill.pipeline.tuning.spaces import Range

    found: dict[str, Any] = {}
    for name, values in _choices(space).items():
        if not isinstance(values, Range):
            found[name] = distributions.CategoricalDistribution(values)
        elif values.whole:
            low, high = int(values.low), int(values.high)
            found[name] = distributions.IntDistribution(low, high, log=values.log)
        else:
            found[name] = distributions.FloatDistribution(values.low, values.high, log=values.log)
    return found
