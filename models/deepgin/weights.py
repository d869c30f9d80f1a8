"""The authors' released checkpoints, tensor by tensor, to ours and back.

They keep generator and discriminators in two files of bare tensors, ``latest_net_G.pth`` and
``latest_net_D.pth``; only the full network was released, alone and guided by label maps.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import Discriminators, Generator
from infill.models.released_tensors import State, read_networks, write_networks

COARSE = "lr_coarse_tinker"
COARSE_ENCODER = (1, 4, 7, 10)
COARSE_RISES = (20, 24, 28)
COARSE_OUT = 31
FIRST_COARSE_BLOCK = 12
REFINE_BLOCKS = (1, 2, 5, 3, 4, 6)
"""The released numbers of the refining network's blocks, in the order they are run."""
REFINE = {
    "rises.0": "r_de_conv1",
    "rises.1": "r_de_conv2",
    "rises.2": "r_de_conv3",
    "rises.3": "r_de_conv4",
    "out": "r_de_conv5",
    "reduce.0": "r_en_skp_conv4",
    "reduce.1": "r_en_skp_conv3",
    "mix.0": "r_de_mix_conv1",
    "mix.1": "r_de_mix_conv2",
    "small.0": "r_de_conv2_lr",
    "small.1": "r_de_conv3_lr",
    "share": "r_de_conv5_lr_alpha",
}
ATTENTIONS = {"attention": "r_md_satn1", "attend.0": "r_de_satn2", "attend.1": "r_de_satn3"}
GUIDED_CHANNELS = DeepGINConfig(segmentation_guided=True).input_channels
DISCRIMINATORS = {"whole": "layer1", "halved": "layer0"}


def read_release(released: Mapping[str, Any]) -> Released:
    """Return released tensors as our networks and their configuration take them.

    Args:
        released: the tensors of one file or of both; or ``{"netG": ..., "netD": ...}``.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    parts = _parts(released)
    config = configuration_of(parts)
    networks = _released_networks(parts, config)
    states = {
        role: read_networks(parts[role], {role: networks[role]}, {role: names(role)})[role]
        for role in parts
    }
    return Released(config=config, states=states)


def write_release(released: Released) -> State:
    """Turn our state dicts into the tensors of the authors' two files together.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = released.config
    assert isinstance(config, DeepGINConfig)
    networks = _released_networks(released.states, config)
    return write_networks(released.states, networks, {role: names(role) for role in networks})


def _released_networks(roles: Iterable[str], config: DeepGINConfig) -> dict[str, nn.Module]:
    """Build networks by role, without memory for their weights.

    Raises:
        ValueError: if the authors have not released this form of one.
    """
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "generator": Generator(config),
            "discriminator": Discriminators(config),
        }
    for role in roles:
        if set(names(role)) != set(networks[role].state_dict()):
            raise ValueError(
                f"this {role} was never released: only the full network of Table 1 was"
            )
    return {role: networks[role] for role in roles}


def configuration_of(parts: Mapping[str, Mapping[str, Tensor]]) -> DeepGINConfig:
    """Return the released configuration with the width and the input of the tensors given."""
    channels, guided = DeepGINConfig.channels, False
    for role, first, factor in (
        ("generator", f"{COARSE}.1.weight", 1),
        ("discriminator", "layer1.0.module.weight_bar", 2),
    ):
        if role in parts:
            if first not in parts[role]:
                raise ValueError(f"the {role} lacks {first}, its first convolution")
            channels = len(parts[role][first]) // factor
            guided = role == "generator" and parts[role][first].shape[1:2] == (GUIDED_CHANNELS,)
            break
    return DeepGINConfig(channels=channels, segmentation_guided=guided)


def names(role: str) -> dict[str, str]:
    """Return the released name of each of our tensors of a role."""
    return _generator_names() if role == "generator" else _discriminator_names()


def _generator_names() -> dict[str, str]:
    modules = {
        **{f"coarse.encoder.{i}": f"{COARSE}.{n}" for i, n in enumerate(COARSE_ENCODER)},
        **{f"coarse.rises.{i}": f"{COARSE}.{n}" for i, n in enumerate(COARSE_RISES)},
        "coarse.out": f"{COARSE}.{COARSE_OUT}",
        **{f"refine.encoder.{i}": f"r_en_conv{i + 1}" for i in range(5)},
        **{f"refine.{ours}": theirs for ours, theirs in REFINE.items()},
    }
    for index in range(6):
        block = f"{COARSE}.{FIRST_COARSE_BLOCK + index}"
        modules |= _block_names(f"coarse.blocks.{index}", block, 8)
        modules |= _block_names(f"refine.blocks.{index}", f"r_md_mres{REFINE_BLOCKS[index]}", 4)
    for ours, theirs in ATTENTIONS.items():
        for part, other in (("theta", "theta"), ("phi", "phi"), ("g", "g"), ("out", "W")):
            modules[f"refine.{ours}.{part}"] = f"{theirs}.{other}"
    return {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }


def _block_names(ours: str, theirs: str, branches: int) -> dict[str, str]:
    table = {
        f"{ours}.branches.{index}": f"{theirs}.branch{index + 1}.conv" for index in range(branches)
    }
    return table | {f"{ours}.fuse": f"{theirs}.fusion{branches + 1}.conv"}


def _discriminator_names() -> dict[str, str]:
    kinds = {"weight": "weight_bar", "bias": "bias", "u": "weight_u", "v": "weight_v"}
    return {
        f"{ours}.convs.{index}.{kind}": f"{theirs}.{2 * index}.module.{other}"
        for ours, theirs in DISCRIMINATORS.items()
        for index in range(4)
        for kind, other in kinds.items()
    }


def _parts(released: Mapping[str, Any]) -> dict[str, State]:
    """Split tensors by the network they belong to."""
    flat: dict[str, Any] = {}
    for key, value in released.items():
        flat.update(value if key in ("netG", "netD") else {key: value})
    parts: dict[str, State] = {}
    for key, tensor in flat.items():
        role = "discriminator" if re.match(r"layer[01]\.", key) else "generator"
        parts.setdefault(role, {})[key] = tensor
    if not parts:
        raise ValueError("this file of DeepGIN is empty")
    return parts
