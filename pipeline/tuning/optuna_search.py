"""Ray Tune's searcher for Optuna that proposes no combination twice."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from infill.pipeline.tuning.spaces import Space, combination_key, unseen

PROPOSALS = 20
"""Proposals of Optuna until a random combination is taken, if all were tried before."""


class DistinctOptuna(OptunaSearch):
    """Optuna's proposals without those that were made before.

    Args:
        choices: values in Ray's form, or ranges, by name.
        tried: combinations that are not proposed.
        seed: of the proposals.
        **options: of ``OptunaSearch``.
    """

    def __init__(
        self, choices: Space, tried: Iterable[Mapping[str, Any]], seed: int, **options: Any
    ) -> None:
        super().__init__(seed=seed, **options)
        self._choices, self._chance = choices, random.Random(seed)
        self._tried = set(map(combination_key, tried))
        self._accepted: dict[str, str] = {}
        """Optuna's name of each trial with a proposal of Optuna."""

    def suggest(self, trial_id: str) -> Any:
        """Return values that were not proposed before, or that there are no more."""
        for number in range(PROPOSALS):
            proposal = f"{trial_id}/{number}"
            values = super().suggest(proposal)
            if combination_key(values) not in self._tried:
                self._tried.add(combination_key(values))
                self._accepted[trial_id] = proposal
                return values
            super().on_trial_complete(proposal, error=True)
        return unseen(self._choices, self._tried, self._chance) or Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Let Optuna know a score of a proposal."""
        if trial_id in self._accepted:
            super().on_trial_result(self._accepted[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Let Optuna know the result of a proposal."""
        if trial_id in self._accepted:
            super().on_trial_complete(self._accepted[trial_id], result, error)
