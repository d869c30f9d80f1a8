"""The presets are the papers' recipes, number by number: batches, length, optimisers, schedules."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infill.models import architecture
from infill.models.architecture import Batch, Objective, load
from infill.pipeline.config import flatten
from infill.pipeline.sources.named import NAMED
from infill.pipeline.training import TrainConfig

NARROW: dict[str, dict[str, Any]] = {
    "spn": {
        "channels": 2,
        "num_blocks": 1,
        "num_dense_blocks": 1,
        "num_dense_layers": 1,
        "num_prior_blocks": 1,
        "teacher": "edge",
        "perceptual_weights": "random",
    },
    "pennet": {"channels": 4, "discriminator_channels": 2},
    "madf": {
        "levels": 5,
        "channels": 2,
        "mask_channels": 2,
        "decoder_channels": 2,
        "norm_channels": 2,
        "perceptual_weights": "random",
    },
    "deepgin": {
        "channels": 4,
        "num_coarse_blocks": 1,
        "num_refine_blocks": 1,
        "perceptual_weights": "random",
        "perceptual_size_px": 32,
    },
    "deepfill": {"channels": 2, "image_size_px": 64, "local_size_px": 32},
    "deepfill2": {"channels": 8, "discriminator_channels": 2},
    "lama": {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "perceptual_weight": 0.0},
}
"""Widths that a test can afford: no recipe depends on them."""

RECIPES = {
    # batch, image side, steps, {role: (learning rate, betas)}
    ("spn", "paris"): (8, 256, 139_650, {"generator": 1e-4, "discriminator": 1e-4}, (0, 0.9)),
    ("spn", "celeba"): (8, 256, 810_000, {"generator": 1e-4, "discriminator": 1e-4}, (0, 0.9)),
    ("spn", "places2"): (8, 256, 9_017_320, {"generator": 1e-4, "discriminator": 1e-4}, (0, 0.9)),
    ("spn", "probabilistic-celebahq"): (
        8,
        256,
        70 * 3375,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0, 0.9),
    ),
    ("spn", "probabilistic-paris"): (
        8,
        256,
        70 * 1862,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0, 0.9),
    ),
    ("spn", "probabilistic-places2"): (
        8,
        256,
        9_017_320,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0, 0.9),
    ),
    ("pennet", "celebahq"): (
        16,
        256,
        330_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.999),
    ),
    ("pennet", "dtd"): (16, 256, 330_000, {"generator": 1e-4, "discriminator": 1e-4}, (0.5, 0.999)),
    ("pennet", "facade"): (
        16,
        256,
        200_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.999),
    ),
    ("pennet", "places2"): (
        16,
        256,
        1_000_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.999),
    ),
    ("madf", "places2"): (24, 256, 300_000, {"generator": 2e-4}, (0.9, 0.999)),
    ("madf", "places2-512"): (24, 512, 300_000, {"generator": 2e-4}, (0.9, 0.999)),
    ("madf", "celeba"): (24, 256, 300_000, {"generator": 2e-4}, (0.9, 0.999)),
    ("madf", "paris"): (24, 256, 300_000, {"generator": 2e-4}, (0.9, 0.999)),
    ("deepgin", "ade20k"): (
        12,
        256,
        110 * 2582,
        {"generator": 1e-4, "discriminator": 4e-4},
        (0.5, 0.999),
    ),
    ("deepgin", "ade20k-guided"): (
        12,
        256,
        110 * 2582,
        {"generator": 1e-4, "discriminator": 4e-4},
        (0.5, 0.999),
    ),
    ("deepgin", "celebahq"): (
        12,
        256,
        110 * 6750,
        {"generator": 1e-4, "discriminator": 4e-4},
        (0.5, 0.999),
    ),
    ("deepfill", "places2"): (
        6 * 16,
        256,
        170_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.9),
    ),
    ("deepfill", "imagenet"): (
        6 * 16,
        256,
        170_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.9),
    ),
    ("deepfill", "celeba"): (
        6 * 16,
        256,
        170_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.9),
    ),
    ("deepfill2", "places2"): (
        2 * 16,
        256,
        1_000_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.999),
    ),
    ("lama", "places2"): (
        30,
        256,
        1_000_000,
        {"generator": 1e-3, "discriminator": 1e-4},
        (0.9, 0.999),
    ),
    ("lama", "big"): (
        30,
        256,
        1_000_000,
        {"generator": 1e-3, "discriminator": 1e-4},
        (0.9, 0.999),
    ),
    ("deepfill", "dtd"): (
        6 * 16,
        256,
        170_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.9),
    ),
    ("deepfill", "celebahq"): (
        6 * 16,
        256,
        170_000,
        {"generator": 1e-4, "discriminator": 1e-4},
        (0.5, 0.9),
    ),
}
"""As the fact sheets have them. DeepFill's batch is that of five critic updates and one of the
generator; DeepGIN's is four photographs under three masks each; its epochs are 10 + 100."""

