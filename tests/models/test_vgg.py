import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models import vgg
from infill.models.vgg import COLOUR_DEVIATION, COLOUR_MEAN, VGGFeatures, load_features, pooled

INDICES = {
    16: [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    19: [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
}
"""torchvision's positions of the convolutions."""


def torchvision_state(depth: int) -> dict[str, Tensor]:
    """Return random weights under the public names, with the classifier that comes along."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        network = VGGFeatures(depth, ["pool5"], normalise_colours=False)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state = {
        name: torch.randn(shape, generator=generator) / (shape[0] if len(shape) == 1 else 60)
        for name, shape in shapes.items()
    }
    return {**state, "classifier.0.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize("depth", [16, 19])
def test_names_are_torchvision_s(depth: int) -> None:
    convolutions = sorted(
        int(name.split(".")[1])
        for name in torchvision_state(depth)
        if name.startswith("features") and name.endswith("weight")
    )
    assert convolutions == INDICES[depth]


def test_features_up_to_relu5_1_have_the_published_parameters() -> None:
    with torch.device("meta"):
        network = VGGFeatures(19, ["relu1_1", "relu5_1"], normalise_colours=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_944_960


@torch.no_grad()
def test_layers_are_those_of_a_plain_loop_over_the_public_weights(tmp_path: Path) -> None:
    state = torchvision_state(16)
    file = tmp_path / "vgg16.pth"
    torch.save(state, file)
    layers = ["pool3", "relu1_2", "relu4_1"]
    network = load_features(16, layers, str(file))
    colours = torch.rand(2, 3, 32, 48)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (COLOUR_MEAN, COLOUR_DEVIATION))
    features, seen = (colours - mean) / deviation, {}
    for name, index in zip(
        ["1_1", "1_2", "p1", "2_1", "2_2", "p2", "3_1", "3_2", "3_3", "p3", "4_1"],
        [0, 2, None, 5, 7, None, 10, 12, 14, None, 17],
        strict=True,
    ):
        if index is None:
            features = functional.max_pool2d(features, 2)
        else:
            weight, bias = (state[f"features.{index}.{part}"] for part in ("weight", "bias"))
            features = functional.relu(functional.conv2d(features, weight, bias, padding=1))
        seen[name] = features
    found = network(colours)
    assert found[0].shape == (2, 256, 4, 6)
    for mine, plain in zip(found, [seen["p3"], seen["1_2"], seen["4_1"]], strict=True):
        torch.testing.assert_close(mine, plain)


@torch.no_grad()
def test_colours_are_normalised_only_if_asked() -> None:
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (COLOUR_MEAN, COLOUR_DEVIATION))
    colours = torch.rand(1, 3, 16, 16)
    plain = load_features(16, ["relu1_1"], "random", normalise_colours=False)
    normalised = load_features(16, ["relu1_1"], "random", normalise_colours=True)
    torch.testing.assert_close(normalised(colours)[0], plain((colours - mean) / deviation)[0])


def test_random_features_are_the_same_in_every_process_and_keep_their_size() -> None:
    torch.manual_seed(1)
    first = load_features(19, ["relu1_1", "relu5_1"], "random")
    vgg._random_values.cache_clear()
    torch.manual_seed(2)
    second = load_features(19, ["relu1_1", "relu5_1"], "random")
    colours = torch.rand(1, 3, 64, 64)
    shallow, deep = first(colours)
    assert torch.equal(deep, second(colours)[1])
    assert 0.1 < (deep.square().mean() / shallow.square().mean()) < 10


def test_nothing_is_trained_but_gradients_pass_to_the_image() -> None:
    network = load_features(16, ["relu2_1"], "random")
    assert all(not parameter.requires_grad for parameter in network.parameters())
    colours = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(colours)[0].sum().backward()
    assert colours.grad.any()


def test_missing_weights_are_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match=r"perceptual_weights.*vgg16.*'random'"):
        load_features(16, ["relu1_1"], None)
    with pytest.raises(ValueError, match=r"no file .*absent"):
        load_features(16, ["relu1_1"], "absent.pth")
    with pytest.raises(ValueError, match=r"no layer 'relu3_4'.*relu3_3"):
        load_features(16, ["relu3_4"], "random")


def test_another_file_is_refused_by_tensor_and_by_digest(tmp_path: Path) -> None:
    file = tmp_path / "vgg.pth"
    torch.save(torchvision_state(16), file)
    with pytest.raises(ValueError, match=r"not torchvision's vgg19.*features\.16\.weight"):
        load_features(19, ["relu3_4"], str(file))
    with pytest.raises(ValueError, match="SHA-256"):
        load_features(16, ["relu1_1"], str(file), sha256="abc")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_features(16, ["relu1_1"], str(file), sha256=digest)


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (2, 2)])
def test_pooling_is_pytorchs_with_gradient_and_ties_and_keeps_channels_innermost(
    size: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(2)
    # Few values, so that most windows have ties.
    plain = torch.randint(0, 3, (2, 4, *size), generator=generator).double()
    features = plain.to(memory_format=torch.channels_last).requires_grad_()
    other = plain.clone().requires_grad_()
    maxima, expected = pooled(features), functional.max_pool2d(other, 2)
    assert torch.equal(maxima, expected)
    weight = torch.rand(expected.shape, generator=generator, dtype=torch.float64)
    [mine] = torch.autograd.grad((maxima * weight).sum(), features)
    [theirs] = torch.autograd.grad((expected * weight).sum(), other)
    assert torch.equal(mine, theirs)
    assert mine.is_contiguous(memory_format=torch.channels_last)


def test_pooling_keeps_no_positions_for_the_backward_pass() -> None:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.dtype), lambda x: x):
        pooled(torch.rand(1, 3, 4, 4, requires_grad=True))
    assert set(kept) == {torch.float32}
