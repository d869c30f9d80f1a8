"""The loop every worker runs.

The loop belongs to every paper: it feeds batches to the paper's own ``step``, and at fixed steps
reports, draws a grid, validates and saves.
"""

import time
from dataclasses import replace

import torch
from torch import Tensor

from models.architecture import Objective
from pipeline import checkpoints, storage
from pipeline.batches import BatchStream
from pipeline.config import to_dict
from pipeline.manifest import read_manifest
from pipeline.tracking import Record, Report
from pipeline.training.building import Average, build_objective
from pipeline.training.config import TrainConfig
from pipeline.training.judging import Judge
from pipeline.training.place import Place
from pipeline.training.runs import best, find_sets

SAVE_ATTEMPTS = 20
"""Of writing a checkpoint: about three minutes, for a store that is away meanwhile."""


def work(config: TrainConfig, place: Place, report: Report) -> None:
    """Take this worker's share of every step. On every worker."""
    training_set, validation_set = find_sets(config.data.shards)
    objective, average, first_step = _begin(config, place, report)
    manifest = read_manifest(training_set)
    judge = Judge(config, place, read_manifest(validation_set) if validation_set else None)
    data = replace(config.data, shards=training_set)
    meter = Meter(config, place, report, objective, manifest.digest)
    steps, low = range(first_step, config.steps), config.precision == "bfloat16"
    with BatchStream(data, place.rank, place.world_size, first_step) as stream:
        meter.start(stream, first_step)
        for step, batch in zip(steps, stream, strict=False):
            place.pulse.step, place.pulse.doing = step, "taking a step"
            with torch.autocast(place.device.type, torch.bfloat16, enabled=low):
                losses = objective.take(batch.to(place.device))
            stop_if_not_finite(losses, step)
            if average is not None:
                average.update(objective.generator, step)
            drawn = average.network if average is not None else objective.generator
            done = step + 1
            if due(done, config.report_every_steps, config.steps):
                meter.report_losses(losses, done)
            if due(done, config.sample_every_steps, config.steps):
                judge.draw(drawn, done, report)
            if due(done, config.save_every_steps, config.steps):
                place.pulse.doing = "scoring and saving"
                meter.save(average, judge.scores(drawn), done)
            place.pulse.doing = "waiting for a batch"


def due(done: int, every: int, last: int) -> bool:
    """Tell whether something that happens ``every`` so many steps, and at the last, is due."""
    return done % every == 0 or done == last


def _begin(
    config: TrainConfig, place: Place, report: Report
) -> tuple[Objective, Average | None, int]:
    """Build the networks and bring them to where the run stands."""
    objective = build_objective(config, place)

    def note(text: str) -> None:
        if place.rank == 0:
            report(Record(kind="note", step=0, text=text))

    newest = place.agree(checkpoints.latest(config.storage, note) if place.rank == 0 else None)
    if newest is None and config.init_from:
        checkpoints.initialize(config.init_from, objective)
        note(f"starting from the weights of {config.init_from}")
    average = Average(objective.generator, config.ema_decay) if config.ema_decay else None
    if newest is None:
        return objective, average, 0
    state = checkpoints.restore(newest, objective, average.network if average else None)
    note(f"going on from step {state['step']}")
    return objective, average, int(state["step"])


class NonFiniteLossError(ArithmeticError):
    """A loss that is no longer a number; names the term and the step."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(term, step)
        self.term, self.step = term, step

    def __str__(self) -> str:
        return f"the loss {self.term!r} is not finite at step {self.step}"


def stop_if_not_finite(losses: dict[str, Tensor], step: int) -> None:
    """Raise :class:`NonFiniteLossError` for the first term that is infinite or not a number."""
    finite = torch.stack([value.detach().float() for value in losses.values()]).isfinite()
    for term, good in zip(losses, finite.tolist(), strict=True):  # one wait for the device
        if not good:
            raise NonFiniteLossError(term, step)


class Meter:
    """A worker's clock and pen: rates between two reports, and the checkpoints."""

    def __init__(
        self, config: TrainConfig, place: Place, report: Report, objective: Objective, data: str
    ) -> None:
        self.config, self.place, self.report = config, place, report
        self.objective, self.data_digest = objective, data

    def start(self, stream: BatchStream, step: int) -> None:
        """Begin to count time and waiting."""
        self.stream, self.step = stream, step
        self.moment, self.waited_s = time.monotonic(), stream.wait_s

    def report_losses(self, losses: dict[str, Tensor], step: int) -> None:
        """Report global means of loss terms and verdicts, samples per second, data wait share."""
        right = {f"accuracy/{role}": share for role, share in self.objective.accuracies.items()}
        meant = losses | right
        sums = self.place.total(torch.stack([mean.detach().float() for mean in meant.values()]))
        values = dict(zip(meant, (sums / self.place.world_size).tolist(), strict=True))
        now, waited_s = time.monotonic(), self.stream.wait_s
        elapsed_s = now - self.moment
        samples = (step - self.step) * self.config.data.batch_size
        for role, norm in self.objective.gradient_norms.items():
            values[f"gradient_norm/{role}"] = norm.item()
        for role, optimizer in self.objective.optimizers.items():
            values[f"learning_rate/{role}"] = optimizer.param_groups[0]["lr"]
        values["samples_per_s"] = samples / elapsed_s
        values["data_wait_share"] = (waited_s - self.waited_s) / elapsed_s
        self.step, self.moment, self.waited_s = step, now, waited_s
        if self.place.rank == 0:
            self.report(Record(kind="losses", step=step, values=values))

    def save(self, average: Average | None, scores: dict[str, float], step: int) -> None:
        """Report the scores; the first worker writes the checkpoint and clears older ones."""
        if self.place.rank != 0:
            return
        if scores:
            self.report(Record(kind="scores", step=step, values=scores))
        state = {"step": step, "data_digest": self.data_digest, "scores": scores}
        run = self.config.storage

        def save() -> None:
            checkpoints.save(
                checkpoints.step_location(run, step),
                self.objective,
                average.network if average is not None else None,
                to_dict(self.config),
                state,
            )
            keep = checkpoints.read_state(best(run)[0])["step"]
            checkpoints.prune(run, self.config.keep_checkpoints, protected={keep})

        def told(error: Exception) -> None:
            text = f"cannot save at step {step} for the moment, trying again: {error}"
            self.report(Record(kind="note", step=step, text=text))

        storage.patiently(save, SAVE_ATTEMPTS, told)
