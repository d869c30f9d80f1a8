"""Validate, render sample grids and write checkpoints in a background thread."""

import copy
import json
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from infill.models.architecture import Objective
from infill.pipeline import checkpoints, storage
from infill.pipeline.config import to_dict
from infill.pipeline.provenance import made_with
from infill.pipeline.tracking import Record, Report
from infill.pipeline.training.build import ExponentialMovingAverage
from infill.pipeline.training.config import TrainConfig
from infill.pipeline.training.run_dir import NEWER_FIELDS, best, newer_fields
from infill.pipeline.training.validation import Validator

WAITING_SHARE = 0.25
"""The share of the collectives' timeout that the first worker, for which the others wait, waits at
most until the checkpoint before is written."""
SAVE_ATTEMPTS = 20
"""Number of attempts to write a checkpoint, over about three minutes, if the store is down."""


@dataclass(frozen=True, kw_only=True)
class TrainingSnapshot:
    """A copy of a training after a step."""

    step: int
    generator: nn.Module
    """A copy of the generator, or of its EMA if there is one: validated and served."""
    whole: checkpoints.Snapshot | None
    """The contents of a checkpoint, if one is to be written."""
    grid: bool
    """Whether to write a sample grid."""
    validate: bool
    """Whether to validate before the checkpoint is written."""


class AsyncCheckpointer:
    """Runs on the first worker: validates, renders grids and saves in a thread, step by step.

    Every worker has the same weights, so the others neither communicate nor wait, unless the copy
    before is still under way: then for a share of the collectives' timeout at most. An error of the
    thread is raised with the next snapshot, or at the end.
    """

    def __init__(
        self,
        config: TrainConfig,
        validator: Validator | None,
        report: Report,
        data_digest: str,
        first_step: int = 0,
    ) -> None:
        self.config, self.validator, self.report = config, validator, report
        self.lasting: dict[str, Any] = {"data_digest": data_digest, "made_with": made_with()}
        if newer := _newer_fields(config, first_step):
            self.lasting[NEWER_FIELDS] = newer
        _require_fields(self.lasting)
        self.under_way: Future[None] | None = None
        self.saving = 0
        """The step of the current copy."""
        self.late = False
        """Whether the current copy has taken longer than the first worker may wait."""
        # A new thread would use every core; this one has as many threads as the training.
        self.thread = ThreadPoolExecutor(
            1, "checkpointer", torch.set_num_threads, (torch.get_num_threads(),)
        )

    def submit(
        self,
        objective: Objective,
        average: ExponentialMovingAverage | None,
        step: int,
        *,
        grid: bool,
        save: bool,
        hurry: bool = False,
        last: bool = False,
    ) -> None:
        """Copy the training and process the copy in the thread, after the previous copy.

        If the previous one is not done in time, because the store hangs for example, this step is
        left out, with a sentence in the log.

        Args:
            objective: the networks and optimizers.
            average: the EMA of its generator, if there is one.
            step: number of steps taken so far.
            grid: whether to write a sample grid.
            save: whether to write a checkpoint, with scores.
            hurry: whether to write one at once, without scores; it is never the best one.
            last: whether no worker takes another step, so that nobody waits for this one.

        Raises:
            OSError: if the previous checkpoint could not be written.
        """
        if not self.wait(None if last else self._longest_s()):
            self.late = True
            self._warn(step)
            return
        self.saving, self.late = step, False
        averaged = average.network if average is not None else None
        snapshot = TrainingSnapshot(
            step=step,
            generator=copy.deepcopy(averaged or objective.generator),
            whole=checkpoints.snapshot(objective, averaged) if save or hurry else None,
            grid=grid and not hurry,
            validate=not hurry,
        )
        self.under_way = self.thread.submit(self._process, snapshot)

    def wait(self, at_most_s: float | None = None) -> bool:
        """Wait for the current copy, without end if None; return whether it is done."""
        future = self.under_way
        if future is None:
            return True
        if not futures.wait([future], at_most_s).done:
            return False
        self.under_way = None
        future.result()
        return True

    def _longest_s(self) -> float | None:
        """Return how long the first worker may wait; None if no others wait for it."""
        if self.config.num_workers < 2:
            return None
        return 0.0 if self.late else WAITING_SHARE * self.config.collective_timeout_s

    def _warn(self, step: int) -> None:
        """Log that a step is left out."""
        text = (
            f"nothing is saved at step {step}: the checkpoint of step {self.saving} is still being "
            f"scored or written to {self.config.storage}, and the other workers would wait"
        )
        self.report(Record(kind="note", step=step, text=text))

    def _process(self, snapshot: TrainingSnapshot) -> None:
        if snapshot.grid and self.validator is not None:
            self.validator.write_grid(snapshot.generator, snapshot.step, self.report)
        if snapshot.whole is not None:
            validator = self.validator if snapshot.validate else None
            scores = validator.scores(snapshot.generator) if validator is not None else {}
            self._save(snapshot.whole, scores, snapshot.step)
            if not snapshot.validate:
                text = f"saved at step {snapshot.step}"
                self.report(Record(kind="note", step=snapshot.step, text=text))

    def _save(self, whole: checkpoints.Snapshot, scores: dict[str, float], step: int) -> None:
        """Write a checkpoint, delete older ones, report the scores."""
        state: dict[str, Any] = {"step": step, "scores": scores, **self.lasting}
        run, configuration = self.config.storage, to_dict(self.config)
        location = checkpoints.step_location(run, step)

        def write() -> None:
            checkpoints.write(location, whole, configuration, state)
            keep = checkpoints.read_state(best(run)[0])["step"]
            checkpoints.prune(run, self.config.keep_checkpoints, protected={keep})

        def on_failure(error: Exception) -> None:
            text = f"cannot save at step {step} for the snapshot, trying again: {error}"
            self.report(Record(kind="note", step=step, text=text))

        storage.retry(write, SAVE_ATTEMPTS, on_failure)
        if scores:
            self.report(Record(kind="scores", step=step, values=scores, checkpoint=location))

    def __enter__(self) -> "AsyncCheckpointer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the current copy; its error does not hide one of the training itself."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
        finally:
            self.thread.shutdown()


def _require_fields(lasting: dict[str, Any]) -> None:
    """Refuse fields that ``state.json`` cannot hold, before the first checkpoint is due.

    Raises:
        ValueError: naming a field that every checkpoint has already, or whose value is not JSON.
    """
    for name, value in lasting.items():
        if name in checkpoints.OWN_FIELDS:
            raise ValueError(f"a checkpoint's {name!r} has its own meaning: choose another name")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a checkpoint's {name!r} is not a JSON value: {value!r}") from error


def _newer_fields(config: TrainConfig, first_step: int) -> list[str]:
    """Return the fields that a resumed run did not have when it began."""
    if first_step not in checkpoints.steps(config.storage):
        return []
    return newer_fields(config, checkpoints.step_location(config.storage, first_step))
