"""Ray Tune's ASHA that knows the trials which an interrupted search has finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler


@dataclass(frozen=True, kw_only=True)
class _Finished:
    """A trial as far as ASHA looks at it."""

    trial_id: str


class ResumedASHA(ASHAScheduler):
    """ASHA whose rounds hold the scores of finished trials from the beginning.

    Args:
        finished: their scores by step.
        **options: of ``ASHAScheduler``.
    """

    def __init__(self, finished: Sequence[Mapping[int, float]], **options: Any) -> None:
        super().__init__(**options)
        self._finished = finished

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take the metric, without which no score counts, and then the finished trials."""
        accepted = bool(super().set_search_properties(metric, mode, **spec))
        for index, curve in enumerate(self._finished):
            trial = _Finished(trial_id=f"finished-{index}")
            self.on_trial_add(None, trial)
            for step, score in sorted(curve.items()):
                self.on_trial_result(None, trial, {self._time_attr: step, self._metric: score})
        return accepted
