"""The authors' released checkpoints, tensor by tensor, to ours and back.

They keep the generator in one file, ``{"netG": ...}``, and the discriminator in another,
``{"netD": ...}``. Only the full network was released; its ablations have other tensors.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.pennet.config import LEVELS, PENNetConfig
from infill.models.pennet.networks import Discriminator, Generator
from infill.models.released_tensors import State, read_networks, write_networks

RELEASED_NAMES = {"generator": "netG", "discriminator": "netD"}
"""The authors' name of each role."""
RELEASED_FLOOR = 1e-8
"""Smallest weight of a key in the released code; we leave it out of networks trained here."""


def from_released(released: Mapping[str, Mapping[str, Tensor] | Tensor]) -> dict[str, State]:
    """Turn a released checkpoint into our state dicts.

    Args:
        released: ``{"netG": ...}``, ``{"netD": ...}`` or both; or the tensors of one of them.

    Returns:
        The state dict of every role that is there, "generator" and "discriminator".

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    parts = _parts(released)
    return {
        role: read_networks(
            parts[theirs], {role: _network(role, parts[theirs])}, {role: names(role)}
        )[role]
        for role, theirs in RELEASED_NAMES.items()
        if theirs in parts
    }


def read_release(released: Mapping[str, Mapping[str, Tensor] | Tensor]) -> Released:
    """Return a released checkpoint as our networks and their configuration take it.

    Raises:
        ValueError: as :func:`from_released`.
    """
    states = from_released(released)
    config = PENNetConfig(attention_floor=RELEASED_FLOOR)
    if "generator" in states:
        config = replace(config, channels=len(states["generator"]["encoder.0.weight"]))
    if "discriminator" in states:
        first = states["discriminator"]["convs.0.weight"]
        config = replace(config, discriminator_channels=len(first))
    return Released(config=config, states=states)


def write_release(released: Released) -> dict[str, State]:
    """Convert our state dicts for the authors' code: "netG", "netD" or both.

    Raises:
        ValueError: if a role is unknown, or a tensor is missing, misshapen or left over.
    """
    if unknown := sorted(set(released.states) - set(RELEASED_NAMES)):
        raise ValueError(f"PEN-Net has a generator and a discriminator, no {unknown[0]!r}")
    return {
        RELEASED_NAMES[role]: write_networks(
            {role: state}, {role: _network(role, state)}, {role: names(role)}
        )
        for role, state in released.states.items()
    }


def names(role: str) -> dict[str, str]:
    """Return the released name of each of our tensors of a role."""
    return _generator_names() if role == "generator" else _discriminator_names()


def _generator_names() -> dict[str, str]:
    modules = {f"encoder.{index}": f"dw_conv{index + 1:02}.0" for index in range(LEVELS + 1)}
    for index, level in enumerate(range(LEVELS, 0, -1)):
        modules[f"decoder.{index}"] = f"up_conv{level:02}.0"
        modules[f"heads.{index}"] = f"torgb{level}.0"
        if level < LEVELS:  # the deepest attention is not refined
            for branch in range(4):
                name = f"at_conv{level:02}.conv{branch:02}.0"
                modules[f"fillers.{index}.refinement.{branch}"] = name
    modules |= {"last": "decoder.0", "out": "decoder.2"}
    return {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }


def _discriminator_names() -> dict[str, str]:
    ours_to_theirs = {"out.weight": "classifier.weight", "out.bias": "classifier.bias"}
    for index in range(4):
        for kind, theirs in (("weight", "orig"), ("u", "u"), ("v", "v")):
            ours_to_theirs[f"convs.{index}.{kind}"] = f"encoder.{2 * index}.weight_{theirs}"
    return ours_to_theirs


def _parts(
    released: Mapping[str, Mapping[str, Tensor] | Tensor],
) -> dict[str, Mapping[str, Tensor]]:
    """Return a checkpoint's networks by their released name, also if it is one of them bare."""
    bare = {
        "netG": "dw_conv01.0.weight" in released,
        "netD": "classifier.weight" in released,
    }
    for theirs, found in bare.items():
        if found:
            return {theirs: cast(Mapping[str, Tensor], released)}
    if unknown := sorted(set(released) - set(bare)):
        raise ValueError(
            f"a released checkpoint of PEN-Net holds 'netG' or 'netD', not {unknown[0]!r}"
        )
    if not released:
        raise ValueError("a released checkpoint of PEN-Net holds 'netG' or 'netD'; this is empty")
    return cast(dict[str, Mapping[str, Tensor]], dict(released))


def _network(role: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Build a network without memory; its width is read off the first tensor of ``state``."""
    ours = "encoder.0.weight" if role == "generator" else "convs.0.weight"
    first = next((state[name] for name in (ours, names(role)[ours]) if name in state), None)
    if first is None or not first.shape:
        raise ValueError(f"the {role} lacks {names(role)[ours]}, its first convolution")
    with torch.device("meta"):
        if role == "generator":
            return Generator(PENNetConfig(channels=first.shape[0]))
        return Discriminator(PENNetConfig(discriminator_channels=first.shape[0]))
