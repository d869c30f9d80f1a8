"""DeepFill v1's networks: the published counts, known outputs, and receptive fields."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infill.models.architecture import fill
from infill.models.deepfill.config import AttentionConfig, DeepFillConfig
from infill.models.deepfill.networks import Critics, Generator
from infill.models.masking import paste

TINY = DeepFillConfig.tiny()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_paper(config: DeepFillConfig) -> Generator:
    with torch.device("meta"):
        return Generator(config)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (DeepFillConfig(), 3_601_542),
        (DeepFillConfig.released(), 3_601_542),
        (DeepFillConfig.port(), 3_601_542),
        (DeepFillConfig(padding="mirror"), 3_601_542),
        (DeepFillConfig.baseline(), 2_896_454),
        (DeepFillConfig(refinement="paper"), 3_767_558),
        (DeepFillConfig().without_attention(), 2_758_118),
        (DeepFillConfig(num_dilated=5), 3_601_542 + 2 * 147_584),
        (DeepFillConfig(num_extra_convs=1), 3_601_542 + 2 * 147_584),
    ],
)
def test_generator_has_the_published_number_of_parameters(
    config: DeepFillConfig, parameters: int
) -> None:
    assert count(on_paper(config)) == parameters


def test_parts_of_the_generator_have_the_published_numbers_of_parameters() -> None:
    generator = on_paper(DeepFillConfig())
    assert count(generator.coarse) == 1_448_227
    assert count(generator.refine) == 2_153_315
    parts = {name: count(part) for name, part in generator.refine.named_children()}
    assert parts == {
        "imagine": 880_480,
        "match": 400_800,
        "attention": 0,
        "rebuild": 295_168,
        "merge": 576_867,
    }


def test_critics_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        critics = Critics(DeepFillConfig())
    assert count(critics.window) == 4_339_329
    assert count(critics.whole) == 2_733_441


def fill_with_known_numbers(network: nn.Module, gain: float) -> None:
    """Set every kernel by integer arithmetic, in the order of its elements, and biases to 0.01."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            n = torch.arange(module.weight.numel())
            values = ((7919 * n**2 + 104729 * n) % 65537).double() / 65537 - 0.5
            values *= math.sqrt(gain / module.weight[0].numel())
            with torch.no_grad():
                module.weight.copy_(values.view_as(module.weight))
                module.bias.fill_(0.01)


def waves() -> tuple[Tensor, Tensor]:
    i = torch.arange(128, dtype=torch.float64)
    image = torch.stack([torch.sin(0.05 * (c + 1) * i[:, None] + 0.03 * i) for c in range(3)])
    mask = torch.zeros(1, 1, 128, 128, dtype=torch.float64)
    mask[..., 40:88, 32:96] = 1
    return image[None], mask


def summary(picture: Tensor) -> list[float]:
    return [picture.mean().item(), picture.std().item(), *picture[0, :, 64, 64].tolist()]


@torch.no_grad()
@pytest.mark.parametrize(
    ("downsample", "expected"),
    [
        ("stride", [0.139683, 0.490087, 0.74590, -0.33428, 0.05513]),
        ("align_corners", [0.141685, 0.490180, 0.75636, -0.38994, 0.06956]),
    ],
)
def test_known_weights_predict_the_released_network_s_picture(
    downsample: str, expected: list[float]
) -> None:
    config = DeepFillConfig(attention=AttentionConfig(downsample=downsample))
    generator = Generator(config).double()
    fill_with_known_numbers(generator, gain=18)
    image, mask = waves()
    prediction = generator(image, mask)
    coarse = [-0.041916, 0.558073, -0.82088, -0.20424, 0.21088]
    assert summary(prediction.coarse) == pytest.approx(coarse, abs=6e-6)
    assert summary(prediction.final) == pytest.approx(expected, abs=6e-6)


@torch.no_grad()
def test_centred_padding_shifts_the_picture_by_a_known_amount() -> None:
    generator = Generator(DeepFillConfig(padding="centred").without_attention()).double()
    fill_with_known_numbers(generator, gain=18)
    assert generator(*waves()).coarse.mean().item() == pytest.approx(-0.053066, abs=1e-6)


