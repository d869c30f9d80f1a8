"""LaMa's images: how much local and global maps hold, block by block."""

import torch
from torch import Tensor

from infill.models.lama.networks import Generator, Halves
from infill.models.visualize import heat

SHOWN = 3
"""Blocks whose maps are shown: the first, one in the middle, the last."""


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the energy of local and of global maps after three blocks, and the image.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    after: list[Halves] = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, halves: after.append(halves))
        for block in generator.blocks
    ]
    try:
        final = generator(image, mask).final.float()
    finally:
        for hook in hooks:
            hook.remove()
    last = len(after) - 1
    shown = {}
    for index in sorted({last * step // (SHOWN - 1) for step in range(SHOWN)}):
        for name, maps in zip(("local", "global"), after[index], strict=True):
            shown[f"{name}, block {index + 1}"] = heat(maps[0].float().square().mean(0).sqrt())
    return shown | {"final": final}
