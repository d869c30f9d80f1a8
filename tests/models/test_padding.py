"""Borders: PyTorch's values and gradients, and the layout of what was padded."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models import padding
from infill.models.padding import BorderedConv2d, bordered


@pytest.fixture(params=["padded", "gathered"])
def way(request, monkeypatch) -> str:
    """Pad as on a CPU, or by the kernel that a GPU uses."""
    if request.param == "gathered":
        monkeypatch.setattr(padding, "_is_gathered", lambda features: True)
    return request.param


def theirs(features: Tensor, reach: int, mode: str) -> Tensor:
    return functional.pad(features, (reach,) * 4, mode=mode)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("reach", [1, 3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_pytorch_s(mode, reach, layout, way) -> None:
    features = torch.rand(2, 3, 5, 7, dtype=torch.float64).to(memory_format=layout)
    weights = torch.rand(2, 3, 5 + 2 * reach, 7 + 2 * reach, dtype=torch.float64)
    found = []
    for pad in (bordered, theirs):
        own = features.detach().requires_grad_()
        padded = pad(own, reach, mode)
        (padded * weights).sum().backward()
        found.append((padded.detach(), own.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_channels_stay_innermost(way) -> None:
    features = torch.rand(2, 3, 5, 7).to(memory_format=torch.channels_last).requires_grad_()
    padded = bordered(features, 2, "reflect")
    assert padded.is_contiguous(memory_format=torch.channels_last)
    padded.square().sum().backward()
    assert features.grad.is_contiguous(memory_format=torch.channels_last)


def test_border_may_be_changed_in_place(way) -> None:
    weights = torch.randn(2, 3, 9, 11).to(memory_format=torch.channels_last)
    found = []
    for pad in (bordered, theirs):
        own = weights[..., 2:-2, 2:-2].clone().requires_grad_()
        active = functional.relu(pad(own, 2, "reflect"), inplace=True)
        (active * weights).sum().backward()
        found.append((active.detach(), own.grad))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_convolution_is_that_of_pytorch(mode) -> None:
    ours = BorderedConv2d(3, 4, 3, stride=2, padding=2, dilation=2, padding_mode=mode)
    other = nn.Conv2d(3, 4, 3, stride=2, padding=2, dilation=2, padding_mode=mode)
    other.load_state_dict(ours.state_dict())
    features = torch.rand(2, 3, 8, 9)
    torch.testing.assert_close(ours(features), other(features))


def test_border_as_large_as_the_map_is_refused(way) -> None:
    with pytest.raises(RuntimeError):
        bordered(torch.rand(1, 1, 4, 4), 4, "reflect")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_gpu_pads_as_a_cpu_does_and_keeps_the_layout(mode) -> None:
    features = torch.rand(2, 16, 9, 12).to(memory_format=torch.channels_last)
    found = []
    for device in ("cpu", "cuda"):
        own = features.detach().to(device).requires_grad_()
        padded = bordered(own, 3, mode)
        assert padded.is_contiguous(memory_format=torch.channels_last)
        padded.square().sum().backward()
        found.append((padded.detach().cpu(), own.grad.cpu()))
    torch.testing.assert_close(*found)
