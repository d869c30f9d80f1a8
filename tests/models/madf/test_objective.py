import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infill.models.architecture import Batch
from infill.models.losses import gram
from infill.models.madf.config import MADFConfig
from infill.models.madf.objective import (
    Graded,
    MADFObjective,
    Supervision,
    supervision,
    total_variation,
)
from infill.models.masking import paste
from infill.models.vgg import load_features

Example = Callable[..., tuple[Tensor, Tensor]]
TINY = MADFConfig.tiny()


class Multiples(nn.Module):
    """In VGG's place: the colours, twice and three times."""

    def forward(self, colours: Tensor) -> tuple[Tensor, ...]:
        return colours, 2 * colours, 3 * colours


def objective_of(config: MADFConfig = TINY) -> MADFObjective:
    objective = MADFObjective(config)
    objective.perceptual = Multiples()
    return objective


def graded_constants(*values: float) -> Graded:
    """Return outputs of one value each over an image of zeros whose right half is missing."""
    image, hole = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    hole[..., 4:] = 1
    outputs = tuple(torch.full_like(image, value) for value in values)
    return Graded(image, hole, outputs, tuple(paste(o, image, hole) for o in outputs))


def graded_noise(height: int = 32, width: int = 48) -> Graded:
    objective = objective_of()
    image = torch.rand(2, 3, height, width) * 2 - 1
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, 3:20, 5:30] = 1
    outputs = tuple(torch.randn(2, 3, height, width, requires_grad=True) for _ in range(3))
    return objective.graded(Batch(image=image, mask=mask), outputs)


@pytest.mark.parametrize(
    ("values", "changes", "hole", "known", "perceptual", "style", "variation", "total"),
    [
        ((1, 1, 1), {}, 1.5, 1.5, 18, 7, 1 / 7, 851.414286),
        ((1, 1, 1), {"style_target": "released"}, 1.5, 1.5, 18, 7, 1 / 7, 851.414286),
        ((1, 1, 2), {}, 2, 2, 27, 28, 2 / 7, 3375.378571),
        ((1, 1, 2), {"style_target": "released"}, 2, 2, 27, 7, 2 / 7, 855.378571),
        ((1, 2, 1), {}, 2, 2, 27, 7, 1 / 7, 855.364286),
        ((1, 2, 1), {"style_target": "released"}, 2, 2, 27, 28, 1 / 7, 3375.364286),
        ((1, 2), {}, 1.5, 1.5, 18, 28, 2 / 7, 3371.428571),
        ((1,), {}, 0.5, 0.5, 9, 7, 1 / 7, 843.964286),
        ((1, 1, 2), {"supervision": "none"}, 1, 1, 18, 28, 2 / 7, 3367.928571),
        ((1, 1, 2), {"supervision": "same"}, 2, 2, 36, 42, 4 / 7, None),
    ],
)
def test_losses_of_constant_pictures_are_those_worked_out_by_hand(
    values: tuple[float, ...],
    changes: dict[str, str],
    hole: float,
    known: float,
    perceptual: float,
    style: float,
    variation: float,
    total: float | None,
) -> None:
    config = replace(TINY, num_refinements=len(values) - 1, **changes)
    losses = objective_of(config).losses(graded_constants(*values))
    expected = {
        "known": known,
        "hole": 6 * hole,
        "perceptual": 0.05 * perceptual,
        "style": 120 * style,
        "variation": 0.1 * variation,
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected)
    if total is not None:
        assert sum(losses.values()).item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "weight"),
    [("known", 1.0), ("hole", 6.0), ("perceptual", 0.05), ("style", 120.0), ("variation", 0.1)],
)
def test_each_term_is_weighted_by_its_own_field_once(name: str, weight: float) -> None:
    objective = objective_of()
    assert getattr(objective.config, f"{name}_weight") == weight
    graded = graded_noise()
    before = objective.losses(graded)
    objective.config = replace(objective.config, **{f"{name}_weight": 3 * weight})
    after = objective.losses(graded)
    for term, value in before.items():
        factor = 3 if term == name else 1
        torch.testing.assert_close(after[term], factor * value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MADFConfig(num_refinements=0), Supervision((0,), (0,), (0,), (0,))),
        (MADFConfig(num_refinements=1), Supervision((0, 1), (1,), (1,), (1,))),
        (MADFConfig(num_refinements=2), Supervision((0, 1, 2), (1, 2), (2,), (2,))),
        (MADFConfig(num_refinements=3), Supervision((0, 1, 2, 3), (1, 2, 3), (3,), (3,))),
        (MADFConfig(style_target="released"), Supervision((0, 1, 2), (1, 2), (1,), (2,))),
        (MADFConfig(supervision="none"), Supervision((2,), (2,), (2,), (2,))),
        (MADFConfig(supervision="same"), Supervision(*[(0, 1, 2)] * 4)),
    ],
)
def test_supervision_follows_the_table(config: MADFConfig, expected: Supervision) -> None:
    assert supervision(config) == expected


