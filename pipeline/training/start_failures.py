"""Workers of a training that do not start: each attempt is reported, and few are made.

Ray Train starts them again in silence, as often as it waits for resources.
"""

from collections.abc import Callable

from ray.train import ControllerError, FailureConfig, TrainingFailedError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy

from infill.pipeline.error_sentences import memory_of_node
from infill.pipeline.training.worker_failures import reason_of

START_ATTEMPTS = 10
"""Attempts in a row to start the workers; a lost node costs one or two."""


class StartPolicy(DefaultFailurePolicy):
    """Ray's decisions about failures, in its controller, with fewer attempts to start workers.

    Args:
        config: Ray's settings for all other failures.
        report: takes a sentence to log.
        attempts: number of attempts in a row to start the workers.
    """

    def __init__(self, config: FailureConfig, report: Callable[[str], None], attempts: int) -> None:
        super().__init__(config)
        self._report, self._attempts = report, attempts
        self._failed_starts = 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Decide as Ray does, but for workers that did not start."""
        failure = getattr(training_failed_error, "controller_failure", None)
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            return super().make_decision(training_failed_error)
        if not isinstance(failure, WorkerGroupStartupFailedError):
            self._failed_starts = 0
            return super().make_decision(training_failed_error)
        self._failed_starts += 1
        reason = start_reason(failure)
        if self._failed_starts < self._attempts:
            self._report(
                f"the workers of this training did not start: {reason}; starting them again "
                f"({self._failed_starts + 1} of {self._attempts})"
            )
            return FailureDecision.RETRY
        assert isinstance(training_failed_error, ControllerError)
        # The driver will not have the cause, which is lost on the way.
        training_failed_error.controller_failure = WorkerGroupStartupFailedError(reason)
        return FailureDecision.RAISE


def start_reason(failure: Exception) -> str:
    """Return why workers did not start, in one line, as far as Ray knows it."""
    text = f"{failure}\n{failure.__cause__ or ''}"
    if memory := memory_of_node(text):
        return f"Ray's memory monitor has ended one of them: {memory}"
    if reason := reason_of(text):
        return f"one of them died ({reason})"
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(failure).__name__