PUBLISHED = pytest.mark.parametrize(("name", "preset"), RECIPES, ids=" ".join)


def preset_of(name: str, preset: str) -> TrainConfig:
    config: TrainConfig = importlib.import_module(f"infill.jobs.train_{name}").PRESETS[preset]
    return config


def objective_of(name: str, preset: str) -> Objective:
    model = replace(preset_of(name, preset).model, **NARROW[name])
    return load(name).objective(model, lambda network: network)


@PUBLISHED
def test_batches_length_and_optimisers_are_those_of_the_sheet(name: str, preset: str) -> None:
    config = preset_of(name, preset)
    batch, side, steps, rates, betas = RECIPES[name, preset]
    assert (config.data.batch_size, config.data.image_size_px, config.steps) == (batch, side, steps)
    assert config.max_gradient_norm == (1 if name == "lama" else 0)
    assert config.ema_decay == 0
    assert config.precision == "float32"
    optimizers = objective_of(name, preset).optimizers
    assert set(optimizers) == set(rates)
    for role, optimizer in optimizers.items():
        assert isinstance(optimizer, torch.optim.Adam)
        [group] = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (rates[role], betas)
        assert (group["eps"], group["weight_decay"]) == (1e-8, 0)


WEIGHTS: dict[str, dict[str, float]] = {
    "spn": {  # SPN, Sec. 3.3.1 and 3.3.2, but delta: 2 in the release, 4 in the paper
        "image_weight": 10,
        "hole_emphasis": 2,
        "prior_weight": 1,
        "prior_hole_emphasis": 3,
        "adversarial_weight": 1,
        "feature_matching_weight": 10,
        "perceptual_weight": 10,
        "diversity_weight": 1,
        "latent_weight": 0.05,
    },
    "pennet": {
        "adversarial_weight": 0.1,
        "pyramid_weight": 0.5,
        "hole_weight": 6,
        "known_weight": 1,
    },
    "madf": {  # MADF, Eq. 7 and 8
        "known_weight": 1,
        "hole_weight": 6,
        "perceptual_weight": 0.05,
        "style_weight": 120,
        "variation_weight": 0.1,
    },
    "deepgin": {  # DeepGIN, Sec. 5.1
        "hole_weight": 5,
        "adversarial_weight": 0.001,
        "perceptual_weight": 0.05,
        "style_weight": 80,
        "variation_weight": 0.1,
        "discriminator_weight": 0.5,
    },
    "deepfill": {
        "penalty_weight": 10,
        "hole_weight": 1.2,
        "known_weight": 1.2,
        "coarse_factor": 1.2,
        "refined_factor": 1,
        "adversarial_weight": 0.001,
        "discount_rate": 0.9,
    },
    "deepfill2": {
        "coarse_weight": 1,
        "image_weight": 1,
        "adversarial_weight": 1,
        "discriminator_weight": 0.5,
    },
    "lama": {
        "known_weight": 10,
        "hole_weight": 0,
        "adversarial_weight": 10,
        "penalty_weight": 0.001,
        "matching_weight": 100,
        "perceptual_weight": 30,
    },
}
"""Every weight of a loss, as the papers and releases have it, in all presets of a paper."""


def presets_of_papers(name: str) -> dict[str, TrainConfig]:
    presets: dict[str, TrainConfig] = importlib.import_module(f"infill.jobs.train_{name}").PRESETS
    return {key: preset for key, preset in presets.items() if preset.data.dataset != "folder"}


