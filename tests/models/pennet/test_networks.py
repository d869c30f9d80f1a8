import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infill.models.architecture import fill
from infill.models.pennet.architecture import ARCHITECTURE
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.networks import Discriminator, Generator
from infill.models.pennet.objective import pooled_l1, pyramid_l1

ABLATIONS = {
    "cross_layer": {},
    "single": {"attention": "single"},
    "same_layer": {"attention": "same_layer"},
    "patch_swap": {"attention": "patch_swap"},
    "none": {"attention": "none"},
}
every_ablation = pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(config: PENNetConfig) -> Generator:
    with torch.device("meta"):
        return ARCHITECTURE.generator(config)


def tiny(**changes: object) -> Generator:
    """Return a small generator whose weights are large enough to distinguish inputs."""
    generator = ARCHITECTURE.generator(replace(PENNetConfig.tiny(), **changes))
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, (2.0 / parameter[0].numel()) ** 0.5)
    return generator.eval()


def frame(height: int, width: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, 4:30, 8:40] = 1
    mask[1, :, height // 2 :, : width // 3] = 1
    return image, mask


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (PENNetConfig(), 10_231_538),
        (PENNetConfig(attention="same_layer"), 10_231_538),
        (PENNetConfig(pyramid_weight=0.0), 10_231_538),
        (PENNetConfig.as_printed(), 10_231_538),
        (PENNetConfig(attention="none"), 9_447_698),
        (PENNetConfig(attention="patch_swap"), 9_447_698),
        (PENNetConfig(attention="single"), 9_484_626),
        (PENNetConfig(attention="single", attention_level=1), 9_456_946),
        (PENNetConfig(attention="single", attention_level=3), 9_595_282),
        (PENNetConfig(attention="single", attention_level=4), 10_037_778),
        (PENNetConfig(attention="single", attention_level=5), 9_447_698),
    ],
    ids=str,
)
def test_generators_have_the_measured_number_of_parameters(
    config: PENNetConfig, parameters: int
) -> None:
    assert count(on_meta(config)) == parameters


def test_every_part_has_the_number_of_parameters_measured_on_the_release() -> None:
    generator = on_meta(PENNetConfig())
    encoder = [1_184, 18_496, 73_856, 295_168, 1_180_160, 2_359_808]
    assert [count(conv) for conv in generator.encoder] == encoder
    assert [count(f) for f in generator.fillers] == [0, 590_080, 147_584, 36_928, 9_248]
    decoder = [2_359_808, 2_359_552, 589_952, 147_520, 36_896]
    assert [count(conv) for conv in generator.decoder] == decoder
    assert [count(head) for head in generator.heads] == [3_075, 1_539, 771, 387, 195]
    assert [count(generator.last), count(generator.out)] == [18_464, 867]
    assert len(generator.state_dict()) == 68
    assert list(generator.buffers()) == []


def test_discriminator_has_the_measured_parameters_and_buffers() -> None:
    with torch.device("meta"):
        discriminator = Discriminator(PENNetConfig())
    assert count(discriminator) == 4_318_401
    assert [count(conv) for conv in discriminator.convs] == [4_800, 204_800, 819_200, 3_276_800]
    assert count(discriminator.out) == 12_801
    assert len(list(discriminator.parameters())) == 6
    assert sum(buffer.numel() for buffer in discriminator.buffers()) == 12_235


def test_weights_start_small_and_biases_at_zero() -> None:
    config = PENNetConfig(channels=16, discriminator_channels=32)
    for network in (Generator(config), Discriminator(config)):
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                assert not parameter.any(), name
            elif parameter.numel() > 10_000:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.02), name


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192), (320, 128)])
def test_pyramid_halves_from_level_to_level(height: int, width: int) -> None:
    prediction = tiny()(*frame(height, width))
    assert prediction.final.shape == (2, 3, height, width)
    sizes = [tuple(picture.shape[2:]) for picture in prediction.pyramid]
    assert sizes == [(height >> level, width >> level) for level in (5, 4, 3, 2, 1)]
    assert all(picture.abs().max() <= 1 for picture in prediction.pyramid)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(200, 256), (97, 131), (30, 41)])
def test_other_sizes_are_refused_and_predicted_through_padding(height: int, width: int) -> None:
    generator = tiny()
    image, mask = frame(height, width)
    with pytest.raises(ValueError, match=f"multiples of 64 px, not {height} x {width}"):
        generator(image, mask)
    assert fill(generator, image, mask, 64).shape == image.shape


