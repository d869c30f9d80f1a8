"""One row of each paper's table takes a training step, with the networks of the smoke preset."""

import math
from dataclasses import fields, replace

import pytest
import torch

from infill.jobs import tune
from infill.models import architecture
from infill.models.architecture import Batch, ModelConfig, Objective
from infill.models.config import names, tables
from infill.models.flops import without_files
from infill.pipeline.tuning import TuneConfig, plan

PAPER_TABLES = [(name, table) for name in names() for table in tables(name)]


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def batch_of(side: int) -> Batch:
    generator = torch.Generator().manual_seed(5)
    mask = torch.zeros(2, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    return Batch(
        image=torch.rand(2, 3, side, side, generator=generator) * 2 - 1,
        mask=mask,
        keys=("one", "two"),
        mask_ids=("one", "two"),
        step=0,
        seed=11,
    )


def weights_of(objective: Objective) -> list[torch.Tensor]:
    return [p.detach().clone() for p in objective.networks["generator"].parameters()]


def without_vgg(config: ModelConfig) -> ModelConfig:
    """Return a configuration without the losses that need VGG, which take most of the time."""
    looks = {"perceptual_weight", "style_weight"} & {field.name for field in fields(config)}
    return replace(config, **dict.fromkeys(looks, 0.0))


@pytest.mark.parametrize(("name", "table"), PAPER_TABLES)
def test_rows_are_different_trainings_and_the_first_takes_a_step(name, table) -> None:
    rows = tables(name)[table].rows
    search = TuneConfig(train=tune.training_of(name, "smoke"), space=f"{name}-{table}")
    planned = plan(search, tables(name)[table])
    assert [trial.label for trial, _ in planned] == [row.label for row in rows]
    configs = [training.model for _, training in planned]
    assert len(set(configs)) == len(rows)
    config = without_files(without_vgg(configs[0]))
    objective = architecture.load(name).objective(config, lambda network: network)
    before = weights_of(objective)
    losses = objective.step(batch_of(max(64, config.size_multiple)))
    assert losses
    assert all(math.isfinite(float(loss)) for loss in losses.values())
    pairs = zip(before, weights_of(objective), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)
