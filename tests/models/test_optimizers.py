"""Optimizers and schedules: Adam as published unless the configuration names others."""

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from infill.models import architecture
from infill.models.architecture import Batch, Objective
from infill.models.config import ModelConfig
from infill.models.deepgin.config import DeepGINConfig
from infill.models.madf.config import MADFConfig
from infill.models.migan.config import MIGANConfig
from infill.models.optimizers import (
    FUSED,
    OPTIMIZERS,
    DiscriminatorOptimizerConfig,
    OptimizerConfig,
    implementation_on,
)
from infill.models.pennet.config import PENNetConfig
from infill.models.schedules import (
    SCHEDULES,
    DiscriminatorScheduleConfig,
    ScheduleConfig,
    factor,
)
from infill.models.spn.config import SPNConfig

STEPS = 5
SCHEDULED: dict[str, dict[str, Any]] = {
    "spn": {"learning_rate_drop_step": 2},
    "pennet": {"learning_rate_drop_steps": (1, 3)},
    "deepgin": {"epoch_steps": 1, "warm_up_epochs": 1, "constant_epochs": 1, "decay_epochs": 2},
}


def batch_of(config: ModelConfig, count: int = 2, step: int = 0) -> Batch:
    """Return noise with a square hole, the same at a step for every caller."""
    generator = torch.Generator().manual_seed(step)
    side = max(64, config.size_multiple)
    image = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, side, side)
    mask[:, :, 16:32, 16:32] = 1
    keys = tuple(map(str, range(count)))
    return Batch(image=image, mask=mask, keys=keys, mask_ids=keys, step=step, seed=11)


def published(config: Any, role: str, step: int) -> float:
    """Return the learning rate that each paper prints, written out."""
    if isinstance(config, SPNConfig):
        return config.learning_rate * (0.1 if step >= 2 else 1.0)
    if isinstance(config, PENNetConfig):
        return config.learning_rate * 0.1 ** ((step >= 1) + (step >= 3))
    own = getattr(config, "discriminator_learning_rate", config.learning_rate)
    rate: float = config.learning_rate if role == "generator" else own
    if isinstance(config, MIGANConfig):  # corrected for lazy penalties, as released
        return rate * (4 / 5 if role == "generator" else 16 / 17)
    if isinstance(config, DeepGINConfig):
        return rate * max(0.0, 1.0 - max(0, step - 1) / 2)
    return rate


def plain(name: str) -> tuple[ModelConfig, Objective]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    paper = architecture.load(name)
    config = replace(paper.config.tiny(), **SCHEDULED.get(name, {}))  # type: ignore[attr-defined]
    return config, paper.objective(config, lambda network: network)


