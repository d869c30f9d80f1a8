"""The search algorithms: how combinations are chosen, and which trials are stopped early.

To add one, write a module here with a function that returns Ray Tune's scheduler or searcher, and
give it a line in ``ALGORITHMS``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infill.pipeline.tuning.asha import Curve, asha
from infill.pipeline.tuning.tpe import tpe


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """How a search chooses combinations and stops trials; by default at random, and never."""

    enumerates: bool = False
    """Whether every combination is tried, or an even selection of them."""
    scheduler: Callable[[int, Sequence[Curve]], Any] | None = None
    """Returns Ray Tune's scheduler, which stops trials early, from the number of training steps and
    the scores of the trials that an interrupted search has finished."""
    searcher: Callable[..., Any] | None = None
    """Returns Ray Tune's searcher, which proposes combinations, as :func:`tpe` does."""
    exchanges: bool = False
    """Whether trials are a population whose members copy each other (PBT)."""

    @property
    def repeats(self) -> bool:
        """Whether a combination can be trained with several seeds."""
        return not (self.scheduler or self.searcher or self.exchanges)


ALGORITHMS: dict[str, Algorithm] = {
    "grid": Algorithm(enumerates=True),
    "random": Algorithm(),
    "tpe": Algorithm(searcher=tpe),
    "asha": Algorithm(scheduler=asha),
    "pbt": Algorithm(exchanges=True),
}
