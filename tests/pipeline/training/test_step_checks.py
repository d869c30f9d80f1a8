"""Losses that are not finite: found one step late, and before anything is saved."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from infill.models.architecture import Objective
from infill.pipeline import checkpoints
from infill.pipeline.config import override
from infill.pipeline.error_sentences import explain
from infill.pipeline.training import NonFiniteLossError, WorkerContext, train
from infill.pipeline.training.step_checks import StepChecks

GOOD = {"image": torch.tensor(1.0), "adversarial": torch.tensor(2.0)}


def bad(value: float) -> dict[str, Tensor]:
    return {**GOOD, "adversarial": torch.tensor(value)}


class OneOfTwo(WorkerContext):
    """A worker beside another, whose flags are given."""

    others: tuple[list[float], ...] = ()

    def total(self, values: Tensor) -> Tensor:
        """Add the flags of the other worker to ours."""
        first, *rest = self.others
        object.__setattr__(self, "others", tuple(rest))
        return values + torch.tensor(first)


def beside(*others: list[float]) -> StepChecks:
    worker = OneOfTwo(world_size=2)
    object.__setattr__(worker, "others", others)
    return StepChecks(worker)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_step_is_checked_when_the_next_one_is_taken_or_at_once_when_settled(value: float) -> None:
    checks = StepChecks(WorkerContext())
    checks.take(GOOD, 6)
    checks.take(bad(value), 7)
    with pytest.raises(NonFiniteLossError, match="'adversarial' is not finite at step 7"):
        checks.take(GOOD, 8)
    checks = StepChecks(WorkerContext())
    checks.take(bad(value), 7)
    with pytest.raises(NonFiniteLossError, match="'adversarial' is not finite at step 7"):
        checks.settle()
    checks.settle()


def test_a_loss_that_is_not_finite_ends_a_job_in_a_sentence() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteLossError("edges", 7)))
    assert explain(error) == (
        "the loss 'edges' is not finite at step 7: lower model.learning_rate, or limit the "
        "gradients by max_gradient_norm"
    )


def test_every_worker_raises_for_a_loss_of_one_and_stops_when_one_is_asked() -> None:
    """Its gradients are in everybody's weights."""
    checks = beside([0, 0, 0], [1, 0, 0])
    checks.take(GOOD, 0)
    checks.take(GOOD, 1)
    with pytest.raises(NonFiniteLossError, match="'image' is not finite at step 1"):
        checks.settle()
    checks = beside([0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0])
    stopped = []
    for step in range(4):
        checks.take(GOOD, step)
        stopped.append(checks.stops())
    assert stopped == [False, False, True, True]


@pytest.mark.parametrize(("step", "saved"), [(2, [2]), (3, [2]), (5, [2, 4])])
def test_no_checkpoint_holds_what_a_loss_that_is_not_finite_has_left(
    config: Any, quietly: Any, monkeypatch: pytest.MonkeyPatch, step: int, saved: list[int]
) -> None:
    """Checkpoints follow the steps 1, 3 and 5, counted from 0."""
    taken = Objective.step_with_accumulation

    def spoilt(self: Objective, batch: Any) -> dict[str, Tensor]:
        losses = taken(self, batch)
        if batch.step >= step:
            losses["image"] = losses["image"] * float("nan")
        return losses

    monkeypatch.setattr(Objective, "step_with_accumulation", spoilt)
    run = override(config, {"report_every_steps": 100, "sample_every_steps": 100})
    with pytest.raises(NonFiniteLossError, match=f"'image' is not finite at step {step}"):
        train(run, quietly)
    assert checkpoints.steps(run.storage) == saved


@pytest.mark.gpu
def test_no_step_waits_for_a_gpu() -> None:
    """CUDA itself refuses to wait while the flags of steps are sent; it waits to read them."""
    checks = StepChecks(WorkerContext(device=torch.device("cuda")))
    losses = {name: value.cuda() for name, value in GOOD.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        checks.take(losses, 0)
        checks.take(losses, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    checks.take({**losses, "image": losses["image"] * float("nan")}, 2)
    with pytest.raises(NonFiniteLossError, match="'image' is not finite at step 2"):
        checks.settle()
