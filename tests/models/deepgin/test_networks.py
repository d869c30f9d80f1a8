"""DeepGIN's layers and networks against plain forms, and the sheet's figures."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import inputs_of
from infill.models.deepgin.blocks import ResidualBlock, SelfAttention, bordered
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import Discriminators, Generator, grown, shrunk
from infill.models.deepgin.variants import variants
from infill.models.flops import size_of

SMALL = DeepGINConfig.tiny()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def meta(config: DeepGINConfig) -> Generator:
    with torch.device("meta"):
        return Generator(config)


def test_released_network_has_these_tensors_and_shapes() -> None:
    generator = meta(DeepGINConfig())
    shapes = [tuple(parameter.shape) for parameter in generator.parameters()]
    assert len(shapes) == 242
    assert list(generator.buffers()) == []
    for shape, count in {
        (32, 256, 3, 3): 48,
        (128, 512, 3, 3): 24,
        (512, 512, 3, 3): 6,
        (256, 256, 3, 3): 6,
        (256, 512, 1, 1): 3,
        (32, 4, 7, 7): 2,
        (256, 384, 3, 3): 1,
        (128, 192, 3, 3): 1,
        (1, 32, 3, 3): 1,
    }.items():
        assert shapes.count(shape) == count, shape
    assert sum(p.numel() for p in generator.coarse.parameters()) == 8_167_843


@pytest.mark.parametrize(
    ("variant", "count", "tensors", "gmacs"),
    [
        ("coarse", 8_167_843, 40, 13.202),
        ("standard", 40_849_990, 84, 28.148),
        ("standard-sa", 41_375_558, 92, 28.316),
        ("standard-mssa", 42_892_134, 116, 32.007),
        ("dilated-mssa", 42_892_134, 116, 32.007),
        ("spd-mssa", 42_892_134, 236, 32.007),
        ("full", 42_930_186, 242, 32.180),
        ("segmentation-guided", 42_939_594, 242, 32.797),
    ],
)
def test_rows_of_the_ablation_table(variant: str, count: int, tensors: int, gmacs: float) -> None:
    config = next(row.config for row in variants() if row.name == variant)
    parameters = list(meta(config).parameters())
    assert len(parameters) == tensors
    assert sum(parameter.numel() for parameter in parameters) == count
    size = size_of(config)
    assert size.macs / 1e9 == pytest.approx(gmacs, abs=0.01)
    assert size.discriminators == 3_421_568


@pytest.mark.parametrize("variant", [row.name for row in variants()])
def test_every_parameter_learns_in_every_row(variant: str) -> None:
    config = next(row.config for row in variants() if row.name == variant)
    blocks = {"num_coarse_blocks": 1, "num_refine_blocks": 2}
    generator = Generator(replace(config, channels=8, initial_gain=1.0, **blocks))
    image, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    predicted = generator(*inputs_of(config, image, mask))
    pictures = [
        picture
        for picture in (predicted.unclipped, predicted.coarse, predicted.small)
        if picture is not None
    ]
    sum((picture - 0.3).abs().mean() for picture in pictures).backward()
    for name, parameter in generator.named_parameters():
        # A bias before a softmax over all places moves every logit of a row alike.
        if not name.endswith("phi.bias"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("variant", ["coarse", "standard-sa", "dilated-mssa", "spd-mssa"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@torch.no_grad()
def test_ablations_compile_and_export_too(variant: str) -> None:
    config = next(row.config for row in variants() if row.name == variant)
    blocks = {"num_coarse_blocks": 1, "num_refine_blocks": 2}
    generator = Generator(replace(config, channels=8, **blocks)).eval()
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    expected = generator(image, mask).final
    compiled = torch.compile(generator, fullgraph=True, backend="eager")
    assert torch.equal(compiled(image, mask).final, expected)
    exported = torch.export.export(generator, (image, mask)).module()
    torch.testing.assert_close(exported(image, mask).final, expected)


@pytest.mark.parametrize(("coarse", "refine"), [(1, 1), (4, 9), (6, 2)])
def test_each_block_costs_what_the_table_says(coarse: int, refine: int) -> None:
    config = DeepGINConfig(num_coarse_blocks=coarse, num_refine_blocks=refine)
    count = sum(parameter.numel() for parameter in meta(config).parameters())
    assert count == 42_930_186 + 1_180_160 * (coarse - 6) + 4_719_616 * (refine - 6)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (80, 80), (128, 192)])
@torch.no_grad()
def test_pictures_have_the_size_of_the_image_and_a_quarter(height: int, width: int) -> None:
    predicted = Generator(SMALL)(torch.zeros(1, 3, height, width), torch.zeros(1, 1, height, width))
    for picture in (predicted.final, predicted.unclipped, predicted.coarse):
        assert picture.shape == (1, 3, height, width)
    assert predicted.small.shape == (1, 3, height // 4, width // 4)


@torch.no_grad()
def test_discriminators_see_two_sizes() -> None:
    networks = Discriminators(DeepGINConfig())
    whole, halved = networks(torch.zeros(1, 3, 256, 256), torch.zeros(1, 3, 256, 256))
    assert whole.shape == (1, 256, 67, 67)
    assert halved.shape == (1, 256, 35, 35)
    assert sum(buffer.numel() for buffer in networks.buffers()) == 15_936


def test_discriminators_keep_pytorch_s_initialisation() -> None:
    networks = Discriminators(DeepGINConfig())
    for conv, bound in zip(networks.whole.convs, (0.1021, 0.03125, 0.0221, 0.015625), strict=True):
        assert conv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


def test_weights_start_at_a_tenth_of_kaiming_s() -> None:
    config = DeepGINConfig(num_coarse_blocks=1, num_refine_blocks=1)
    generator = Generator(config)
    fuse = generator.refine.blocks[0].fuse
    assert fuse.weight.std().item() == pytest.approx(0.00208, rel=0.02)
    assert generator.coarse.encoder[0].weight.std().item() == pytest.approx(0.0101, rel=0.05)
    assert all((m.bias == 0).all() for m in generator.modules() if isinstance(m, nn.Conv2d))
    assert generator.refine.attention.out.weight.abs().max() > 0
    identity = Generator(replace(SMALL, attention_starts_as_identity=True))
    assert identity.refine.attention.out.weight.abs().max() == 0


@torch.no_grad()
def test_a_hole_over_everything_leaves_nothing_to_see() -> None:
    generator, mask = Generator(SMALL), torch.ones(1, 1, 64, 64)
    one, other = torch.rand(2, 1, 3, 64, 64)
    assert torch.equal(generator(one, mask).unclipped, generator(other, mask).unclipped)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_border_is_pytorch_s_with_its_gradients(reach: int) -> None:
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = functional.pad(features, [reach] * 4, mode="replicate")
    padded = bordered(features, reach)
    assert torch.equal(padded, expected)
    weights = torch.rand_like(padded)
    (mine,) = torch.autograd.grad((padded * weights).sum(), features)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), features)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def plain_pyramid(block: ResidualBlock, features: Tensor) -> Tensor:
    outputs = []
    for branch in block.branches:
        padded = functional.pad(features, [branch.reach] * 4, mode="replicate")
        predicted = functional.conv2d(padded, branch.weight, branch.bias, dilation=branch.dilation)
        outputs.append(functional.relu(predicted))
    merged = functional.pad(torch.cat(outputs, 1), [1] * 4, mode="replicate")
    return features + functional.conv2d(merged, block.fuse.weight, block.fuse.bias)


@pytest.mark.parametrize("rates", [(1,), (2,), (2, 3, 4, 5), (2, 3, 4, 5, 6, 8, 10, 1)])
def test_pyramid_is_one_padded_branch_by_branch(rates: tuple[int, ...]) -> None:
    block = ResidualBlock(8, rates).double()
    features = torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    mine, plain = block(features), plain_pyramid(block, features)
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(mine.square().sum(), [features, *block.parameters()]),
        torch.autograd.grad(plain.square().sum(), [features, *block.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_block_without_weights_is_the_identity() -> None:
    block = ResidualBlock(8, (2, 3, 4, 5))
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    features = torch.randn(1, 8, 6, 6)
    assert torch.equal(block(features), features)


@torch.no_grad()
def test_an_impulse_reaches_exactly_its_dilations() -> None:
    rates = (2, 3, 4, 5, 6, 8, 10, 1)
    block = ResidualBlock(8, rates)
    for branch in block.branches:
        nn.init.ones_(branch.weight)
        nn.init.zeros_(branch.bias)
    impulse = torch.zeros(1, 8, 41, 41)
    impulse[..., 20, 20] = 1
    for branch, rate in zip(block.branches, rates, strict=True):
        seen = branch(bordered(impulse, branch.reach))[0, 0].nonzero().tolist()
        steps = (20 - rate, 20, 20 + rate)
        assert seen == [[row, column] for row in steps for column in steps]


def test_attention_is_the_explicit_one_in_values_and_gradients() -> None:
    layer = SelfAttention(6).double()
    features = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    theta, phi, g = (conv(features).flatten(2) for conv in (layer.theta, layer.phi, layer.g))
    weights = torch.softmax(theta.mT @ phi, dim=-1)
    seen = torch.einsum("bqk,bck->bcq", weights, g).reshape(2, 3, 5, 4)
    plain = features + layer.out(seen)
    mine = layer(features)
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-12)
    parameters = [features, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(mine.square().sum(), parameters),
        torch.autograd.grad(plain.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def test_attention_to_nothing_in_particular_is_the_mean() -> None:
    layer = SelfAttention(4)
    for parameter in layer.theta.parameters():
        nn.init.zeros_(parameter)
    features = torch.randn(1, 4, 3, 5)
    mean = layer.g(features).mean(dim=(2, 3), keepdim=True).expand(-1, -1, 3, 5)
    torch.testing.assert_close(layer(features), features + layer.out(mean))


def test_attention_never_keeps_all_pairs() -> None:
    layer, features, kept = SelfAttention(64), torch.randn(1, 64, 64, 64), []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(features)
    assert max(kept) < 5 * 2**20  # all pairs of 4,096 places would be 64 MiB
    assert sum(kept) < 8 * 2**20


def test_shrinking_samples_from_corner_to_corner() -> None:
    ramp = torch.arange(256.0, dtype=torch.float64).expand(1, 1, 256, 256)
    row = shrunk(ramp)[0, 0, 0]
    expected = torch.tensor([0, 4.0476, 8.0952, 12.1429], dtype=torch.float64)
    torch.testing.assert_close(row[:4], expected, rtol=0, atol=1e-4)
    assert row[-2].item() == pytest.approx(250.9524, abs=1e-4)
    assert row[-1] == 255
    assert grown(torch.ones(1, 3, 4, 4)).shape == (1, 3, 16, 16)


@torch.no_grad()
def test_correction_is_the_share_of_the_small_picture_s_error() -> None:
    network = Generator(SMALL).refine
    base, small = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 4, 4), 0.6)
    share = torch.sigmoid(torch.zeros(1, 1, 16, 16))
    predicted = network.projected(base, small, share, base, torch.ones(1, 1, 16, 16))
    torch.testing.assert_close(predicted, torch.full_like(base, 0.4))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"channels": 0}, "channels"),
        ({"coarse_rates": (1, 2, 3)}, "coarse_rates"),
        ({"refine_rates": ()}, "refine_rates"),
        ({"style_weight": -1.0}, "style_weight"),
        ({"initial_gain": 0.0}, "initial_gain"),
        ({"beta1": 1.0}, "beta1"),
        ({"perceptual_layer_weights": (1.0,)}, "5 numbers"),
        ({"refine": False}, "back_projection"),
    ],
)
def test_impossible_numbers_are_refused(fields: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DeepGINConfig(**fields)
