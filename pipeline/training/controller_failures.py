"""A Ray Train controller that dies or fails: another is started, and the run resumes.

The controller is a process on the driver's node. Ray's monitor of memory or the kernel may end it
because of another program there. Ray itself then ends the training in a traceback, and keeps the
workers' resources reserved while the driver lives. So does Ray when the controller loses a worker
at a moment at which it expects no loss, as at the end of the workers' start.
"""

from collections.abc import Callable
from typing import Any

from infill.pipeline.errors import UserError
from infill.pipeline.interruption import requested
from infill.pipeline.memory_holders import largest_holder
from infill.pipeline.training.stopping import stopping_workers


def fit(
    start: Callable[[], Any],
    monitor: Any,
    max_failures: int,
    report: Callable[[str], None],
    has_failed: Callable[[], bool],
) -> None:
    """Train, with as many controllers as it takes. On the driver.

    Returns early, after a checkpoint, if this process is asked to end.

    Args:
        start: makes a trainer; each resumes from the newest checkpoint.
        monitor: the handle of the run's ``HeartbeatMonitor``, which knows the workers' reservation.
        max_failures: number of controllers that are replaced.
        report: takes a sentence to log.
        has_failed: whether the training cannot go on here; its workers are ended at once.

    Raises:
        UserError: if one more died or failed, or the workers did not start.
        ray.train.TrainingFailedError: as Ray's own ``fit``.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.train import TrainingFailedError

    for failed in range(max_failures + 1):
        trainer = start()
        try:
            with stopping_workers(monitor, trainer.abort, has_failed):
                trainer.fit()
        except (RayActorError, OutOfMemoryError, TrainingFailedError) as error:
            trainer.abort()  # Else the controller would live while anyone holds the exception.
            happened = _what_happened(error)
            if happened is None:
                raise
            free_reservation(monitor)
            if requested() or has_failed():
                return
            if failed == max_failures:
                before = f"; {failed} before it failed too" if failed else ""
                raise UserError(
                    f"Ray's controller of this training {happened}{before}; free memory on the "
                    "nodes of the driver and the workers, or raise max_failures. The same command "
                    "resumes from the newest checkpoint"
                ) from error
            report(f"Ray's controller of this training {happened}; starting another")
        else:
            return


def _what_happened(error: Exception) -> str | None:
    """Return what ended a controller, or None if another one would end in the same way.

    Raises:
        UserError: if Ray has tried to start the workers as often as it may.
    """
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.train import ControllerError, TrainingFailedError
    from ray.train.v2._internal.exceptions import (
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )

    from infill.pipeline.training.start_failures import start_reason

    if not isinstance(error, TrainingFailedError):
        return f"died: {_reason(error)}"
    failure = error.controller_failure if isinstance(error, ControllerError) else None
    if isinstance(failure, WorkerGroupStartupTimeoutError):
        raise UserError(
            f"no resources for {failure.num_workers} workers became free in time: add nodes, end "
            "other jobs, or ask for fewer workers; the same command resumes from the newest "
            "checkpoint"
        ) from error
    if isinstance(failure, WorkerGroupStartupFailedError):
        raise UserError(
            f"the workers of this training did not start in several attempts: "
            f"{start_reason(failure)}; correct that on the nodes, or leave them out with "
            "worker_labels. The same command resumes from the newest checkpoint"
        ) from error
    of_code = isinstance(failure, RayTaskError) and not isinstance(failure, RayActorError)
    return f"failed: {_reason(failure)}" if isinstance(failure, RayError) and not of_code else None


def free_reservation(monitor: Any) -> None:
    """Give the resources of a dead controller's workers back to the cluster. On the driver.

    A trial of a search keeps its own, in which the next controller's workers start.
    """
    import ray
    from ray.util import get_current_placement_group, remove_placement_group

    group = ray.get(monitor.reservation.remote())
    if group is not None and group != get_current_placement_group():
        remove_placement_group(group)


def _reason(error: Exception) -> str:
    """Return what Ray knows of the death in one line."""
    text = str(error)
    if "memory" in text.lower() and "OOM" in text:
        holder = largest_holder()
        held = f", of which {holder}, holds most outside this job" if holder else ""
        return f"its node was short of memory{held}"
    return _lines(error)[0].rstrip(".")


def _lines(error: Exception) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]