@pytest.mark.parametrize("name", WEIGHTS)
def test_loss_weights_of_every_preset_are_those_of_the_sheet_and_no_other_term_is_used(
    name: str,
) -> None:
    for preset in presets_of_papers(name).values():
        values = flatten(preset.model)
        weights = {field: value for field, value in values.items() if field.endswith("_weight")}
        assert {field: values[field] for field in WEIGHTS[name]} == WEIGHTS[name]
        others = {field: weights[field] for field in weights.keys() - WEIGHTS[name].keys()}
        assert not any(others.values()), f"a paper's presets must not use {others}"


def test_every_preset_of_a_paper_is_read_here() -> None:
    presets = {(name, key) for name in WEIGHTS for key in presets_of_papers(name)}
    assert presets == set(RECIPES)


def test_mask_files_are_changed_in_training_as_in_the_release() -> None:
    """SPN mirrors them; MADF turns, cuts and grows them as well."""
    for name, augmentation in (("spn", "flip"), ("madf", "full")):
        found = {preset.data.masks.augmentation for preset in presets_of_papers(name).values()}
        assert found == {augmentation}, name


DATASETS = {
    "spn": {
        "paris": "paris",
        "celeba": "celeba",
        "places2": "places2-12k",
        "probabilistic-celebahq": "celeba-hq-spn",
        "probabilistic-paris": "paris",
        "probabilistic-places2": "places2-12k",
    },
    "pennet": {
        "celebahq": "celeba-hq",
        "places2": "places2",
        "dtd": "dtd-pennet",
        "facade": "facade",
    },
    "madf": {
        "places2": "places2-12k",
        "places2-512": "places2-large-12k",
        "celeba": "celeba-madf",
        "paris": "paris",
    },
    "deepgin": {
        "ade20k": "ade20k-deepgin",
        "ade20k-guided": "ade20k-deepgin",
        "celebahq": "celeba-hq-deepgin",
    },
    "deepfill": {
        "places2": "places2",
        "imagenet": "imagenet",
        "celebahq": "celeba-hq",
        "celeba": "celeba",
        "dtd": "dtd-1",
    },
    "deepfill2": {"places2": "places2"},
    "lama": {"places2": "places2-large", "big": "places2-large"},
}
"""The public dataset behind each preset of a paper, with the paper's own split."""


@pytest.mark.parametrize("name", DATASETS)
def test_every_preset_of_a_paper_takes_the_paper_s_own_split(name: str) -> None:
    presets = importlib.import_module(f"infill.jobs.train_{name}").PRESETS
    named = {key: preset.data.dataset for key, preset in presets.items()}
    own = {key: dataset for key, dataset in named.items() if dataset != "folder"}
    assert own == DATASETS[name]
    assert set(own.values()) <= set(NAMED)
    assert {"cpu", "smoke", "finetune"} <= set(named) - set(own)


SCHEDULES: dict[tuple[str, str], dict[int, float]] = {
    # The generator's learning rate by step. Epochs of 1,862 and 20,250 steps.
    ("spn", "paris"): {0: 1e-4, 50 * 1862 - 1: 1e-4, 50 * 1862: 1e-5, 139_649: 1e-5},
    ("spn", "celeba"): {0: 1e-4, 30 * 20_250 - 1: 1e-4, 30 * 20_250: 1e-5},
    ("spn", "probabilistic-celebahq"): {0: 1e-4, 50 * 3375 - 1: 1e-4, 50 * 3375: 1e-5},
    ("pennet", "celebahq"): {1: 1e-4, 100_000: 1e-4, 300_000: 1e-4},
    ("pennet", "facade"): {1: 1e-4, 100_000: 1e-4, 199_999: 1e-4},
    ("pennet", "places2"): {1: 1e-4, 99_999: 1e-4, 100_000: 1e-5, 200_000: 1e-5, 300_000: 1e-5},
    ("pennet", "dtd"): {1: 1e-4, 99_999: 1e-4, 100_000: 1e-5, 200_000: 1e-6, 300_000: 1e-7},
    ("madf", "places2"): {0: 2e-4, 299_999: 2e-4},
    ("deepgin", "ade20k"): {
        # Ten epochs of the first stage, then epochs 1, 11, 12, 56 and 100 of the second.
        9 * 2582: 1e-4,
        10 * 2582: 1e-4,
        20 * 2582: 1e-4,
        21 * 2582: 9.8889e-5,
        65 * 2582: 5e-5,
        109 * 2582: 1.1111e-6,
    },
    ("deepfill", "places2"): {0: 1e-4, 169_999: 1e-4},
}


