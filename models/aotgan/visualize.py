"""AOT-GAN's images: where the blocks' gates are open."""

import torch
from torch import Tensor

from infill.models.aotgan.networks import AOTBlock, Generator
from infill.models.visualize import heat

SHOWN = 3
"""Blocks whose gates are shown: the first, one in the middle, the last."""


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the mean openness of three blocks' gates, and the output.

    Args:
        generator: in evaluation mode; without gates only its output is shown.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    gates: list[Tensor] = []

    def keep(block: AOTBlock, given: tuple[Tensor], _output: Tensor) -> None:
        if block.gate is not None:
            gates.append(block.share(given[0]).float().mean(1)[0])

    hooks = [block.register_forward_hook(keep) for block in generator.blocks]
    try:
        final = generator(image, mask).final.float()
    finally:
        for hook in hooks:
            hook.remove()
    last = len(gates) - 1
    indices = sorted({last * step // (SHOWN - 1) for step in range(SHOWN)}) if gates else []
    return {f"gate, block {index + 1}": heat(gates[index]) for index in indices} | {"final": final}
