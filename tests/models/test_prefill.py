"""The first guess of a hole: smooth, from known pixels alone, near the solution of Laplace."""

import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from infill.models.prefill import prefill


def disc(height: int, width: int, radius: float) -> Tensor:
    y = torch.arange(height)[:, None] - height / 2
    x = torch.arange(width)[None] - width / 2
    return (y**2 + x**2 < radius**2).float()[None, None]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 50), (1, 9), (7, 1)])
def test_known_pixels_stay_and_hidden_ones_are_not_read(height: int, width: int) -> None:
    image = torch.rand(2, 3, height, width) * 2 - 1
    mask = (torch.rand(2, 1, height, width) < 0.4).float()
    mask[:, :, 0, 0] = 0
    filled = prefill(image, mask)
    other = image.where(mask == 0, torch.full_like(image, torch.nan))
    assert torch.equal(filled[mask.expand_as(image) == 0], image[mask.expand_as(image) == 0])
    assert torch.equal(prefill(other, mask), filled)
    assert filled.abs().max() <= 1


def test_one_known_pixel_colours_the_whole_frame_and_none_leaves_it_zero() -> None:
    image, mask = torch.full((1, 3, 20, 30), 0.25), torch.ones(1, 1, 20, 30)
    assert torch.equal(prefill(image, mask), torch.zeros_like(image))
    mask[..., 3, 4] = 0
    assert torch.allclose(prefill(image, mask), image, atol=1e-6)


def laplace(values: Tensor, mask: Tensor) -> Tensor:
    """Solve Laplace's equation in the hole of [H, W], its border mirrored."""
    height, width = values.shape
    system, right = lil_matrix((values.numel(), values.numel())), values.flatten().clone()
    for at, hidden in enumerate(mask.flatten().tolist()):
        y, x = divmod(at, width)
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [(v, u) for v, u in near if 0 <= v < height and 0 <= u < width]
        system[at, at] = len(near) if hidden else 1
        for v, u in near if hidden else ():
            system[at, v * width + u] = -1
            right[at] = 0
    return torch.from_numpy(spsolve(system.tocsr(), right.numpy())).reshape(height, width)


def test_holes_are_filled_nearly_as_laplace_s_equation_has_it() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    image = (torch.sin(3 * x) * torch.cos(2 * y)).expand(1, 3, -1, -1)
    mask = disc(48, 64, 12)
    wanted = laplace(image[0, 0].double(), mask[0, 0])
    hole = mask[0, 0] > 0
    error = (prefill(image, mask)[0, 0] - wanted)[hole].abs().mean()
    mean = (image[0, 0][~hole].mean() - wanted)[hole].abs().mean()
    assert error < mean / 5
