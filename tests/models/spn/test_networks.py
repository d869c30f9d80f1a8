from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from infill.models.architecture import fill
from infill.models.flops import kept_for_backward
from infill.models.spn.architecture import ARCHITECTURE
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Discriminator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(config: SPNConfig) -> nn.Module:
    with torch.device("meta"):
        return ARCHITECTURE.generator(config)


def tiny_batch(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, 4:20, 8:30] = 1
    mask[1, :, 10:, :15] = 1
    return image, mask


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [
        (SPNConfig(), 50_702_643, 472),
        (SPNConfig(num_blocks=4), 38_898_995, 408),
        (SPNConfig(num_blocks=12), 62_506_291, 536),
        (SPNConfig(prior_weight=0.0), 50_648_835, 466),
        (SPNConfig(prior_levels=2), 49_295_661, None),
        (SPNConfig(prior_levels=1), 45_597_223, 418),
        (SPNConfig(fusion="concat"), 35_207_091, None),
        (SPNConfig.spl(), 45_597_223, 418),
        (SPNConfig(variant="probabilistic"), 68_512_883, 490),
        (SPNConfig(variant="probabilistic", num_blocks=4), 56_709_235, 426),
        (SPNConfig(variant="probabilistic", num_blocks=12), 80_316_531, 554),
    ],
)
def test_generators_have_the_published_number_of_parameters(
    config: SPNConfig, parameters: int, tensors: int | None
) -> None:
    generator = on_meta(config)
    assert count(generator) == parameters
    assert list(generator.buffers()) == []
    assert tensors is None or len(generator.state_dict()) == tensors


def test_every_part_has_the_number_of_parameters_measured_on_the_release() -> None:
    generator = on_meta(SPNConfig())
    learner, decoder = generator.prior_learner, generator.decoder
    assert count(generator.image_encoder) == 665_216 + 1_792
    assert count(learner.encoder) == 1_717_184
    assert count(learner.trunk) == 590_080 + 11_131_904 + 1_638_912
    assert count(learner.blocks) == 4_720_640
    assert count(learner.rises) == 2_766_144
    assert [count(head) for head in generator.heads] == [39_064, 9_804, 4_940]
    assert count(decoder.blocks) == 8 * 2_950_912
    assert [count(rise) for rise in decoder.rises] == [2_656_256, 1_144_000]
    assert count(decoder.rises) + count(generator.out) == 3_809_667
    assert count(decoder.blocks[0].spade1) == 885_376


def test_discriminator_has_the_published_parameters_and_buffers() -> None:
    discriminator = Discriminator(64)
    assert count(discriminator) == 2_763_776
    buffers = list(discriminator.buffers())
    assert len(buffers) == 10
    assert sum(buffer.numel() for buffer in buffers) == 16_369
    assert Counter(p.dim() for p in discriminator.parameters()) == {4: 5}


def test_discriminator_scores_patches_of_seventy_pixels() -> None:
    discriminator = Discriminator(4).eval()
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    logits = discriminator(image)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 70


@pytest.mark.parametrize(
    ("config", "mean", "deviation", "centre", "corner", "heads"),
    [
        (
            SPNConfig(),
            0.479054,
            0.135787,
            (0.616895, 0.351919, 0.653363),
            (0.543912, 0.284389, 0.617332),
            [(0.260470, 4.633560), (0.095011, 0.558785), (0.012920, 0.137038)],
        ),
        (
            SPNConfig(variant="probabilistic"),
            0.470685,
            0.144255,
            (0.453151, 0.388460, 0.793371),
            (0.383187, 0.296988, 0.448226),
            [(0.186451, 1.509907), (0.042445, 0.234448), (0.013591, 0.109703)],
        ),
        (
            SPNConfig.spl(),
            0.480720,
            0.266393,
            (0.460331, 0.205510, 0.128182),
            (0.464546, 0.504560, 0.211520),
            [(0.258658, 4.633601)],
        ),
    ],
    ids=["deterministic", "probabilistic", "spl"],
)
@torch.no_grad()
def test_numbered_weights_predict_what_the_released_network_predicts(
    config, mean, deviation, centre, corner, heads, numbered, golden_input
) -> None:
    generator = numbered(on_meta(config))
    colours, mask = golden_input
    prediction = generator(2 * colours - 1, mask)
    predicted = (prediction.final + 1) / 2
    found = [predicted.mean(), predicted.std(), *predicted[0, :, 32, 32], *predicted[0, :, 0, 0]]
    expected = [mean, deviation, *centre, *corner]
    torch.testing.assert_close(torch.stack(found).tolist(), expected, rtol=0, atol=1.1e-6)
    of_heads = [(level.mean().item(), level.std().item()) for level in prediction.prior]
    torch.testing.assert_close(of_heads, heads, rtol=0, atol=1.1e-6)
    if config.variant == "probabilistic":
        latent_mean, latent_deviation = prediction.latent
        found = [latent_mean.mean(), latent_mean.std(), latent_deviation.mean()]
        expected = [-0.000577, 0.134225, 0.698592]
        torch.testing.assert_close(torch.stack(found).tolist(), expected, rtol=0, atol=1.1e-6)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (68, 64), (100, 100), (12, 16)])