def test_the_fidelity_page_claims_as_much_as_is_read_here() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "fidelity.md").read_text().split())
    assert "every preset of these seven papers" in page
    assert len(WEIGHTS) == 7
    assert "the learning-rate schedules of ten of them" in page
    assert len(SCHEDULES) == 10


@pytest.mark.parametrize(("name", "preset"), SCHEDULES, ids=" ".join)
def test_learning_rates_follow_the_sheet_s_schedule(name: str, preset: str) -> None:
    objective = objective_of(name, preset)
    image = torch.rand(6, 3, 64, 64) * 2 - 1
    mask = torch.zeros(6, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    for step, rate in SCHEDULES[name, preset].items():
        objective.step_with_accumulation(Batch(image=image, mask=mask, step=step))
        [group] = objective.optimizers["generator"].param_groups
        assert group["lr"] == pytest.approx(rate, rel=1e-4), step


@pytest.mark.parametrize(
    ("preset", "epoch_steps"),
    [("paris", 1862), ("probabilistic-paris", 1862), ("probabilistic-celebahq", 3375)],
)
def test_spn_s_prior_is_no_longer_taught_from_epoch_61_on(preset: str, epoch_steps: int) -> None:
    model = preset_of("spn", preset).model
    assert model.prior_stop_step == 60 * epoch_steps  # type: ignore[attr-defined]


def test_probabilistic_presets_of_spn_train_the_variant_that_samples() -> None:
    presets = ("probabilistic-celebahq", "probabilistic-paris", "probabilistic-places2")
    models = [preset_of("spn", preset).model for preset in presets]
    assert [model.variant for model in models] == ["probabilistic"] * 3  # type: ignore[attr-defined]


def test_photographs_are_prepared_as_the_sheets_say() -> None:
    views = {key: preset_of(*key).data for key in RECIPES}
    for (name, _), view in views.items():
        assert view.horizontal_flip == (name not in ("deepfill", "deepfill2"))
        assert view.colour_jitter == (0.05 if name == "pennet" else 0)
        assert view.quarter_turns == (name == "deepgin")
        assert view.masks_per_image == (3 if name == "deepgin" else 1)
    crops = {key: view.crop for key, view in views.items()}
    assert {crops["pennet", preset] for preset in ("celebahq", "dtd", "places2")} == {"squash"}
    assert crops["deepfill", "places2"] == "random"
    assert crops["deepfill", "celebahq"] == crops["spn", "paris"] == "squash"
    assert crops["deepgin", "ade20k"] == "subsample"
    assert views["deepgin", "ade20k"].masks.recipes == ("box", "long_strokes", "automaton")


JOBS = architecture.papers()
"""Every network of a paper; the small one of the package is tuned from its own checkpoint."""


@pytest.mark.parametrize("name", JOBS)
def test_fine_tuning_is_of_the_released_network_at_a_tenth_of_its_learning_rate(name: str) -> None:
    paper = load(name)
    tuned = preset_of(name, "finetune")
    assert tuned.init_from == f"runs/imported/{name}"
    released = getattr(paper.config, "released", paper.config)()
    for field in ("learning_rate", "discriminator_learning_rate"):
        if hasattr(released, field):
            assert getattr(tuned.model, field) == pytest.approx(getattr(released, field) / 10)
            released = replace(released, **{field: getattr(tuned.model, field)})
    assert tuned.model == released


@pytest.mark.parametrize("name", JOBS)
def test_the_cpu_preset_builds_without_any_file_of_weights(name: str) -> None:
    config = preset_of(name, "cpu")
    objective = load(name).objective(config.model, lambda network: network)
    side = config.data.image_size_px
    image, mask = torch.rand(2, 3, side, side) * 2 - 1, torch.zeros(2, 1, side, side)
    mask[..., 16:48, 16:48] = 1
    losses = objective.step(Batch(image=image, mask=mask, keys=("a", "b"), mask_ids=("c", "d")))
    assert all(loss.isfinite() for loss in losses.values())