def weights(objective: Objective) -> dict[str, Tensor]:
    return {
        f"{role}.{key}": value
        for role, network in objective.networks.items()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("name", architecture.names())
def test_the_default_is_adam_at_the_paper_s_rates_bit_for_bit(name: str) -> None:
    config, configured = plain(name)
    _, written_out = plain(name)
    written_out.optimizers = {
        role: torch.optim.Adam(network.parameters(), betas=(config.beta1, config.beta2), fused=True)
        for role, network in written_out.networks.items()
    }
    for step in range(STEPS):
        batch = batch_of(config, count=2 * config.share_multiple, step=step)
        losses = configured.step_with_accumulation(batch)
        for role, optimizer in written_out.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = published(config, role, step)
        expected = written_out.step(batch)
        assert {k: v.item() for k, v in losses.items()} == {
            k: v.item() for k, v in expected.items()
        }
    theirs = weights(written_out)
    for key, value in weights(configured).items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step_and_its_settings(name: str) -> None:
    chosen = OptimizerConfig(name=name, weight_decay=0.01)
    config = replace(SPNConfig.tiny(), optimizer=chosen)
    objective = architecture.load("spn").objective(config, lambda network: network)
    before = {key: value.clone() for key, value in weights(objective).items()}
    objective.step_with_accumulation(batch_of(config))
    assert any(not torch.equal(value, before[key]) for key, value in weights(objective).items())
    for optimizer in objective.optimizers.values():
        assert type(optimizer).__name__.lower() == name
        [group] = optimizer.param_groups
        assert group["weight_decay"] == 0.01
        assert group.get("betas", (0.0, 0.9)) == (0.0, 0.9)


def losses_of(device: str = "cpu", **settings: Any) -> tuple[Objective, list[Tensor]]:
    """Return a tiny U-Net after three steps, and their losses."""
    paper = architecture.load("unet")
    torch.manual_seed(0)
    config = replace(paper.config.tiny(), optimizer=OptimizerConfig(**settings))  # type: ignore[attr-defined]
    objective = paper.objective(config, lambda network: network.to(device))
    taken = [
        objective.step_with_accumulation(batch_of(config, step=step).to(device))
        for step in range(3)
    ]
    return objective, [value.cpu() for losses in taken for value in losses.values()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_implementation_of_an_optimizer_has_the_same_losses(name: str) -> None:
    _, expected = losses_of(name=name)
    forms = ["foreach", "loop", *(["fused"] if name in FUSED else [])]
    for form in forms:
        objective, found = losses_of(name=name, implementation=form)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        [group] = objective.optimizers["generator"].param_groups
        assert (group["foreach"], bool(group.get("fused"))) == {
            "foreach": (True, False),
            "loop": (False, False),
            "fused": (None, True),
        }[form]


def test_updates_are_fused_on_gpus_and_cpus_where_pytorch_has_it() -> None:
    for name in OPTIMIZERS:
        config = OptimizerConfig(name=name)
        objective, _ = losses_of(name=name)
        parameters = inspect.signature(type(objective.optimizers["generator"])).parameters
        assert (name in FUSED) == ("fused" in parameters), "FUSED lists those that PyTorch fuses"
        assert implementation_on(config, "cuda") == ("fused" if name in FUSED else "foreach")
        assert implementation_on(config, "cpu") == ("fused" if name in FUSED else "loop")
        assert implementation_on(config, "mps") in ("loop", "foreach")
    objective, _ = losses_of()
    [group] = objective.optimizers["generator"].param_groups
    assert (group["fused"], group["foreach"]) == (True, None)
    assert implementation_on(OptimizerConfig(implementation="loop"), "cuda") == "loop"
    with pytest.raises(ValueError, match="radam has no fused form"):
        OptimizerConfig(name="radam", implementation="fused")


@pytest.mark.gpu
def test_fused_updates_on_a_gpu_have_the_losses_of_the_cpu() -> None:
    objective, found = losses_of("cuda")
    assert objective.optimizers["generator"].param_groups[0]["fused"]
    torch.testing.assert_close(found, losses_of()[1], rtol=1e-3, atol=1e-5)


def test_discriminators_may_have_an_optimizer_and_a_schedule_of_their_own() -> None:
    config = replace(
        SPNConfig.tiny(),
        learning_rate=0.5,
        discriminator_optimizer=DiscriminatorOptimizerConfig(name="sgd", momentum=0.0),
        discriminator_schedule=DiscriminatorScheduleConfig(name="constant", warmup_steps=10),
    )
    objective = architecture.load("spn").objective(config, lambda network: network)
    objective.set_learning_rates(4)
    assert type(objective.optimizers["generator"]) is torch.optim.Adam
    assert type(objective.optimizers["discriminator"]) is torch.optim.SGD
    assert objective.optimizers["generator"].param_groups[0]["lr"] == 0.5
    assert objective.optimizers["discriminator"].param_groups[0]["lr"] == 0.25


def test_settings_that_nothing_would_read_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'no such' is unknown; there are: adam, adamw"):
        OptimizerConfig(name="no such")
    with pytest.raises(ValueError, match=r"'no such' is unknown; there are: paper, constant"):
        ScheduleConfig(name="no such")
    with pytest.raises(ValueError, match="'step' needs drop_steps"):
        ScheduleConfig(name="step")
    with pytest.raises(ValueError, match=r"need discriminator_optimizer\.name"):
        DiscriminatorOptimizerConfig(weight_decay=0.1)
    with pytest.raises(ValueError, match=r"need discriminator_schedule\.name"):
        DiscriminatorScheduleConfig(warmup_steps=3)
    own = DiscriminatorOptimizerConfig(name="sgd")
    config = replace(MADFConfig.tiny(), discriminator_optimizer=own)
    with pytest.raises(ValueError, match="madf has no discriminator"):
        architecture.load("madf").objective(config, lambda network: network)


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (OptimizerConfig, OPTIMIZERS),
        (DiscriminatorOptimizerConfig, OPTIMIZERS),
        (ScheduleConfig, SCHEDULES),
        (DiscriminatorScheduleConfig, SCHEDULES),
    ],
)
def test_the_help_of_a_name_has_every_choice(kind: type, known: Mapping[str, Any]) -> None:
    [text] = re.findall(r' name: str = .*?"""(.*?)"""\n', inspect.getsource(kind), re.DOTALL)
    assert [name for name in known if f'"{name}"' not in f'{text}"'] == []


@pytest.mark.parametrize("wrong", [-0.5, math.nan, math.inf])
def test_a_schedule_that_gives_no_factor_is_refused(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative learning rate would raise the losses, step after step."""
    monkeypatch.setitem(
        SCHEDULES, "falling", lambda config, step, total: wrong if step == 7 else 0.0
    )
    config = ScheduleConfig(name="falling", warmup_steps=10)
    assert factor(config, 6, 12) == 0
    with pytest.raises(ValueError, match=f"^schedule 'falling' gives the factor {wrong} at step 7"):
        factor(config, 7, 12)


def test_cosine_falls_from_the_warm_up_s_end_to_the_lowest_rate() -> None:
    config = ScheduleConfig(name="cosine", warmup_steps=4, final_factor=0.1)
    factors = [factor(config, step, 12) for step in range(13)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[8] == pytest.approx(0.55)
    assert factors[12] == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    ends = replace(config, decay_steps=6)
    assert factor(ends, 6, 12) == factor(ends, 11, 12) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="needs decay_steps"):
        factor(config, 5, 0)


def test_step_drops_at_each_step_named_instead_of_the_paper_s() -> None:
    schedule = ScheduleConfig(name="step", drop_steps=(3, 5), drop_factor=0.5)
    config = replace(SPNConfig.tiny(), schedule=schedule, learning_rate_drop_step=1)
    rates = [config.learning_rate_at("generator", step, 9) for step in range(6)]
    base = config.learning_rate
    assert rates == [base, base, base, base / 2, base / 2, base / 4]