def test_sizes_that_are_multiples_of_four_are_predicted_natively(height: int, width: int) -> None:
    generator = ARCHITECTURE.generator(SPNConfig.tiny())
    image, mask = tiny_batch(height, width)
    prediction = generator(image, mask)
    assert prediction.final.shape == (2, 3, height, width)
    assert [tuple(level.shape[2:]) for level in prediction.prior] == [
        (height // 4, width // 4),
        (height // 2, width // 2),
        (height, width),
    ]


def test_heads_are_as_wide_as_the_teacher_s_maps_and_run_in_training_only() -> None:
    generator = ARCHITECTURE.generator(replace(SPNConfig.tiny(), teacher="asl"))
    image, mask = tiny_batch(32, 32)
    assert [level.shape[1] for level in generator(image, mask).prior] == [152, 76, 76]
    assert generator.eval()(image, mask).prior == ()


@torch.no_grad()
def test_other_sizes_are_refused_and_predicted_through_padding() -> None:
    generator = ARCHITECTURE.generator(SPNConfig.tiny()).eval()
    image, mask = tiny_batch(66, 64)
    with pytest.raises(ValueError, match=r"multiples of 4 px from 12 px, not 66 x 64"):
        generator(image, mask)
    with pytest.raises(ValueError, match=r"not 8 x 8"):
        generator(image[..., :8, :8], mask[..., :8, :8])
    assert fill(generator, image, mask, 4).shape == image.shape


@pytest.mark.parametrize("hidden", [0.3, torch.nan, torch.inf])
@pytest.mark.parametrize("variant", ["deterministic", "probabilistic"])
@torch.no_grad()
def test_nothing_in_the_hole_reaches_any_output(variant: str, hidden: float) -> None:
    generator = ARCHITECTURE.generator(replace(SPNConfig.tiny(), variant=variant))
    image, mask = tiny_batch(64, 96)
    other = image.masked_fill(mask.bool(), hidden)
    for first, second in zip(
        [generator(image, mask).final, *generator(image, mask).prior],
        [generator(other, mask).final, *generator(other, mask).prior],
        strict=True,
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    "config",
    [
        SPNConfig.tiny(),
        replace(SPNConfig.tiny(), prior_levels=2),
        replace(SPNConfig.tiny(), prior_levels=1, semantic_slope=0.1),
        replace(SPNConfig.tiny(), fusion="concat"),
        replace(SPNConfig.tiny(), variant="probabilistic"),
    ],
    ids=["deterministic", "two levels", "spl", "concat", "probabilistic"],
)
def test_prediction_and_heads_need_every_parameter(config: SPNConfig) -> None:
    generator = ARCHITECTURE.generator(replace(config, channels=8)).double()
    image, mask = (part.double() for part in tiny_batch(64, 64))
    prediction = generator(image, mask)
    total = prediction.final.mean() + sum(level.abs().mean() for level in prediction.prior)
    if prediction.latent:
        total = total + prediction.latent[1].mean()  # the mean alone is predicted without noise
    total.backward()
    unmoved = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert unmoved == []


def test_an_out_convolution_of_zeros_predicts_grey() -> None:
    generator = ARCHITECTURE.generator(SPNConfig.tiny())
    nn.init.zeros_(generator.out.weight)
    nn.init.zeros_(generator.out.bias)
    image, mask = tiny_batch(32, 32)
    assert not generator(image, mask).final.any()


@torch.no_grad()
def test_prior_pyramid_is_coarsest_first_and_is_what_the_heads_read() -> None:
    config = SPNConfig.tiny()
    generator = ARCHITECTURE.generator(config)
    image, mask = tiny_batch(32, 48)
    pyramid = generator.prior_pyramid(image, mask)
    assert [tuple(level.shape[1:]) for level in pyramid] == [(8, 8, 12), (4, 16, 24), (2, 32, 48)]
    for head, level, seen in zip(
        generator.heads, pyramid, generator(image, mask).prior, strict=True
    ):
        assert torch.equal(functional.conv2d(level, head.weight, head.bias), seen)


@torch.no_grad()
def test_channels_last_predicts_the_same_picture() -> None:
    generator = ARCHITECTURE.generator(SPNConfig.tiny()).eval()
    image, mask = tiny_batch(32, 32)
    predicted = generator(image, mask).final
    generator = generator.to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(generator(image, mask).final, predicted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 0}, "num_blocks"),
        ({"channels": 3}, "even"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"beta2": 1.0}, "beta2"),
        ({"image_weight": -1.0}, "image_weight"),
        ({"fusion": "concat", "prior_levels": 2}, "concat"),
        ({"variant": "probabilistic", "prior_levels": 1}, "probabilistic"),
        ({"perceptual_layer_weights": (1.0,)}, "five"),
    ],
)
def test_impossible_numbers_are_refused_on_construction(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPNConfig.tiny(), **changes)


