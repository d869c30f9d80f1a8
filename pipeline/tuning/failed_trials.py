"""Trials that failed and are not tried again: which, and the user's sentence for each."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Callback

from infill.pipeline.error_sentences import ended_for_memory, explain
from infill.pipeline.progress import shows_everything

_TRACEBACKS = ("ray.tune.execution.tune_controller", "ray.tune.tune")
"""Ray's loggers that print the whole traceback of every failure, retried ones included."""


@dataclass(frozen=True, kw_only=True)
class EndedTrial:
    """What Ray Tune knows of a trial at the end of a search."""

    trial_id: str
    """Ray's name; "" if the trial has not started."""
    config: dict[str, Any] | None
    """The trial's settings; None if the trial has not started."""
    metrics: dict[str, Any]
    """What it reported last; empty if nothing."""
    error: str
    """Why it failed, in a sentence; "" if it did not."""


class FailedTrials(Callback):
    """Knows the trials that failed and are not tried again. On the driver.

    Ray's own results name neither settings nor number of a trial that reported nothing.
    """

    def __init__(self) -> None:
        self._found: dict[str, EndedTrial] = {}

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Take note of a trial that has failed and is not tried again."""
        self._found[trial.trial_id] = EndedTrial(
            trial_id=trial.trial_id, config=trial.config, metrics={}, error=reason_of(trial)
        )

    def among(self, results: Any) -> list[EndedTrial]:
        """Return Ray's results, those of failed trials with their settings and reasons."""
        ended, failed = [], dict(self._found)
        for result in results:
            metrics = result.metrics or {}
            name = metrics.get("trial_id", "")
            known = failed.pop(name, None)
            if not metrics and result.error is not None:
                continue  # One of those that are added below.
            ended.append(
                EndedTrial(
                    trial_id=name,
                    config=known.config if known else result.config,
                    metrics=metrics,
                    error=known.error if known else "",
                )
            )
        return ended + list(failed.values())


def reason_of(trial: Any) -> str:
    """Return why one of Ray's trials failed the last time, in a line. As soon as it has failed."""
    # Beside the driver; Ray's own readers wait for the storage.
    text = Path(trial.error_file).read_text() if trial.error_file else ""
    last = text.rpartition("Failure # ")[2]
    if memory := ended_for_memory(last):  # Ray keeps no exception of it.
        return memory
    if trial.pickled_error_file:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        if sentence := explain(error):
            return sentence
    line = next(filter(None, map(str.strip, reversed(last.splitlines()))), "Ray does not say why")
    return re.sub(r"^infill\.[\w.]+: ", "", line)  # the name of an exception of ours


@contextmanager
def without_tracebacks() -> Iterator[None]:
    """Keep the tracebacks of failed trials off the terminal: each has a line of ours."""
    if shows_everything():
        yield
        return
    loggers = [logging.getLogger(name) for name in _TRACEBACKS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
