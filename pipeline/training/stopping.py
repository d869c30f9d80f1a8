"""Stop a training that Ctrl-C or SIGTERM interrupts, after a checkpoint at the step reached."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infill.pipeline import checkpoints
from infill.pipeline.background import beside
from infill.pipeline.interruption import Interrupted, postponed, requested

POLL_EVERY_S = 0.2


def raise_if_requested(run: str) -> None:
    """End an interrupted training, saying where it resumes. On the driver.

    Args:
        run: the run's folder.

    Raises:
        Interrupted: if this process was asked to end.
    """
    if not requested():
        return
    steps = checkpoints.steps(run)
    kept = f"saved at step {steps[-1]:,} in {run}" if steps else "before the first step"
    raise Interrupted(requested(), f"interrupted, {kept}; run the same command again to resume")


@contextmanager
def stopping_workers(
    monitor: Any, abort: Callable[[], None], has_failed: Callable[[], bool]
) -> Iterator[None]:
    """Ask the workers of the block to save and stop, once this process is asked to end.

    Runs on the driver.

    Args:
        monitor: the heartbeat monitor, an actor, from which every worker learns it.
        abort: ends the workers; called if none of them is training, as nothing can be saved then.
        has_failed: whether the training cannot go on here; its workers are ended at once.
    """
    import ray

    def ask(over: threading.Event) -> None:
        while not over.wait(POLL_EVERY_S):
            if has_failed() or requested():
                if has_failed() or not ray.get(monitor.stop.remote()):
                    abort()
                return

    with postponed(), beside(ask, "stopping"):
        yield
