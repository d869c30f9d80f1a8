"""Losses that are not finite and requests to stop, which every worker learns one step late.

To read a value of a step, a worker waits until its device has computed it. The flags of a step are
copied to the host behind that step, and read when the next one has been queued, so that the device
always has work. Only what is saved, reported or last waits for its own step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from infill.pipeline.errors import UserError
from infill.pipeline.training.distributed import WorkerContext


class NonFiniteLossError(UserError, ArithmeticError):
    """NaN or infinite loss; names the term and the step."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(term, step)
        self.term, self.step = term, step

    def __str__(self) -> str:
        return (
            f"the loss {self.term!r} is not finite at step {self.step}; lower the learning rate, "
            "or clip gradients with --max-gradient-norm"
        )


@dataclass(frozen=True, kw_only=True)
class StepFlags:
    """The flags of a step, on their way to the host."""

    step: int
    terms: tuple[str, ...]
    values: Tensor
    """For each term on how many workers it is not finite; then how many are asked to stop."""
    copied: torch.cuda.Event | None
    """When the values have come from a GPU."""

    def read(self) -> list[float]:
        """Return the values, once they have come."""
        if self.copied is not None:
            self.copied.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


class StepChecks:
    """Checks the losses of every step on every worker, and passes requests to stop on.

    All workers call its methods after the same steps, and raise and stop after the same one: a
    worker whose losses are finite has averaged the gradients of one whose losses are not.
    """

    def __init__(self, worker: WorkerContext) -> None:
        self.worker = worker
        self.pending: StepFlags | None = None
        self.asked = False

    def take(self, losses: dict[str, Tensor], step: int) -> None:
        """Take the losses of a step, and check those of the step before.

        Raises:
            NonFiniteLossError: for the first term of the step before that is not finite.
        """
        before, self.pending = self.pending, self._flags(losses, step)
        self._check(before)

    def settle(self) -> None:
        """Check the last step that was taken now; wait for it.

        Raises:
            NonFiniteLossError: as :meth:`take` does.
        """
        last, self.pending = self.pending, None
        self._check(last)

    def stops(self) -> bool:
        """Return whether the run is asked to stop; on every worker after the same step."""
        return self.worker.asked() if self.worker.world_size == 1 else self.asked

    def _flags(self, losses: dict[str, Tensor], step: int) -> StepFlags:
        terms = torch.stack([value.detach().float() for value in losses.values()])
        asked = torch.full_like(terms[:1], float(self.worker.asked()))
        flags = self.worker.total(torch.cat([(~terms.isfinite()).float(), asked]))
        copied = None
        if flags.device.type == "cuda":
            host = torch.empty(flags.shape, pin_memory=True)
            flags = host.copy_(flags, non_blocking=True)
            copied = torch.cuda.current_stream(self.worker.device).record_event()
        return StepFlags(step=step, terms=tuple(losses), values=flags, copied=copied)

    def _check(self, flags: StepFlags | None) -> None:
        if flags is None:
            return
        *bad, asked = flags.read()
        self.asked = self.asked or asked > 0
        for term, workers in zip(flags.terms, bad, strict=True):
            if workers:
                raise NonFiniteLossError(term, flags.step)
