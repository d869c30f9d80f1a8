"""Stop a search that Ctrl-C or SIGTERM interrupts, after a checkpoint of every running trial."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ray.exceptions import RayError
from ray.tune import Callback, Stopper

from infill.pipeline import storage
from infill.pipeline.cluster import beside_driver
from infill.pipeline.interruption import Interrupted, postponed, request, requested
from infill.pipeline.shared_folders import require_seen

POLL_EVERY_S = 0.5


class SearchRequest:
    """An actor that holds the signal that ended the search, and which trials have saved since."""

    def __init__(self) -> None:
        self._number = 0
        self._saved: set[str] = set()

    def number(self) -> int:
        """Return the signal; 0 if there was none."""
        return self._number

    def saved(self, trial: str) -> None:
        """Take note that a trial has saved, or has nothing to save."""
        self._saved.add(trial)

    def stop(self, number: int) -> set[str]:
        """Ask every trial to save and stop; return those that have."""
        self._number = number
        return self._saved


class RunningTrials(Callback):
    """Knows which trials are running. On the driver."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Add a trial whose process has started."""
        self.names.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Remove a finished trial."""
        self.names.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Remove a trial that has failed and is not tried again."""
        self.names.discard(trial.trial_id)


class StopAfterCheckpoints(Stopper):
    """Ends an interrupted search once the trials that ran at that time have saved. On the driver.

    Args:
        running: the trials that run.
        asked: the handle of the :class:`SearchRequest`.
    """

    def __init__(self, running: RunningTrials, asked: Any) -> None:
        self._running, self._asked = running, asked
        self._saving: set[str] | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether the search ends; the first call after a signal asks the trials to save."""
        import ray

        if not requested():
            return False
        saved = ray.get(self._asked.stop.remote(requested()))
        if self._saving is None:
            self._saving = set(self._running.names)
        self._saving &= self._running.names - saved  # Trials that start now do nothing.
        return not self._saving


@contextmanager
def saving_trials(run: str) -> Iterator[tuple[Any, RunningTrials, Stopper]]:
    """Let an interrupted search of the block end after its trials' checkpoints. On the driver.

    Args:
        run: the search's folder.

    Yields:
        The actor for :func:`stoppable`, and the callback and the stopper for Ray Tune.

    Raises:
        Interrupted: if this process was asked to end.
    """
    import ray

    asked, running = beside_driver(SearchRequest), RunningTrials()
    with postponed():
        try:
            yield asked, running, StopAfterCheckpoints(running, asked)
        finally:
            ray.kill(asked)
        if number := requested():
            kept = f"interrupted, its trials are saved in {storage.absolute(run)}"
            raise Interrupted(number, f"{kept}; run the same command again to resume")


def stoppable(
    trainable: Callable[[dict[str, Any]], None], asked: Any, seen: Sequence[str] = ()
) -> Callable[[dict[str, Any]], None]:
    """Return a trial's function that saves once the search is interrupted, and awaits its end.

    It does not return then, because Ray Tune would take that for a finished trial.

    Args:
        trainable: runs in a trial's process, with the trial's settings.
        asked: the handle of the :class:`SearchRequest`.
        seen: the local paths of the driver that the node of a trial must see.
    """

    def run(settings: dict[str, Any]) -> None:
        import ray
        from ray import tune as ray_tune

        require_seen(seen)
        over, trial = threading.Event(), ray_tune.get_context().get_trial_id()

        def watch() -> None:
            with suppress(RayError):  # The search is over.
                while not over.wait(POLL_EVERY_S):
                    if number := ray.get(asked.number.remote()):
                        request(number)
                        return

        thread = threading.Thread(target=watch, name="interruption", daemon=True)
        try:
            if not ray.get(asked.number.remote()):
                thread.start()
                trainable(settings)
                return
        except Interrupted:
            pass  # It has saved.
        finally:
            over.set()
        ray.get(asked.saved.remote(trial))
        threading.Event().wait()

    return run