@torch.no_grad()
@pytest.mark.parametrize("side", [128, 256])
def test_discriminator_scores_patches(side: int) -> None:
    discriminator = Discriminator(PENNetConfig(discriminator_channels=4)).eval()
    sizes = []
    for conv in discriminator.convs:
        conv.register_forward_hook(lambda _, __, output: sizes.append(output.shape[2]))
    logits = discriminator(torch.rand(1, 3, side, side))
    assert logits.shape[2:] == ((27, 27) if side == 256 else (11, 11))
    assert sizes == ([127, 63, 31, 29] if side == 256 else [63, 31, 15, 13])


def test_discriminator_sees_93_pixels() -> None:
    discriminator = Discriminator(PENNetConfig(discriminator_channels=4)).eval()
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    discriminator(image)[0, 0, 13, 13].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 93


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numbered_weights_predict_what_the_released_network_predicts(dtype, numbered) -> None:
    import numpy as np

    generator = Generator(PENNetConfig(attention_floor=1e-8)).to(dtype)
    refined = [conv for filler in generator.fillers[1:] for conv in filler.refinement]
    ends = [generator.last, generator.out]
    convs = [*generator.encoder, *refined, *generator.decoder, *generator.heads, *ends]
    numbered(convs, 1000, 2.0)
    image = torch.from_numpy(np.random.RandomState(7).uniform(-1, 1, (2, 3, 128, 128))).to(dtype)
    mask = torch.zeros(2, 1, 128, 128, dtype=dtype)
    mask[0, :, 32:96, 32:96] = 1
    mask[1, :, 10:60, 40:120] = 1

    prediction = generator(image, mask)
    final = prediction.final
    exact = {"abs": 2e-5 if dtype == torch.float32 else 6e-11}
    found = [final.mean(), final.std(), final.abs().mean()]
    found += [final[0, 0, 64, 64], final[1, 2, 0, 0], final[1, 1, 35, 80]]
    expected = [-0.0310859711, 0.4579919585, 0.3955250276]
    expected += [0.0907790093, -0.1839316154, -0.8011590024]
    assert [value.item() for value in found] == pytest.approx(expected, **exact)
    pyramid = [(p.mean().item(), p.std().item()) for p in reversed(prediction.pyramid)]
    expected_pyramid = [(-0.1641625, 0.4521124), (0.0430840, 0.2473141), (0.2633191, 0.2614066)]
    expected_pyramid += [(-0.0012915, 0.3749417), (0.2505884, 0.4329230)]
    for pair, expected_pair in zip(pyramid, expected_pyramid, strict=True):
        assert pair == pytest.approx(expected_pair, abs=2e-5 if dtype == torch.float32 else 6e-8)

    hole, known = pooled_l1(final, image, mask), pooled_l1(final, image, 1 - mask)
    scales = pyramid_l1(prediction.pyramid, image)
    losses = [hole.item(), known.item(), scales.item()]
    assert losses == pytest.approx([0.6126728782, 0.6006406623, 2.3232440274], **exact)
    (6 * hole + known + 0.5 * scales).backward()
    norm = torch.stack([p.grad.norm() for p in generator.parameters()]).norm()
    refinement = generator.fillers[1].refinement[3].weight.grad.norm()
    norms = [norm.item(), generator.encoder[0].weight.grad.norm().item(), refinement.item()]
    assert norms == pytest.approx([21.1353672, 0.5766400, 0.1807464], rel=1e-4)


@torch.no_grad()
def test_numbered_weights_score_as_the_released_discriminator_does(numbered) -> None:
    import numpy as np

    discriminator = Discriminator(PENNetConfig()).double()
    numbered([*discriminator.convs, discriminator.out], 2000, 1.0)
    for conv in discriminator.convs:
        conv.normalised_weight = lambda conv=conv: conv.weight  # measured without normalisation
    image = torch.from_numpy(np.random.RandomState(11).uniform(-1, 1, (1, 3, 256, 256)))
    logits = discriminator(image)
    found = [logits.mean(), logits.std(), logits[0, 0, 0, 0], logits[0, 0, 13, 13]]
    expected = [0.0162468, 0.1023327, 0.0922977, 0.0255360]
    assert [value.item() for value in found] == pytest.approx(expected, abs=6e-8)


@torch.no_grad()
def test_spectral_norms_reach_one() -> None:
    discriminator = Discriminator(PENNetConfig(discriminator_channels=8))
    image = torch.rand(1, 3, 64, 64)
    for _ in range(60):
        discriminator(image)
    for conv in discriminator.eval().convs:
        largest = torch.linalg.matrix_norm(conv.normalised_weight().flatten(1), ord=2)
        assert largest.item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("hidden", [0.3, math.nan, math.inf])
