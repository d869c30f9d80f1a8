"""Paddings, and doubling folded into the convolution, against their plain forms."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.deepfill.layers import Convolution, mirrored, pad_for_stride_2
from infill.models.deepfill.layout import Row


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def noise(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64)


def convolution(row: Row, padding: str) -> Convolution:
    layer = Convolution(3, row, padding).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def padded_as_tensorflow(features: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad by the documented formula of SAME, zeros before being the smaller half."""
    for axis, place in ((3, 0), (2, 2)):
        size = features.shape[axis]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding = [0, 0, 0, 0]
        padding[place : place + 2] = total // 2, total - total // 2
        features = functional.pad(features, padding)
    return features


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("padding", ["same", "mirror"])
def test_doubling_equals_repeating_pixels_and_convolving(
    padding: str, memory: torch.memory_format
) -> None:
    layer = convolution(Row("up", 5, rise=True, activation="none"), padding)
    features = noise(6, 9).contiguous(memory_format=memory).requires_grad_()
    doubled = functional.interpolate(features, scale_factor=2, mode="nearest")
    if padding == "mirror":
        plain = functional.conv2d(mirrored(doubled, 1), layer.weight, layer.bias)
    else:
        plain = functional.conv2d(doubled, layer.weight, layer.bias, padding=1)
    ours = layer(features)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        predicted = layer(features)
    assert torch.equal(predicted, ours)
    assert predicted.is_contiguous(memory_format=memory)
    direction = torch.randn_like(plain)
    inputs = [features, layer.weight, layer.bias]
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(plain, inputs, direction),
        rtol=1e-11,
        atol=1e-11,
    )


def test_a_doubled_map_keeps_the_memory_format() -> None:
    layer = convolution(Row("up", 5, rise=True), "same").to(memory_format=torch.channels_last)
    features = noise(6, 8).contiguous(memory_format=torch.channels_last)
    assert layer(features).is_contiguous(memory_format=torch.channels_last)
    assert layer(features.contiguous()).shape == (2, 5, 12, 16)


def test_stride_2_pads_as_tensorflow_does() -> None:
    layer = convolution(Row("down", 4, stride=2, activation="none"), "same")
    features = noise(8, 12)
    padded = padded_as_tensorflow(features, 3, 2)
    expected = functional.conv2d(padded, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(features), expected, rtol=1e-12, atol=1e-12)
    centred = functional.conv2d(features, layer.weight, layer.bias, stride=2, padding=1)
    assert not torch.allclose(layer(features), centred)
    layer.border = "centred"
    torch.testing.assert_close(layer(features), centred, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6), (1, 2)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
def test_critics_pad_as_tensorflow_does_at_any_size(kernel: int, size: tuple[int, int]) -> None:
    features = noise(*size)
    expected = padded_as_tensorflow(features, kernel, 2)
    assert torch.equal(pad_for_stride_2(features, kernel), expected)


def test_mirroring_repeats_the_edge_itself() -> None:
    line = torch.tensor([[1.0, 2.0, 3.0]])[None, None].expand(1, 1, 3, 3)
    assert mirrored(line, 2)[0, 0, 0].tolist() == [2, 1, 1, 2, 3, 3, 2]
    with pytest.raises(ValueError, match="at least 4"):
        mirrored(line, 4)


def test_activations_are_those_of_the_row() -> None:
    features = noise(4, 4)
    plain = convolution(Row("x", 2, activation="none"), "same")
    before = plain(features)
    for activation in ("elu", "relu"):
        layer = convolution(Row("x", 2, activation=activation), "same")
        layer.load_state_dict(plain.state_dict())
        expected = getattr(functional, activation)(before)
        torch.testing.assert_close(layer(features), expected)


def test_weights_start_within_glorot_s_limit_and_biases_at_zero() -> None:
    layer = Convolution(8, Row("x", 16, kernel=5), "same")
    limit = (6 / ((8 + 16) * 25)) ** 0.5
    assert 0.95 * limit < layer.weight.abs().max() <= limit
    assert (layer.bias == 0).all()
