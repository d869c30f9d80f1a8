"""The public Big LaMa checkpoint, tensor by tensor, to ours and back.

Its training module's state dict, perhaps under "state_dict": the generator under "generator.model."
by the number of each layer, the discriminator under "discriminator.model"; frozen networks of
losses and evaluation beside them, which are set aside.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.lama.config import LaMaConfig
from infill.models.lama.networks import Discriminator, Generator
from infill.models.released_tensors import State, read_networks, write_networks

GENERATOR = "generator.model."
DISCRIMINATOR = "discriminator."
ASIDE = ("loss_", "val_evaluator.", "test_evaluator", "visualizer.")
"""Frozen networks that the released file carries along."""
FIRST_BLOCK = 5
"""The number of the first residual block, after padding, entry and three halvings."""


def read_release(released: Mapping[str, Any]) -> Released:
    """Return released tensors as our networks and their configuration take them.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    given = released.get("state_dict", released)
    aside = {name: tensor for name, tensor in given.items() if name.startswith(ASIDE)}
    tensors = {name: tensor for name, tensor in given.items() if name not in aside}
    config = configuration_of(tensors)
    networks = networks_of(config)
    if not any(name.startswith(DISCRIMINATOR) for name in tensors):
        del networks["discriminator"]
    states = read_networks(tensors, networks, {role: names(role, config) for role in networks})
    return Released(config=config, states=states, aside=aside)


def write_release(released: Released) -> State:
    """Turn our state dicts into the names of the public checkpoint.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = released.config
    assert isinstance(config, LaMaConfig)
    tables = {role: names(role, config) for role in released.states}
    return released.aside | write_networks(released.states, networks_of(config), tables)


def configuration_of(tensors: Mapping[str, Tensor]) -> LaMaConfig:
    """Read widths, blocks and the global share off the shapes.

    Raises:
        ValueError: if it is not a generator of LaMa.
    """
    first, split = f"{GENERATOR}1.ffc.convl2l.weight", f"{GENERATOR}4.ffc.convl2g.weight"
    for name in (first, split):
        if name not in tensors:
            raise ValueError(f"this is not a released checkpoint of LaMa: it has no tensor {name}")
    channels, count = len(tensors[first]), 0
    while f"{GENERATOR}{FIRST_BLOCK + count}.conv1.ffc.convl2l.weight" in tensors:
        count += 1
    share = len(tensors[split]) / (8 * channels)
    config = LaMaConfig(channels=channels, num_blocks=max(1, count), global_share=share)
    first_weight = tensors.get(f"{DISCRIMINATOR}model0.0.weight")
    return (
        config
        if first_weight is None
        else replace(config, discriminator_channels=len(first_weight))
    )


def networks_of(config: LaMaConfig) -> dict[str, nn.Module]:
    """Build the networks by role, without memory for their weights."""
    with torch.device("meta"):
        return {
            "generator": Generator(config),
            "discriminator": Discriminator(config.discriminator_channels),
        }


def names(role: str, config: LaMaConfig) -> dict[str, str]:
    """Return the released name of each of our tensors of a role."""
    modules = _generator_modules(config) if role == "generator" else _discriminator_modules()
    table = {}
    for ours in networks_of(config)[role].state_dict():
        module, _, leaf = ours.rpartition(".")
        table[ours] = f"{modules[module]}.{leaf}"
    return table


def _generator_modules(config: LaMaConfig) -> dict[str, str]:
    table = {
        "entry.conv": f"{GENERATOR}1.ffc.convl2l",
        "entry.norm": f"{GENERATOR}1.bn_l",
        "split.local.conv": f"{GENERATOR}4.ffc.convl2l",
        "split.local.norm": f"{GENERATOR}4.bn_l",
        "split.wide.conv": f"{GENERATOR}4.ffc.convl2g",
        "split.wide.norm": f"{GENERATOR}4.bn_g",
    }
    for index in (0, 1):
        table[f"halvings.{index}.conv"] = f"{GENERATOR}{index + 2}.ffc.convl2l"
        table[f"halvings.{index}.norm"] = f"{GENERATOR}{index + 2}.bn_l"
    for index in range(config.num_blocks):
        for ours, theirs in (("first", "conv1"), ("second", "conv2")):
            block = f"{GENERATOR}{FIRST_BLOCK + index}.{theirs}"
            table |= _convolution_modules(f"blocks.{index}.{ours}", block)
    after = FIRST_BLOCK + config.num_blocks + 1
    for index in range(3):
        table[f"doublings.{index}.conv"] = f"{GENERATOR}{after + 3 * index}"
        table[f"doublings.{index}.norm"] = f"{GENERATOR}{after + 3 * index + 1}"
    table["out"] = f"{GENERATOR}{after + 10}"
    return table


def _convolution_modules(ours: str, theirs: str) -> dict[str, str]:
    inner = f"{theirs}.ffc.convg2g"
    return {
        f"{ours}.local_to_local": f"{theirs}.ffc.convl2l",
        f"{ours}.local_to_global": f"{theirs}.ffc.convl2g",
        f"{ours}.global_to_local": f"{theirs}.ffc.convg2l",
        f"{ours}.global_to_global.enter": f"{inner}.conv1.0",
        f"{ours}.global_to_global.norm": f"{inner}.conv1.1",
        f"{ours}.global_to_global.unit.mix": f"{inner}.fu.conv_layer",
        f"{ours}.global_to_global.unit.norm": f"{inner}.fu.bn",
        f"{ours}.global_to_global.leave": f"{inner}.conv2",
        f"{ours}.local_norm": f"{theirs}.bn_l",
        f"{ours}.global_norm": f"{theirs}.bn_g",
    }


def _discriminator_modules() -> dict[str, str]:
    table = {f"convs.{index}": f"{DISCRIMINATOR}model{index}.0" for index in range(6)}
    return table | {f"norms.{index}": f"{DISCRIMINATOR}model{index + 1}.1" for index in range(4)}