def test_losses_are_computed_in_normalised_colours_with_binary_holes() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 0.25
    predicted = torch.full((1, 3, 4, 4), 7.0)
    graded = objective_of().graded(Batch(image=image, mask=mask), (predicted,))
    expected = [-0.485 / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert graded.image[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert graded.hole.unique().tolist() == [0, 1]
    assert torch.equal(graded.composites[0][..., :2], graded.image[..., :2])
    assert torch.equal(graded.composites[0][..., 2:], predicted[..., 2:])


def test_feature_losses_in_one_batch_equal_those_of_each_picture_alone() -> None:
    objective = objective_of(replace(TINY, style_target="released"))
    objective.perceptual = eyes = load_features(
        16, ("pool1", "pool2", "pool3"), "random", normalise_colours=False
    )
    graded = graded_noise()
    perceptual = style = torch.zeros(())
    real = eyes(graded.image)
    for index in (1, 2):
        for picture in (graded.outputs[index], graded.composites[index]):
            for predicted, of in zip(eyes(picture), real, strict=True):
                perceptual = perceptual + (predicted - of).abs().mean()
                if index == 1:
                    style = style + (slow_gram(predicted) - slow_gram(of)).abs().mean()
    losses = objective.feature_losses(graded, eyes)
    torch.testing.assert_close(losses["perceptual"], 0.05 * perceptual)
    torch.testing.assert_close(losses["style"], 120 * style)
    total = losses["perceptual"] + losses["style"]
    fast = torch.autograd.grad(total, graded.outputs[1:], retain_graph=True)
    slow = torch.autograd.grad(0.05 * perceptual + 120 * style, graded.outputs[1:])
    for gradient, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max())


def slow_gram(features: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    return torch.stack(
        [
            sample.flatten(1) @ sample.flatten(1).T / (channels * height * width)
            for sample in features
        ]
    )


def test_gram_matrices_are_summed_in_full_precision() -> None:
    features = torch.rand(2, 8, 64, 64)
    expected = slow_gram(features.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = gram(features)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=0)
    assert gram(features.bfloat16()).dtype == torch.float32


def test_total_variation_means_rows_and_columns_apart() -> None:
    picture = torch.tensor([[[[0.0, 1.0, 3.0], [0.0, 1.0, 7.0]]]])
    assert total_variation(picture).item() == pytest.approx(4 / 3 + (1 + 2 + 1 + 6) / 4)


def test_variation_owes_nothing_to_known_pixels() -> None:
    graded = graded_noise()
    loss = objective_of().variation_losses(graded)["variation"]
    gradient = torch.autograd.grad(loss, graded.outputs[2])[0]
    assert torch.equal(gradient * (1 - graded.hole), torch.zeros_like(gradient))
    assert gradient[0].abs().max() > 0
    # The second sample is all known.
    whole = Graded(
        graded.image[1:],
        graded.hole[1:],
        tuple(o[1:] for o in graded.outputs),
        tuple(c[1:] for c in graded.composites),
    )
    assert torch.equal(whole.composites[2], whole.image)
    torch.testing.assert_close(
        objective_of().variation_losses(whole)["variation"], 0.1 * total_variation(whole.image)
    )


@pytest.mark.parametrize("hidden", [0.0, 1.0], ids=["all known", "all hole"])
def test_losses_are_finite_for_unclamped_pictures_and_extreme_masks(hidden: float) -> None:
    objective = MADFObjective(TINY)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    outputs = tuple(torch.randn(1, 3, 32, 32) * 100 for _ in range(3))
    batch = Batch(image=image, mask=torch.full((1, 1, 32, 32), hidden))
    assert all(
        value.isfinite() for value in objective.losses(objective.graded(batch, outputs)).values()
    )


def test_the_generator_learns_to_repeat_a_constant_image() -> None:
    objective = objective_of(replace(TINY, num_refinements=1, learning_rate=2e-3))
    image = torch.full((2, 3, 32, 32), 0.5)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    totals = [
        sum(objective.step(Batch(image=image, mask=mask, step=step)).values()).item()
        for step in range(25)
    ]
    assert totals[-1] < 0.5 * totals[0]


def test_training_without_vgg_s_weights_is_refused_with_the_field_to_give() -> None:
    with pytest.raises(ValueError, match="perceptual_weights"):
        MADFObjective(replace(TINY, perceptual_weights=None))


def test_vgg_s_weights_are_not_asked_for_where_no_loss_looks_at_features() -> None:
    blind = replace(TINY, perceptual_weights=None, perceptual_weight=0.0, style_weight=0.0)
    losses = MADFObjective(blind).step(
        Batch(image=torch.zeros(1, 3, 32, 32), mask=torch.ones(1, 1, 32, 32))
    )
    assert set(losses) == {"known", "hole", "variation"}
    for weight in ("perceptual_weight", "style_weight"):
        with pytest.raises(ValueError, match="perceptual_weights"):
            MADFObjective(replace(blind, **{weight: 1.0}))


def test_only_the_generator_is_trained_by_adam_at_a_constant_rate() -> None:
    objective = MADFObjective(replace(TINY, dead_norms=True))
    assert list(objective.networks) == list(objective.optimizers) == ["generator"]
    (group,) = objective.optimizers["generator"].param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.9, 0.999), 1e-8)
    assert group["weight_decay"] == 0
    assert all(parameter.requires_grad for parameter in group["params"])
    assert objective.perceptual is not None
    frozen = list(objective.perceptual.parameters())
    assert frozen
    assert not any(parameter.requires_grad for parameter in frozen)


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[None]:
    """Make this process a group of one worker."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dead_norms": True},
        {"supervision": "none", "refinement_norm": "batch"},
        {"encoder": "gated", "num_refinements": 0},
        {"encoder": "partial", "num_refinements": 0},
    ],
    ids=["K2", "dead norms", "last picture only", "GConv", "PConv"],
)
def test_steps_under_data_parallelism_are_those_of_one_device(
    example: Example, changes: dict[str, object]
) -> None:
    config = replace(TINY, **changes)
    alone = objective_of(config)
    spread = MADFObjective(config, DistributedDataParallel)
    spread.perceptual = Multiples()
    spread.generator.load_state_dict(copy.deepcopy(alone.generator.state_dict()))
    image, mask = example(32, 32)
    for step in range(2):
        batch = Batch(image=image, mask=mask, step=step)
        expected, losses = alone.step(batch), spread.step(batch)
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
