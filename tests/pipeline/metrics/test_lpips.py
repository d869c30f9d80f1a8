import numpy as np
import pytest
import torch
from torch.nn import functional

from infill.pipeline.metrics.lpips import LPIPS


def files(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    shapes = {
        0: (64, 3, 11),
        3: (192, 64, 5),
        6: (384, 192, 3),
        8: (256, 384, 3),
        10: (256, 256, 3),
    }
    backbone, linear = {"classifier.1.weight": torch.zeros(1)}, {}
    for number, (index, (out, channels, side)) in enumerate(shapes.items()):
        size = (out, channels, side, side)
        weight = torch.randn(size, generator=random) / (channels * side * side) ** 0.5
        backbone[f"features.{index}.weight"] = weight
        backbone[f"features.{index}.bias"] = torch.randn(out, generator=random) * 0.1
        linear[f"lin{number}.model.1.weight"] = torch.rand((1, out, 1, 1), generator=random)
    return backbone, linear


@pytest.fixture
def network() -> LPIPS:
    lpips = LPIPS()
    lpips.load(*files())
    return lpips


def pictures(seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 64, 80, 3), np.uint8))


def test_distance_is_the_weighted_difference_of_unit_length_maps(network):
    one, other = pictures(1), pictures(2)
    backbone, linear = ({k: v.double() for k, v in f.items()} for f in files())

    def stages(image: torch.Tensor) -> list[torch.Tensor]:
        x = image.double().permute(0, 3, 1, 2) / 255 * 2 - 1
        x = (x - torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).double()[:, None, None]
        found = []
        for index, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if index in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            weight, bias = backbone[f"features.{index}.weight"], backbone[f"features.{index}.bias"]
            x = functional.conv2d(x, weight, bias, stride, padding).clamp(min=0)
            found.append(x)
        return found

    expected = torch.zeros(2, dtype=torch.float64)
    for number, (a, b) in enumerate(zip(stages(one), stages(other), strict=True)):
        a, b = (x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in (a, b))
        weighted = functional.conv2d((a - b) ** 2, linear[f"lin{number}.model.1.weight"])
        expected += weighted.mean(dim=(1, 2, 3))
    assert torch.allclose(network(one, other).double(), expected, rtol=1e-4)


def test_distance_is_symmetric_and_zero_for_equal_pictures(network):
    one, other = pictures(1), pictures(2)
    assert torch.equal(network(one, one), torch.zeros(2))
    assert torch.allclose(network(one, other), network(other, one))
    assert (network(one, other) > 0).all()


def test_parameters_are_alexnets_convolutions_and_a_weight_per_channel(network):
    count = sum(p.numel() for p in network.parameters())
    assert count == 2_469_696 + 64 + 192 + 384 + 256 + 256


def test_file_without_a_layer_is_refused(network):
    backbone, linear = files()
    del backbone["features.8.bias"]
    with pytest.raises(KeyError, match=r"features\.8\.bias"):
        network.load(backbone, linear)
