"""A field that a space varies changes the losses, or the search is refused."""

import pytest

from infill.jobs.tune import training_of
from infill.models.architecture import load
from infill.models.config import names, spaces
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.tuning import Range, read_space
from infill.pipeline.tuning.effects import require_effects

SMALL = training_of("spn", "smoke")


@pytest.mark.parametrize(
    ("architecture", "space"),
    [(name, space) for name in names() for space in spaces(name)],
)
def test_every_field_of_a_paper_s_space_has_an_effect(architecture, space):
    scale = "cpu" if architecture == "unet" else "paper"
    trial = training_of(architecture, scale, space)
    require_effects(read_space(space, architecture), trial, training_of(architecture, "smoke"))


def test_weights_of_the_probabilistic_losses_are_refused_for_the_deterministic_network():
    space = dict(read_space("lambdas-probabilistic", "spn"))
    assert space.pop("model.variant") == ("probabilistic",)
    with pytest.raises(UserError, match=r"feature_matching_weight has no effect.*set in the space"):
        require_effects(space, SMALL, SMALL)


@pytest.mark.parametrize(
    ("space", "inert"),
    [
        ({"model.latent_form": ["released", "paper"]}, True),
        ({"model.diversity_weight": Range(low=0.1, high=10.0)}, True),
        ({"model.image_weight": Range(low=1.0, high=10.0)}, False),
        ({"model.learning_rate": [1e-4, 1e-3]}, False),
        ({"model.learning_rate_drop_step": [3, 4]}, False),
        ({"model.prior_stop_step": [100, 200]}, False),
        ({"model.schedule.warmup_steps": [0, 3]}, False),
        ({"model.optimizer.name": ["adam", "adamw"], "model.optimizer.weight_decay": [0, 0.1]}, 0),
        ({"model.latent_weight": [0.05]}, False),
        ({"data.horizontal_flip": [True, False]}, False),
    ],
)
def test_fields_without_effect_are_refused_and_no_others(space, inert):
    if not inert:
        require_effects(space, SMALL, SMALL)
        return
    with pytest.raises(UserError, match=f"{next(iter(space))} has no effect"):
        require_effects(space, SMALL, SMALL)


def test_a_field_that_a_second_one_switches_on_has_an_effect():
    space = {"model.variant": ["deterministic", "probabilistic"], "model.latent_weight": [0.0, 1.0]}
    require_effects(space, SMALL, SMALL)


def test_a_value_that_the_small_network_cannot_take_counts_as_one_with_an_effect():
    small = training_of("pennet", "smoke")
    assert load("pennet").config is type(small.model)
    space = {"model.attention": ["single"], "model.attention_level": [4, 5]}
    require_effects(space, override(small, {"model.attention": "single"}), small)