@every_ablation
@torch.no_grad()
def test_nothing_in_the_hole_reaches_any_output(changes: dict, hidden: float) -> None:
    generator = tiny(**changes)
    image, mask = frame(64, 128)
    predicted, other = (
        generator(image, mask),
        generator(image.masked_fill(mask.bool(), hidden), mask),
    )
    assert torch.equal(predicted.final, other.final)
    assert all(torch.equal(a, b) for a, b in zip(predicted.pyramid, other.pyramid, strict=True))


@every_ablation
@torch.no_grad()
def test_a_batch_predicts_what_its_samples_predict_alone(changes: dict) -> None:
    generator = tiny(**changes)
    image, mask = frame(64, 128)
    predicted = generator(image, mask).final
    alone = torch.cat([generator(image[i : i + 1], mask[i : i + 1]).final for i in range(2)])
    torch.testing.assert_close(predicted, alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_ablation_predicts_another_picture() -> None:
    state = tiny().state_dict()
    image, mask = frame(64, 128)
    pictures = []
    for changes in ABLATIONS.values():
        generator = tiny(**changes)
        kept = {name: state[name] for name in generator.state_dict()}
        generator.load_state_dict(kept)
        pictures.append(generator(image, mask).final)
    for index, first in enumerate(pictures):
        assert all((first - second).abs().max() > 1e-4 for second in pictures[:index])


@torch.no_grad()
def test_generator_with_naive_attention_predicts_the_same(reference) -> None:
    generator = tiny().double()
    image, mask = (part.double() for part in frame(128, 64))
    predicted = generator(image, mask)
    for index, filler in enumerate(generator.fillers):
        generator.fillers[index] = reference.NaiveTransfer(filler)
    expected = generator(image, mask)
    torch.testing.assert_close(predicted.final, expected.final, rtol=0, atol=1e-10)
    torch.testing.assert_close(predicted.pyramid, expected.pyramid, rtol=0, atol=1e-10)


@every_ablation
def test_every_parameter_has_a_finite_gradient_also_under_autocast(changes: dict) -> None:
    generator = tiny(**changes).train()
    image, mask = frame(64, 64)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            prediction = generator(image, mask)
            loss = pyramid_l1(prediction.pyramid, image) + prediction.final.square().mean()
        generator.zero_grad()
        loss.backward()
        for name, parameter in generator.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@torch.no_grad()
def test_channels_last_predicts_the_same_picture() -> None:
    generator = tiny()
    image, mask = frame(64, 128)
    predicted = generator(image, mask).final
    generator = generator.to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(generator(image, mask).final, predicted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["same_layer", "patch_swap"])
def test_other_attention_compiles_in_one_piece_with_its_gradients(attention: str) -> None:
    generator = tiny(attention=attention).train()
    image, mask = frame(64, 64)
    predicted = generator(image, mask).final
    predicted.square().mean().backward()
    gradient = generator.encoder[0].weight.grad.clone()
    generator.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(generator, fullgraph=True, backend="eager")
    again = compiled(image, mask).final
    again.square().mean().backward()
    torch.testing.assert_close(again, predicted, rtol=0, atol=1e-6)
    torch.testing.assert_close(generator.encoder[0].weight.grad, gradient, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image, mask).final, predicted, rtol=0, atol=1e-6)


def test_other_attention_exports_as_one_program() -> None:
    generator = tiny(attention="patch_swap")
    image, mask = frame(64, 128)
    program = torch.export.export(generator, (image, mask))
    predicted = program.module()(image, mask).final
    torch.testing.assert_close(predicted, generator(image, mask).final, rtol=0, atol=1e-6)


@torch.no_grad()
def test_attention_for_pictures_has_every_level(reference) -> None:
    generator = tiny()
    image, mask = frame(128, 64)
    weights = generator.attention(image, mask)
    assert [tuple(w.shape) for w in weights.values()] == [
        (2, 128 >> level + 1, 64 >> level + 1) + (128 >> level + 1, 64 >> level + 1)
        for level in (5, 4, 3, 2, 1)
    ]
    assert list(weights) == [5, 4, 3, 2, 1]
    sums = weights[1].sum(dim=(3, 4))
    assert sums.max() <= 1 + 1e-5
    assert tiny(attention="none").attention(image, mask) == {}