def saved_bytes(config: SPNConfig, side: int) -> int:
    """Return the size of all that a forward pass keeps for its backward pass."""
    image, mask = torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side)
    prediction, kept = kept_for_backward(ARCHITECTURE.generator(config), image, mask)
    assert prediction.final.requires_grad
    return kept


@pytest.mark.parametrize(
    ("config", "kilobytes_per_pixel"),
    [(SPNConfig(), 25.0), (SPNConfig.spl(), 14.6)],
    ids=["deterministic", "spl"],
)
def test_training_keeps_three_fifths_of_the_release_s_memory_or_less(
    config: SPNConfig, kilobytes_per_pixel: float
) -> None:
    # At a quarter of the width: a quarter of the bytes. The release keeps 41.4 kB and 29.1 kB.
    narrow = replace(config, channels=16)
    pixels = 96**2 - 64**2
    per_pixel = (saved_bytes(narrow, 96) - saved_bytes(narrow, 64)) / pixels / 1000
    assert 4 * per_pixel < kilobytes_per_pixel + 1.5  # masks and colours do not get narrower


@pytest.mark.parametrize(
    ("config", "draws", "billions"),
    [
        (SPNConfig(), 0, 726.906),
        (SPNConfig(num_blocks=4), 0, 726.906 - 96.64),
        (SPNConfig.spl(), 0, 421.576),
        (SPNConfig(variant="probabilistic"), 1, 691.775),
        (SPNConfig(variant="probabilistic"), 2, 1_207.817),
        (SPNConfig(variant="probabilistic"), 5, 175.7 + 5 * 516.0),
    ],
)
@torch.no_grad()
def test_drawing_takes_the_arithmetic_of_the_release_and_no_more(
    config: SPNConfig, draws: int, billions: float
) -> None:
    generator = on_meta(config)
    with torch.device("meta"):
        inputs = [torch.empty(1, 3, 256, 256), torch.empty(1, 1, 256, 256)]
        if draws:
            inputs.append(torch.empty(draws, 1, 128, 8, 8))
    with FlopCounterMode(display=False) as counter:
        generator(*inputs)
    assert counter.get_total_flops() / 1e9 == pytest.approx(billions, rel=2e-4)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(68, 64), (100, 100)])
def test_the_probabilistic_variant_predicts_other_sizes_through_padding(
    height: int, width: int
) -> None:
    config = replace(SPNConfig.tiny(), variant="probabilistic")
    generator = ARCHITECTURE.generator(config).eval()
    image, mask = tiny_batch(height, width)
    assert fill(generator, image, mask, config.size_multiple).shape == image.shape
