"""ASHA: stops the worse half of the trials at each doubling of their steps."""

from typing import Any

ROUNDS = 8
"""Share of the steps that the first round takes; they double from round to round."""


def asha(steps: int) -> Any:
    """Return Ray Tune's scheduler for ASHA.

    Args:
        steps: of a trial that is never stopped.
    """
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="step", max_t=steps, grace_period=max(1, steps // ROUNDS), reduction_factor=2
    )
