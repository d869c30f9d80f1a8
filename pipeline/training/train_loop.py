"""The train loop of every worker.

All architectures share this loop: it passes batches to the architecture's own ``step``; at fixed
steps it reports, and hands a copy over for sample grids, validation and saving.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from infill.models.architecture import Objective
from infill.pipeline import checkpoints
from infill.pipeline.interruption import postponed
from infill.pipeline.loading import BatchStream, open_set, set_digest
from infill.pipeline.pretrained import shown_name
from infill.pipeline.tracking import Record, Report
from infill.pipeline.training.arithmetic import arithmetic
from infill.pipeline.training.async_checkpoint import AsyncCheckpointer
from infill.pipeline.training.build import ExponentialMovingAverage, build_objective
from infill.pipeline.training.config import TrainConfig
from infill.pipeline.training.distributed import WorkerContext
from infill.pipeline.training.run_dir import find_sets
from infill.pipeline.training.step_checks import StepChecks
from infill.pipeline.training.validation import Validator

NOTICE_EVERY_STEPS = 10
"""Steps between two checks whether one of the workers' nodes will be removed."""


def run_worker(config: TrainConfig, worker: WorkerContext, report: Report) -> None:
    """Train on this worker's share of every step. On every worker.

    A run that is asked to stop returns early, after a checkpoint at the step reached.
    """
    with arithmetic(config, lambda text: worker.log(report, 0, text)):
        _run(config, worker, report)


def _run(config: TrainConfig, worker: WorkerContext, report: Report) -> None:
    data = replace(config.data, shards=find_sets(config.data.shards)[0])
    objective, average, first_step = _begin(config, worker, report)
    reporter, checks = MetricsReporter(config, worker, report, objective), StepChecks(worker)
    steps, low = range(first_step, config.steps), config.precision == "bfloat16"
    warned = False
    with (
        _checkpointer(config, worker, report, first_step) as checkpointer,
        BatchStream(data, worker.rank, worker.world_size, first_step, worker.device) as stream,
        postponed(),
    ):
        reporter.start(stream, first_step)
        for step, batch in zip(steps, stream, strict=False):
            worker.activity.step, worker.activity.doing = step, "taking a step"
            with torch.autocast(worker.device.type, torch.bfloat16, enabled=low):
                if config.cuda_graphs:  # What the graphs of the step before hold is free now.
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                losses = objective.step_with_accumulation(batch)
            checks.take(losses, step)
            if average is not None:
                average.update(step)
            done = step + 1
            report_due = due(done, config.report_every_steps, config.steps)
            grid = due(done, config.sample_every_steps, config.steps)
            save = due(done, config.save_every_steps, config.steps)
            if report_due or grid or save:
                checks.settle()
            if report_due:
                reporter.report_losses(losses, done)
            hurry = False
            if not warned and due(done, NOTICE_EVERY_STEPS, config.steps) and worker.notice():
                worker.log(report, done, "a node will be removed: saving now")
                # Without validation, which can take longer than the node stays.
                warned, hurry = True, done < config.steps
            stop = checks.stops() and done < config.steps
            hurry = hurry or stop
            if hurry:
                checks.settle()
            if checkpointer is not None and (grid or save or hurry):
                worker.activity.doing = "waiting for the checkpoint before this one"
                last = stop or done == config.steps
                checkpointer.submit(
                    objective, average, done, grid=grid, save=save, hurry=hurry, last=last
                )
            if stop:
                break
            worker.activity.doing = "waiting for a batch"


def due(done: int, every: int, last: int) -> bool:
    """Return whether an event of every ``every`` steps, and of the last step, is due."""
    return done % every == 0 or done == last


@contextmanager
def _checkpointer(
    config: TrainConfig, worker: WorkerContext, report: Report, first_step: int
) -> Iterator[AsyncCheckpointer | None]:
    """Yield the first worker's checkpointer, None on others; at the end wait for its writes."""
    if worker.rank != 0:
        yield None
        return
    data = config.data
    training_set, validation_set = find_sets(data.shards, data.validation_shards)
    validator = (
        Validator(
            config,
            worker.device,
            open_set(validation_set, data),
        )
        if validation_set and config.validation_samples
        else None
    )
    digest = set_digest(training_set)
    with AsyncCheckpointer(config, validator, report, digest, first_step) as checkpointer:
        yield checkpointer
        worker.activity.doing = "waiting for the last checkpoint to be written"


def _begin(
    config: TrainConfig, worker: WorkerContext, report: Report
) -> tuple[Objective, ExponentialMovingAverage | None, int]:
    """Build the networks and load the run's latest checkpoint into them."""
    objective = build_objective(config, worker)

    def note(text: str) -> None:
        worker.log(report, 0, text)

    if config.num_threads_per_worker:
        note(f"PyTorch computes with {torch.get_num_threads()} threads in each worker")
    newest = worker.agree(checkpoints.latest(config.storage, note) if worker.rank == 0 else None)
    if newest is None and config.init_from:
        checkpoints.initialize(config.init_from, objective)
        note(f"starting from the weights of {shown_name(config.init_from)}")
    average = (
        ExponentialMovingAverage(objective.generator, config.ema_decay)
        if config.ema_decay
        else None
    )
    if newest is None and not config.resume_from:
        return objective, average, 0
    state = checkpoints.restore(
        newest or config.resume_from,
        objective,
        average.network if average else None,
        settings=newest is not None,
    )
    note(f"resuming at step {state['step']}")
    return objective, average, int(state["step"])


class MetricsReporter:
    """Throughput and loss reporter of a worker."""

    def __init__(
        self, config: TrainConfig, worker: WorkerContext, report: Report, objective: Objective
    ) -> None:
        self.config, self.worker, self.report = config, worker, report
        self.objective = objective

    def start(self, stream: BatchStream, step: int) -> None:
        """Start measuring time and data waits."""
        self.stream, self.step = stream, step
        self.moment, self.waited_s = time.monotonic(), stream.wait_s

    def report_losses(self, losses: dict[str, Tensor], step: int) -> None:
        """Report global means of loss terms and accuracies, samples per second, data wait share."""
        right = {f"accuracy/{role}": share for role, share in self.objective.accuracies.items()}
        meant = losses | right
        stand_ins = torch.tensor(float(self.stream.stand_ins), device=self.worker.device)
        means = [mean.detach().float() for mean in meant.values()]
        *sums, damaged = self.worker.total(torch.stack([*means, stand_ins])).tolist()
        values = {
            name: total / self.worker.world_size for name, total in zip(meant, sums, strict=True)
        }
        if self.config.data.skip_damaged:
            values["damaged_samples"] = damaged
        now, waited_s = time.monotonic(), self.stream.wait_s
        elapsed_s = now - self.moment
        samples = (step - self.step) * self.config.data.batch_size
        for role, norm in self.objective.gradient_norms.items():
            values[f"gradient_norm/{role}"] = norm.item()
        for role, optimizer in self.objective.optimizers.items():
            values[f"learning_rate/{role}"] = optimizer.param_groups[0]["lr"]
        values["samples_per_s"] = samples / elapsed_s
        values["data_wait_share"] = (waited_s - self.waited_s) / elapsed_s
        if self.worker.device.type == "cuda":
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.worker.device) / 2**30
        self.step, self.moment, self.waited_s = step, now, waited_s
        if self.worker.rank == 0:
            self.report(Record(kind="losses", step=step, values=values))
