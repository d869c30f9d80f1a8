"""MADF's images: every decoder's (Fig. 6), and the kernels of three kinds of positions (Fig. 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.madf.filtering import DynamicEncoder
from infill.models.madf.networks import Generator
from infill.models.visualize import tiles

LEVEL = 1
"""The level whose kernels are shown: the one that reads colours."""
COLUMNS = 4
CELL_PX = 6
"""Side of the square that shows a weight."""


@torch.no_grad()
def intermediate_results(generator: nn.Module, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return kernels by the position of their window, every decoder's output and the last.

    Kernels for red, green and blue are shown as colours; grey is zero.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    shown: dict[str, Tensor] = {}
    if isinstance(generator, Generator) and isinstance(generator.encoder, DynamicEncoder):
        for name, (row, column) in places_of(mask).items():
            kernels = generator.kernels(mask, LEVEL, row, column)[0, :, :3]
            greatest = kernels.abs().amax().clamp_min(torch.finfo(kernels.dtype).tiny)
            shown[f"kernels, {name}"] = tiles(list(kernels / greatest), COLUMNS, CELL_PX)
    for index, output in enumerate(prediction.outputs[:-1]):
        colours = generator.colours.undone(output)  # type: ignore[operator,union-attr]
        shown["recovered" if index == 0 else f"refined {index}"] = colours.float().clamp(-1, 1)
    return shown | {"final": prediction.final.float()}


def places_of(mask: Tensor) -> dict[str, tuple[int, int]]:
    """Return one place of each kind at half the size: deep in the known, on the rim, in the hole.

    Kinds that a mask does not have are left out.
    """
    share = functional.avg_pool2d(mask.float(), 2)[0, 0]
    around = functional.avg_pool2d(share[None, None], 5, stride=1, padding=2)[0, 0]
    kinds = {
        "known": around == 0,
        "rim": (around > 0.3) & (around < 0.7),
        "hole": around == around.max() if around.max() > 0.7 else torch.zeros_like(around) > 0,
    }
    found = {}
    for name, where in kinds.items():
        places = where.nonzero()
        if len(places):
            row, column = places[len(places) // 2].tolist()
            found[name] = (row, column)
    return found
