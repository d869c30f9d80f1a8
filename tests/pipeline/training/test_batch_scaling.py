"""The batch that workers share, and the learning rates and schedules of a larger one."""

import importlib
import math
from dataclasses import fields, replace

import pytest

from infill.models.config import config_class, names
from infill.models.schedules import ScheduleConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, scaled, scaling_line

PRESETS = [
    (name, preset, config)
    for name in names()
    for preset, config in importlib.import_module(f"infill.jobs.train_{name}").PRESETS.items()
    if config.use_gpu
]
PUBLISHED = pytest.mark.parametrize(
    "config", [config for *_, config in PRESETS], ids=[f"{n}-{p}" for n, p, _ in PRESETS]
)


@PUBLISHED
@pytest.mark.parametrize("workers", [16, 32, 256])
def test_every_preset_runs_on_common_numbers_of_workers(config: TrainConfig, workers: int) -> None:
    asked = replace(config, num_workers=workers, scale_batch="linear")
    after = scaled(asked)
    assert after.data.batch_size >= config.data.batch_size
    share = after.data.batch_size // workers
    assert share * workers == after.data.batch_size
    assert share % after.model.share_multiple == 0
    assert scaled(after) == after


@PUBLISHED
@pytest.mark.parametrize(("rule", "power"), [("linear", 1.0), ("square_root", 0.5)])
def test_rates_and_schedules_follow_the_samples_seen(
    config: TrainConfig, rule: str, power: float
) -> None:
    """At the same number of samples the rate is the preset's times k, or the root of k."""
    asked = replace(config, num_workers=64 * 3 * 5, scale_batch=rule)
    after = scaled(asked)
    factor = after.data.batch_size / config.data.batch_size
    assert after.steps == math.ceil(config.steps / factor)
    roles = ("generator", "discriminator")
    warmup = after.model.schedule.warmup_steps
    assert 0 < warmup <= after.steps // 10
    for step in range(warmup, after.steps, max(1, after.steps // 7)):
        for role in roles:
            # The middle of the large step, in the preset's steps.
            old = config.model.learning_rate_at(role, int((step + 0.5) * factor), config.steps)
            new = after.model.learning_rate_at(role, step, after.steps)
            assert new == pytest.approx(old * factor**power, rel=0.25)
    first = after.model.learning_rate_at("generator", 0, after.steps)
    full = config.model.learning_rate_at("generator", 0, config.steps) * factor**power
    assert first == pytest.approx(full / warmup)
    assert after.ema_decay == pytest.approx(config.ema_decay**factor)


@pytest.mark.parametrize("name", names())
def test_every_field_that_counts_steps_or_is_a_rate_is_scaled(name: str) -> None:
    model = config_class(name)
    # An interval ("penalty_every_steps") is a rule of the loss, and no moment of a schedule.
    named = {f.name for f in fields(model) if "_every_" not in f.name}
    counted = {name for name in named if name.endswith(("_step", "_steps"))}
    rates = {f.name for f in fields(model) if f.name.endswith("learning_rate")}
    assert set(model.step_fields) == counted
    assert set(model.learning_rate_fields) == rates


def test_a_schedule_by_name_keeps_its_shape() -> None:
    model = config_class("spn")(
        schedule=ScheduleConfig(name="step", drop_steps=(400, 800), warmup_steps=40),
        prior_stop_step=600,
    )
    config = TrainConfig(
        model=model,
        data=BatchConfig(batch_size=8, image_size_px=256),
        steps=1000,
        num_workers=16,
        scale_batch="square_root",
        save_every_steps=100,
    )
    after = scaled(config)
    assert (after.data.batch_size, after.steps, after.save_every_steps) == (16, 500, 50)
    assert after.model.schedule.drop_steps == (200, 400)
    assert after.model.schedule.warmup_steps == 20
    assert after.model.prior_stop_step == 300
    assert after.model.learning_rate == pytest.approx(model.learning_rate * math.sqrt(2))
    assert scaling_line(config, after) == (
        "batch scaled from 8 to 16 samples (square_root rule): learning rates x 1.414 after a "
        "warm-up of 20 steps, 1,000 steps become 500"
    )


def test_a_batch_that_workers_share_already_stays(config: TrainConfig) -> None:
    asked = replace(config, num_workers=2, scale_batch="linear")
    assert scaled(asked) == replace(config, num_workers=2)
    assert scaling_line(asked, scaled(asked)) == ""


def test_the_sentence_names_the_numbers_of_workers_that_do() -> None:
    deepfill = config_class("deepfill")()
    data = BatchConfig(batch_size=96, image_size_px=256)
    with pytest.raises(ValueError, match="multiple of num_workers 5; 1, 2, 4, 8 or 16 workers can"):
        TrainConfig(model=deepfill, data=data, num_workers=5)
    with pytest.raises(ValueError, match="32 workers has 3 of the 96 samples.* 6 equal parts"):
        TrainConfig(model=deepfill, data=data, num_workers=32)
