"""The ``ARCHITECTURE`` of the U-Net: its network, objective and images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from infill.models.architecture import Architecture, Released, Variant
from infill.models.unet.config import UNetConfig
from infill.models.unet.networks import Generator, Layer, ResidualBlock
from infill.models.unet.objective import UNetObjective
from infill.models.unet.search_spaces import SPACES, TABLES
from infill.models.visualize import heat


def read_release(file: Mapping[str, Any]) -> Released:
    """Read our own state dict, of any widths: no authors released one.

    Raises:
        ValueError: if it is not the state dict of a U-Net.
    """
    kernels = ["entry.0.conv.weight"]
    kernels += [
        f"down.{n}.0.conv.weight" for n in range(len(file)) if f"down.{n}.0.norm.bias" in file
    ]
    if missing := [name for name in kernels if name not in file]:
        raise ValueError(f"not the state dict of a U-Net: {missing[0]} is missing")
    blocks = sum(name.startswith("entry.") and name.endswith("second.weight") for name in file)
    channels = tuple(len(file[name]) for name in kernels)
    config = UNetConfig(channels=channels, num_blocks=blocks)
    wanted = Generator(config).state_dict()
    for name in sorted(wanted.keys() ^ file.keys()):
        raise ValueError(f"{name} is {'missing' if name in wanted else 'left over'}")
    for name, value in wanted.items():
        if value.shape != file[name].shape:
            raise ValueError(f"{name} is {tuple(file[name].shape)}, expected {tuple(value.shape)}")
    return Released(config=config, states={"generator": dict(file)})


def write_release(released: Released) -> dict[str, Any]:
    """Return the generator's state dict."""
    return dict(released.states["generator"])


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the first guess, where it is corrected, and the output.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    final, guess = prediction.final.float(), prediction.first_guess.float()
    change = (final - guess).abs().mean(1)[0]
    return {"first guess": guess, "change": heat(change), "final": final}


ARCHITECTURE = Architecture(
    name="unet",
    paper="none: a U-Net on a smooth first guess",
    config=UNetConfig,
    generator=Generator,
    objective=UNetObjective,
    variants=lambda: (
        Variant(
            name="full", config=UNetConfig(), published="3,011,872", source="docs/pretrained.md"
        ),
    ),
    read_release=read_release,
    write_release=write_release,
    blocks=(ResidualBlock, Layer),
    spaces=SPACES,
    tables=TABLES,
    symbols={"hole": "L_hole"},
    intermediate_results=intermediate_results,
    static_graph=True,
)
