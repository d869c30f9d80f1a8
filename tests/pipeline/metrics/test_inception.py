import numpy as np
import pytest
import torch
from torch.nn import functional

from infill.pipeline.metrics.inception import Block, ConvNormReLU, Inception


@pytest.fixture(scope="module")
def network() -> Inception:
    torch.manual_seed(3)
    return Inception()


def test_parameters_are_torchvisions_without_its_second_head_and_with_1008_classes():
    with torch.device("meta"):
        count = sum(p.numel() for p in Inception().parameters())
    # torchvision's 27,161,264 less the auxiliary head's 3,326,696, and eight classes more.
    assert count == 27_161_264 - 3_326_696 + 8 * (2048 + 1)


def test_names_are_those_of_the_public_file(network):
    names = set(network.state_dict())
    for name in (
        "Conv2d_1a_3x3.conv.weight",
        "Conv2d_4a_3x3.bn.running_var",
        "Mixed_5b.branch5x5_2.conv.weight",
        "Mixed_5d.branch3x3dbl_3.bn.bias",
        "Mixed_6a.branch3x3.conv.weight",
        "Mixed_6e.branch7x7dbl_5.conv.weight",
        "Mixed_7a.branch7x7x3_4.conv.weight",
        "Mixed_7b.branch3x3_2a.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.bn.running_mean",
        "Mixed_7c.branch_pool.conv.weight",
        "fc.weight",
    ):
        assert name in names
    # 94 convolutions with a weight and five tensors of normalisation each, and the last layer.
    assert len(names) == 94 * 6 + 2


def test_maps_have_the_published_sizes(network):
    sizes = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: sizes.update({name: out.shape}))
        for name, module in network.named_children()
    ]
    with torch.inference_mode():
        network.maps(torch.zeros(1, 3, 299, 299))
    for hook in hooks:
        hook.remove()
    assert sizes["Conv2d_2b_3x3"] == (1, 64, 147, 147)
    assert sizes["Conv2d_4a_3x3"] == (1, 192, 71, 71)
    assert sizes["Mixed_5d"] == (1, 288, 35, 35)
    assert sizes["Mixed_6e"] == (1, 768, 17, 17)
    assert sizes["Mixed_7c"] == (1, 2048, 8, 8)


def test_shapes_of_asymmetric_kernels_are_the_releases(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_6b.branch7x7_3.conv.weight"] == (192, 128, 7, 1)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7b.branch3x3_2a.conv.weight"] == (384, 384, 1, 3)
    assert shapes["Mixed_7b.branch3x3_2b.conv.weight"] == (384, 384, 3, 1)


def test_pooling_branch_leaves_the_padding_out_of_its_mean():
    block = Block(1, [[("branch_pool", 1, 1, 1)]], pooling="mean")
    assert torch.equal(block._pooled(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


def test_a_block_is_its_branches_side_by_side(network):
    block = network.Mixed_7c
    features = torch.rand(1, 2048, 8, 8)

    def through(link: ConvNormReLU, x: torch.Tensor) -> torch.Tensor:
        norm = link.bn
        x = functional.conv2d(x, link.conv.weight, padding=link.conv.padding)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var + 1e-3).sqrt()[:, None, None]
        return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)

    middle = through(block.branch3x3_1, features)
    double = through(block.branch3x3dbl_2, through(block.branch3x3dbl_1, features))
    expected = torch.cat(
        [
            through(block.branch1x1, features),
            through(block.branch3x3_2a, middle),
            through(block.branch3x3_2b, middle),
            through(block.branch3x3dbl_3a, double),
            through(block.branch3x3dbl_3b, double),
            through(block.branch_pool, functional.max_pool2d(features, 3, 1, 1)),
        ],
        dim=1,
    )
    assert torch.allclose(block(features), expected, atol=1e-5)


def test_features_are_of_8_bit_pictures_of_any_size(network):
    pictures = torch.randint(0, 256, (2, 40, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        features = network(pictures)
        apart = torch.cat([network(picture[None]) for picture in pictures])
    assert features.shape == (2, 2048)
    assert torch.allclose(features, apart, atol=1e-4)


def test_probabilities_are_the_softmax_of_the_last_layer(network):
    features = np.random.default_rng(0).normal(size=(3, 2048))
    weight, bias = network.fc.weight.double().numpy(), network.fc.bias.double().numpy()
    exponents = np.exp(features @ weight.T + bias)
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    assert np.allclose(network.probabilities(features), expected, rtol=1e-3)
