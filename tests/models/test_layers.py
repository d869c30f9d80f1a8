import torch
from torch import nn
from torch.nn import functional

from infill.models.layers import SpectralConv2d, at_least_float32, normalise_each


def test_half_precision_is_raised_and_nothing_else_is_touched() -> None:
    for dtype in (torch.float32, torch.float64):
        features = torch.ones(2, dtype=dtype)
        assert at_least_float32(features) is features
    for dtype in (torch.bfloat16, torch.float16):
        assert at_least_float32(torch.ones(2, dtype=dtype)).dtype == torch.float32


def test_normalise_each_is_instance_norm_and_keeps_channels_last() -> None:
    features = torch.randn(2, 5, 7, 9, dtype=torch.float64) * 3 + 2
    expected = functional.instance_norm(features)
    torch.testing.assert_close(normalise_each(features), expected)
    last = features.contiguous(memory_format=torch.channels_last)
    assert normalise_each(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normalise_each(last), expected)


def test_spectral_convolution_approaches_a_weight_of_norm_one() -> None:
    torch.manual_seed(0)
    convolution = SpectralConv2d(3, 8, 4)
    for _ in range(60):
        convolution(torch.rand(1, 3, 8, 8))
    largest = torch.linalg.matrix_norm(convolution.eval().normalised_weight().flatten(1), 2)
    torch.testing.assert_close(largest, torch.tensor(1.0), rtol=1e-3, atol=0)


def test_spectral_convolution_steps_as_pytorch_s_own_does() -> None:
    torch.manual_seed(0)
    convolution = SpectralConv2d(3, 8, 4, stride=2, padding=1, bias=False)
    plain = nn.Conv2d(3, 8, 4, stride=2, padding=1, bias=False)
    plain.load_state_dict({"weight": convolution.weight})
    matrix, u = convolution.weight.detach().flatten(1), convolution.u.clone()
    image = torch.rand(2, 3, 8, 8)
    predicted = convolution(image)
    v = functional.normalize(matrix.t() @ u, dim=0)
    u = functional.normalize(matrix @ v, dim=0)
    torch.testing.assert_close(predicted, plain(image) / (u @ matrix @ v))
    torch.testing.assert_close(convolution.u, u)
    torch.testing.assert_close(convolution.v, v)


def test_spectral_vectors_move_in_training_only() -> None:
    convolution = SpectralConv2d(3, 8, 4)
    before = convolution.u.clone()
    convolution.eval()(torch.rand(1, 3, 8, 8))
    assert torch.equal(convolution.u, before)
    convolution.train()(torch.rand(1, 3, 8, 8))
    assert not torch.equal(convolution.u, before)


def test_two_forwards_before_one_backward_are_allowed() -> None:
    convolution = SpectralConv2d(3, 8, 4)
    image = torch.rand(1, 3, 8, 8)
    (convolution(image).sum() + convolution(image).sum()).backward()
    assert convolution.weight.grad.isfinite().all()
