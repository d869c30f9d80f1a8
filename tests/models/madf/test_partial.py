"""Partial convolutions against their definition, window by window."""

import pytest
import torch
from torch import Tensor

from infill.models.madf.config import MADFConfig
from infill.models.madf.objective import build_generator
from infill.models.madf.partial import PartialConv2d, Partly


def parts(widths: tuple[int, ...], height: int, width: int) -> list[Partly]:
    """Return maps with a corner nobody knows; features are 0 where unknown."""
    maps = []
    for index, channels in enumerate(widths):
        known = (torch.rand(2, 1, height, width) > 0.4).double()
        known[:, :, : height // 2 + 1, : width // 2 + 1] = 0
        known[1] = index
        maps.append(Partly(torch.randn(2, channels, height, width).double() * known, known))
    return maps


def by_definition(conv: PartialConv2d, maps: list[Partly]) -> tuple[Tensor, Tensor]:
    """Count every known value of every window, channel by channel."""
    features = torch.cat([part.features for part in maps], dim=1)
    known = torch.cat([part.known.expand_as(part.features) for part in maps], dim=1)
    margins = [conv.padding] * 4
    features = torch.nn.functional.pad(features, margins)
    known = torch.nn.functional.pad(known, margins)
    k, stride = conv.kernel_size, conv.stride
    rows, columns = ((side - k) // stride + 1 for side in features.shape[2:])
    out = features.new_zeros(2, conv.conv.out_channels, rows, columns)
    found = features.new_zeros(2, 1, rows, columns)
    for row in range(rows):
        for column in range(columns):
            cut = (
                ...,
                slice(row * stride, row * stride + k),
                slice(column * stride, column * stride + k),
            )
            for sample in range(2):
                count = known[sample][cut].sum()
                if count == 0:
                    continue
                total = (conv.conv.weight * (features * known)[sample][cut]).sum(dim=(1, 2, 3))
                out[sample, :, row, column] = total * (known[sample][cut].numel() / count)
                found[sample, 0, row, column] = 1
                if conv.conv.bias is not None:
                    out[sample, :, row, column] += conv.conv.bias
    return out, found


@pytest.mark.parametrize(
    ("widths", "kernel_size", "stride", "bias"),
    [((3,), 7, 2, False), ((4, 2), 3, 1, False), ((4, 3), 3, 1, True), ((2,), 5, 2, True)],
)
def test_partial_convolution_scales_by_what_is_known(
    widths: tuple[int, ...], kernel_size: int, stride: int, bias: bool
) -> None:
    conv = PartialConv2d(widths, 5, kernel_size, stride, bias).double()
    maps = parts(widths, 9, 11)
    features, known = conv(*maps)
    expected, found = by_definition(conv, maps)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    assert torch.equal(known, found)
    assert 0 < found[0].sum() < found[0].numel()


def test_nothing_grows_where_nothing_is_known() -> None:
    generator = build_generator(MADFConfig(**PARTIAL))
    seen: list[Partly] = []
    for block in generator.encoder:
        block.register_forward_hook(lambda _, __, out: seen.append(out))
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 4:, :] = 1
    generator(torch.rand(2, 3, 32, 32), mask)
    assert [part.known.mean(dim=(1, 2, 3)).tolist() for part in seen[:2]] == [
        [0.25] * 2,
        [0.375] * 2,
    ]
    for features, known in seen:
        assert torch.equal(features * known, features)


def test_border_of_the_hole_moves_inwards_level_by_level() -> None:
    generator = build_generator(MADFConfig(**PARTIAL)).eval()
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 0, 0] = 0
    with torch.no_grad():
        predicted = generator(torch.rand(1, 3, 32, 32), mask)
    assert predicted.final.isfinite().all()
    assert predicted.final.std() > 0


PARTIAL = {
    "encoder": "partial",
    "num_refinements": 0,
    "levels": 4,
    "channels": 2,
    "decoder_channels": 4,
}
