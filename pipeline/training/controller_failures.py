"""A Ray Train controller that dies: another is started, and the run resumes.

The controller is a process on the driver's node. Ray's monitor of memory or the kernel may end it
because of another program there. Ray itself then ends the training in a traceback, and keeps the
workers' resources reserved while the driver lives.
"""

from collections.abc import Callable
from typing import Any

from infill.pipeline.errors import UserError
from infill.pipeline.interruption import requested
from infill.pipeline.memory_holders import largest_holder
from infill.pipeline.training.stopping import stopping_workers


def fit(
    start: Callable[[], Any], watch: Any, max_failures: int, report: Callable[[str], None]
) -> None:
    """Train, with as many controllers as it takes. On the driver.

    Returns early, after a checkpoint, if this process is asked to end.

    Args:
        start: makes a trainer; each resumes from the newest checkpoint.
        watch: the handle of the run's ``HeartbeatMonitor``, which knows the workers' reservation.
        max_failures: number of controllers that are replaced.
        report: takes a sentence to log.

    Raises:
        UserError: if one more died.
        ray.train.TrainingFailedError: as Ray's own ``fit``.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError

    for died in range(max_failures + 1):
        trainer = start()
        try:
            with stopping_workers(watch, trainer.abort):
                trainer.fit()
        except (RayActorError, OutOfMemoryError) as error:
            reason = _reason(error)
            free_reservation(watch)
            if requested():
                return
            if died == max_failures:
                raise UserError(
                    f"Ray's controller of this training died {died + 1} times: {reason}; free "
                    "memory on the node of the driver, or raise max_failures. The same command "
                    "resumes from the newest checkpoint"
                ) from error
            report(f"Ray's controller of this training has died: {reason}; starting another")
        else:
            return


def free_reservation(watch: Any) -> None:
    """Give the resources of a dead controller's workers back to the cluster. On the driver.

    A trial of a search keeps its own, in which the next controller's workers start.
    """
    import ray
    from ray.util import get_current_placement_group, remove_placement_group

    group = ray.get(watch.reservation.remote())
    if group is not None and group != get_current_placement_group():
        remove_placement_group(group)


def _reason(error: Exception) -> str:
    """Return what Ray knows of the death in one line."""
    text = str(error)
    if "memory" in text.lower() and "OOM" in text:
        holder = largest_holder()
        held = f", of which {holder}, holds most outside this job" if holder else ""
        return f"its node was short of memory{held}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
