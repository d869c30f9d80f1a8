"""ASHA: stops the worse half of the trials at each doubling of their steps."""

from collections.abc import Mapping, Sequence
from typing import Any

ROUNDS = 8
"""Share of the steps that the first round takes; they double from round to round."""
Curve = Mapping[int, float]
"""A trial's scores by step."""


def asha(steps: int, finished: Sequence[Curve]) -> Any:
    """Return Ray Tune's scheduler for ASHA.

    Args:
        steps: of a trial that is never stopped.
        finished: trials of an interrupted search, which the others are compared with as well.
    """
    from infill.pipeline.tuning.asha_scheduler import ResumedASHA

    return ResumedASHA(
        finished,
        time_attr="step",
        max_t=steps,
        grace_period=max(1, steps // ROUNDS),
        reduction_factor=2,
    )
