"""The released checkpoints of AOT-GAN, tensor by tensor, to ours and back.

The authors save the generator in one file and the discriminator in another, each a bare state dict
(``G0000000.pt`` and ``D0000000.pt``).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from infill.models.aotgan.config import AOTGANConfig
from infill.models.aotgan.networks import Discriminator, Generator
from infill.models.architecture import Released
from infill.models.released_tensors import State, read_networks, write_networks

FIRST = {"generator": "encoder.1.weight", "discriminator": "conv.0.weight_orig"}
"""The released name of each network's first kernel."""
RELEASED_RATES = (1, 2, 4, 8)
"""Dilations leave no trace in the shapes; files of four branches have these."""
IMAGE_SIZE_PX = 512


def read_release(released: Mapping[str, Any]) -> Released:
    """Return released tensors as our networks and their configuration take them.

    Args:
        released: the tensors of one file or of both.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = configuration_of(released)
    networks = {r: network for r, network in networks_of(config).items() if FIRST[r] in released}
    states = read_networks(released, networks, {role: names(role, config) for role in networks})
    return Released(config=config, states=states, image_size_px=IMAGE_SIZE_PX)


def write_release(released: Released) -> State:
    """Turn our state dicts into the tensors of the authors' two files together.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = released.config
    assert isinstance(config, AOTGANConfig)
    tables = {role: names(role, config) for role in released.states}
    return released.aside | write_networks(released.states, networks_of(config), tables)


def configuration_of(released: Mapping[str, Any]) -> AOTGANConfig:
    """Read widths, blocks, branches and the kind of residual off names and shapes.

    Raises:
        ValueError: if it is neither of AOT-GAN's networks.
    """
    if not any(name in released for name in FIRST.values()):
        raise ValueError(
            f"not a checkpoint of AOT-GAN: neither {FIRST['generator']} nor "
            f"{FIRST['discriminator']} is in it"
        )
    numbers: dict[str, Any] = {}
    if FIRST["discriminator"] in released:
        numbers["discriminator_channels"] = len(released[FIRST["discriminator"]])
    if FIRST["generator"] in released:
        blocks = {name.split(".")[1] for name in released if name.startswith("middle.")}
        branches = sum(f"middle.0.block{i:02}.1.bias" in released for i in range(len(released)))
        gated = "middle.0.gate.1.weight" in released
        numbers |= {
            "channels": len(released[FIRST["generator"]]),
            "num_blocks": max(1, len(blocks)),
            "rates": RELEASED_RATES[:branches] if 0 < branches < 4 else RELEASED_RATES,
            "residual": "gated" if gated or not branches else "identity",
        }
    return AOTGANConfig(**numbers)


def networks_of(config: AOTGANConfig) -> dict[str, nn.Module]:
    """Build the networks by role, without memory for their weights."""
    with torch.device("meta"):
        return {"generator": Generator(config), "discriminator": Discriminator(config)}


def names(role: str, config: AOTGANConfig) -> dict[str, str]:
    """Return the released name of each of our tensors of a role."""
    if role == "discriminator":
        return _discriminator_names()
    modules = {
        "entry": "encoder.1",
        "halvings.0": "encoder.3",
        "halvings.1": "encoder.5",
        "doublings.0.conv": "decoder.0.conv",
        "doublings.1.conv": "decoder.2.conv",
        "out": "decoder.4",
    }
    for block in range(config.num_blocks):
        ours, theirs = f"blocks.{block}", f"middle.{block}"
        modules |= {f"{ours}.{name}": f"{theirs}.{name}.1" for name in ("fuse", "gate")}
        for branch in range(len(config.rates)):
            modules[f"{ours}.branches.{branch}"] = f"{theirs}.block{branch:02}.1"
    return {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }


def _discriminator_names() -> dict[str, str]:
    table = {"out.weight": "conv.8.weight", "out.bias": "conv.8.bias"}
    for index in range(4):
        for kind, theirs in (("weight", "orig"), ("u", "u"), ("v", "v")):
            table[f"convs.{index}.{kind}"] = f"conv.{2 * index}.weight_{theirs}"
    return table
