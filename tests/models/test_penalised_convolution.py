"""Convolutions for penalties on slopes: PyTorch's values and derivatives, without its detours."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from infill.models.deepfill.networks import Critic
from infill.models.lama.networks import Discriminator as PatchDiscriminator
from infill.models.migan.config import MIGANConfig
from infill.models.migan.discriminator import Discriminator
from infill.models.penalised_convolution import Geometry, PenalisedConv2d, convolve

GEOMETRIES = {
    "same": Geometry(padding=(1, 1)),
    "stride": Geometry(stride=(2, 2), padding=(2, 1)),
    "dilated": Geometry(padding=(2, 2), dilation=(2, 2)),
    "depthwise": Geometry(padding=(1, 1), groups=4),
    "halving": Geometry(stride=(2, 2), padding=(1, 1), groups=4),
}


def inputs(geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=random).requires_grad_()

    return normal(2, 4, 7, 6), normal(4, 4 // geometry.groups, 3, 3), normal(4)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_derivatives_of_both_orders_are_right(geometry: Geometry) -> None:
    theirs = functional.conv2d(*inputs(geometry), *geometry)
    ours = partial(convolve, geometry=geometry)
    torch.testing.assert_close(ours(*inputs(geometry)), theirs)
    assert torch.autograd.gradcheck(ours, inputs(geometry))
    assert torch.autograd.gradgradcheck(ours, inputs(geometry))


def penalty(network: nn.Module, picture: Tensor) -> list[Tensor]:
    """Return the gradients of a penalty on a network's slopes by a picture."""
    found = network(picture.requires_grad_())
    scores = found[0] if isinstance(found, tuple) else found
    (slope,) = torch.autograd.grad(scores.float().sum(), picture, create_graph=True)
    wanted = [one for one in network.parameters() if one.requires_grad]
    grads = torch.autograd.grad(slope.square().sum(), wanted, allow_unused=True)
    return [one for one in grads if one is not None]


DISCRIMINATORS = {
    "deepfill": (lambda: Critic(32, (8, 8)), 3),
    "lama": (lambda: PatchDiscriminator(4), 3),
    "migan": (lambda: Discriminator(MIGANConfig.tiny()), 4),
}


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
def test_penalties_have_the_gradients_of_pytorch_s_convolutions(
    name: str, low: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, channels = DISCRIMINATORS[name]
    found = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(
                "infill.models.penalised_convolution._Convolution.apply",
                lambda x, w, geometry: functional.conv2d(x, w, None, *geometry),
            )
        torch.manual_seed(1)
        network, picture = build(), torch.rand(2, channels, 32, 32)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            found.append(penalty(network, picture))
    assert len(found[0]) > 3
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_autocast_lowers_the_type_as_for_other_convolutions() -> None:
    conv, maps = PenalisedConv2d(3, 4, 3, padding=1), torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(maps).dtype == torch.bfloat16
        assert all(torch.isfinite(one).all() for one in penalty(conv, maps))


class Kernels(TorchDispatchMode):
    """Counts the convolutions of each size of kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if "convolution" in str(function):
            weight = args[2] if "backward" in str(function) else args[1]
            self.sides[max(weight.shape[2:])] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_no_kernel_of_a_penalty_is_as_large_as_a_map(name: str) -> None:
    build, channels = DISCRIMINATORS[name]
    with Kernels() as counted:
        penalty(build(), torch.rand(2, channels, 32, 32))
    assert max(counted.sides) <= 5


def test_more_groups_do_not_take_more_convolutions() -> None:
    counts = []
    for width in (4, 16):
        config = replace(MIGANConfig.tiny(), channel_base=4096, channel_max=width)
        with Kernels() as counted:
            penalty(Discriminator(config), torch.rand(2, 4, 32, 32))
        counts.append(counted.sides.total())
    assert counts[0] == counts[1]


def test_padding_that_is_not_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="pads with a number of zeros"):
        PenalisedConv2d(1, 1, 3, padding=1, padding_mode="reflect")(torch.rand(1, 1, 4, 4))
