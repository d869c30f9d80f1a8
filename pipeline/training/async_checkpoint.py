"""Validate, render sample grids and write checkpoints in a background thread."""

import copy
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
from infill.pipeline.training.run_dir import best
from infill.pipeline.training.validation import Validator

SAVE_ATTEMPTS = 20
"""Of writing a checkpoint: about three minutes, for a store that is away meanwhile."""


@dataclass(frozen=True, kw_only=True)
class TrainingSnapshot:
    """A training as it stood after a step."""

    step: int
    generator: nn.Module
    """A copy of what is judged and served: the averaged generator, if there is one."""
    whole: checkpoints.Snapshot | None
    """What a checkpoint holds, if one is wanted."""
    draw: bool
    """Whether a sample grid is wanted."""
    judge: bool
    """Whether there is time for scores before the checkpoint is written."""


class AsyncCheckpointer:
    """Runs on the first worker: validates, renders grids and saves in a thread, step by step.

    Every worker has the same weights, so no other has to wait or to agree. What went wrong in the
    thread is raised when the next moment is handed over, or at the end.
    """

    def __init__(
        self, config: TrainConfig, judge: Validator | None, report: Report, data_digest: str
    ) -> None:
        self.config, self.judge, self.report = config, judge, report
        self.lasting = {"data_digest": data_digest, "made_with": made_with()}
        self.under_way: Future[None] | None = None
        # A new thread would compute with every core; this one is to have as many as the training.
        self.thread = ThreadPoolExecutor(
            1, "keeper", torch.set_num_threads, (torch.get_num_threads(),)
        )

    def keep(
        self,
        objective: Objective,
        average: ExponentialMovingAverage | None,
        step: int,
        *,
        draw: bool,
        save: bool,
        hurry: bool = False,
    ) -> None:
        """Take a copy of the training as it stands, once the copy before is dealt with.

        Args:
            objective: with what is trained.
            average: of its generator, if there is one.
            step: the steps taken so far.
            draw: a sample grid.
            save: a checkpoint, with scores.
            hurry: a checkpoint at once, without scores; it is never the best one.

        Raises:
            OSError: if the checkpoint before could not be written.
        """
        self.wait()
        averaged = average.network if average is not None else None
        moment = TrainingSnapshot(
            step=step,
            generator=copy.deepcopy(averaged or objective.generator),
            whole=checkpoints.snapshot(objective, averaged) if save or hurry else None,
            draw=draw and not hurry,
            judge=not hurry,
        )
        self.under_way = self.thread.submit(self._deal_with, moment)

    def wait(self) -> None:
        """Return when nothing is under way; raise what went wrong with it."""
        future, self.under_way = self.under_way, None
        if future is not None:
            future.result()

    def _deal_with(self, moment: TrainingSnapshot) -> None:
        if moment.draw and self.judge is not None:
            self.judge.draw(moment.generator, moment.step, self.report)
        if moment.whole is not None:
            judge = self.judge if moment.judge else None
            scores = judge.scores(moment.generator) if judge is not None else {}
            self._save(moment.whole, scores, moment.step)
            if not moment.judge:
                text = f"saved at step {moment.step}"
                self.report(Record(kind="note", step=moment.step, text=text))

    def _save(self, whole: checkpoints.Snapshot, scores: dict[str, float], step: int) -> None:
        """Write a checkpoint, clear older ones, report the scores."""
        state: dict[str, Any] = {"step": step, "scores": scores, **self.lasting}
        run, configuration = self.config.storage, to_dict(self.config)
        location = checkpoints.step_location(run, step)

        def write() -> None:
            checkpoints.write(location, whole, configuration, state)
            keep = checkpoints.read_state(best(run)[0])["step"]
            checkpoints.prune(run, self.config.keep_checkpoints, protected={keep})

        def on_failure(error: Exception) -> None:
            text = f"cannot save at step {step} for the moment, trying again: {error}"
            self.report(Record(kind="note", step=step, text=text))

        storage.patiently(write, SAVE_ATTEMPTS, on_failure)
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
        """Finish what is under way; a failure of the training itself is not hidden by another."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
        finally:
            self.thread.shutdown()