def sample(height: int = 32, width: int = 32, count: int = 1) -> tuple[Tensor, Tensor]:
    image = torch.rand(count, 3, height, width) * 2 - 1
    mask = torch.zeros(count, 1, height, width)
    mask[..., 8:22, 10:20] = 1
    return image, mask


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [(64, 64), (128, 192), pytest.param((512, 680), marks=pytest.mark.slow)], ids=str
)
def test_pictures_have_the_image_s_size_and_the_map_an_eighth(size: tuple[int, int]) -> None:
    generator = Generator(replace(TINY, channels=2))
    image, mask = sample(*size)
    prediction = generator(image, mask)
    for picture in prediction:
        assert picture.shape == image.shape
        assert picture.abs().max() <= 1
    attended = generator.most_attended(image, mask)
    assert attended.shape == (1, size[0] // 8, size[1] // 8)
    assert 0 <= attended.min() <= attended.max() < size[0] * size[1] // 64


@torch.no_grad()
@pytest.mark.parametrize("size", [(250, 250), (100, 60)], ids=str)
def test_other_sizes_are_padded_and_cropped(size: tuple[int, int]) -> None:
    image, mask = sample(*size)
    predicted = fill(Generator(replace(TINY, channels=2)), image, mask, TINY.size_multiple)
    assert predicted.shape == image.shape


@torch.no_grad()
def test_hidden_pixels_change_neither_picture() -> None:
    generator = Generator(TINY)
    image, mask = sample()
    prediction = generator(image, mask)
    other = generator(torch.where(mask.bool(), torch.full_like(image, torch.nan), image), mask)
    assert torch.equal(prediction.final, other.final)
    assert torch.equal(prediction.coarse, other.coarse)
    composite = paste(prediction.final, image, mask)
    assert torch.equal(composite[(mask == 0).expand_as(image)], image[(mask == 0).expand_as(image)])


@torch.no_grad()
def test_the_mask_enters_beside_the_picture_and_the_frame_is_marked_by_ones() -> None:
    seen: list[Tensor] = []
    generator = Generator(TINY)
    generator.coarse.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    generator.refine.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image, mask = sample()
    prediction = generator(image, mask)
    assert torch.equal(seen[0][:, :3], image * (1 - mask))
    assert torch.equal(seen[1][:, :3], image * (1 - mask) + prediction.coarse * mask)
    for channels in seen:
        assert (channels[:, 3] == 1).all()
        assert torch.equal(channels[:, 4:], mask)


def test_a_loss_on_the_final_picture_reaches_every_parameter() -> None:
    generator = Generator(TINY)
    generator(*sample()).final.square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_loss_on_the_coarse_picture_reaches_the_coarse_network_only() -> None:
    generator = Generator(TINY)
    generator(*sample()).coarse.sum().backward()
    assert all(p.grad is not None for p in generator.coarse.parameters())
    assert all(p.grad is None for p in generator.refine.parameters())


@torch.no_grad()
@pytest.mark.parametrize("padding", ["same", "mirror", "centred"])
def test_channels_last_predicts_the_same_picture(padding: str) -> None:
    generator = Generator(replace(TINY, padding=padding))
    image, mask = sample(64, 64, 2)
    plain = generator(image, mask).final
    generator.to(memory_format=torch.channels_last)
    last = generator(image.to(memory_format=torch.channels_last), mask).final
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-5)
    assert last.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_mirrored_borders_need_images_that_the_largest_dilation_fits() -> None:
    generator = Generator(DeepFillConfig(channels=2, padding="mirror"))
    assert generator(*sample(64, 64)).final.isfinite().all()
    with pytest.raises(ValueError, match="mirror"):
        generator(*sample(56, 64))


@torch.no_grad()
def test_without_attention_there_is_nothing_to_look_at() -> None:
    generator = Generator(TINY.without_attention())
    with pytest.raises(ValueError, match="none"):
        generator.most_attended(*sample())


SMALLEST = replace(TINY, channels=2, num_dilated=1)


@pytest.mark.slow
@torch.no_grad()
def test_generator_exports_for_any_size_and_number_of_images() -> None:
    generator = Generator(SMALLEST).eval()
    batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in "bhw")
    sizes = {0: batch, 2: 8 * height, 3: 8 * width}
    exported = torch.export.export(
        generator, sample(48, 40, 2), dynamic_shapes={"image": sizes, "mask": sizes}
    ).module()
    image, mask = sample(32, 64, 3)
    expected = generator(image, mask).final
    torch.testing.assert_close(exported(image, mask)[0], expected, rtol=0, atol=1e-6)


def test_critics_refuse_a_size_they_were_not_made_for() -> None:
    critics = Critics(TINY)
    with pytest.raises(ValueError, match=r"64 x 64.*48 x 64"):
        critics(torch.zeros(1, 3, 48, 64), torch.zeros(1, 3, 32, 32))


@torch.no_grad()
def test_critics_score_in_full_precision_under_autocast() -> None:
    critics, (image, _) = Critics(TINY), sample(64, 64, 2)
    window = image[..., :32, :32]
    full = critics(image, window)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = critics(image, window)
    assert torch.equal(full.whole, under.whole)
    assert torch.equal(full.window, under.window)
    assert full.whole.shape == (2,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 3),
        ("num_dilated", -1),
        ("image_size_px", 100),
        ("local_size_px", 512),
        ("critic_updates", 0),
        ("discount_rate", 0.0),
        ("known_weight", -1.0),
        ("learning_rate", 0.0),
        ("beta2", 1.0),
    ],
)
def test_impossible_numbers_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(DeepFillConfig(), **{field: value})
