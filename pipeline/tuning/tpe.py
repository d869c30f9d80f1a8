"""Optuna's TPE: proposes the combinations that earlier trials make promising."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    from ray.tune.search.optuna import OptunaSearch

    searcher = OptunaSearch(
        space=_distributions(space),
        metric=metric,
        mode="max",
        seed=seed,
        points_to_evaluate=list(begun) or None,
    )
    for values, score in finished:
        searcher.add_evaluated_point(values, score)
    return searcher


def _distributions(space: "Space") -> dict[str, Any]:
    from optuna import distributions

    from infill.pipeline.tuning.spaces import Range

    found: dict[str, Any] = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            found[name] = distributions.CategoricalDistribution([json.dumps(v) for v in values])
        elif values.whole:
            low, high = int(values.low), int(values.high)
            found[name] = distributions.IntDistribution(low, high, log=values.log)
        else:
            found[name] = distributions.FloatDistribution(values.low, values.high, log=values.log)
    return found
