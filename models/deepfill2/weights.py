"""The released TensorFlow variables of DeepFill v2, name by name, to ours and back.

The generator's names are version 1's. The discriminator's power iterations keep one vector of the
two that ours keep; the other is computed from it, and dropped on the way back.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Released
from infill.models.deepfill.weights import (
    Entry,
    States,
    canonical,
    from_tensorflow,
    generator_entries,
    released_of,
    to_tensorflow,
    translated,
    with_output_numbers,
)
from infill.models.deepfill2.config import DeepFill2Config
from infill.models.deepfill2.networks import Discriminator, Generator
from infill.models.released_tensors import State

DISCRIMINATOR = "discriminator/sn_patch_gan"


def from_released(released: Mapping[str, Tensor | np.ndarray]) -> States:
    """Turn the released variables into our state dicts by role.

    Args:
        released: tensors or arrays by name, with or without the final ":0".

    Returns:
        "generator", and "discriminator" if the file holds it.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    tensors = {canonical(name): torch.as_tensor(value) for name, value in released.items()}
    config = configuration_of(released)
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {"generator": Generator(config)}
        if any(name.startswith(DISCRIMINATOR) for name in tensors):
            networks["discriminator"] = Discriminator(config)
    states = translated(tensors, networks, _entries(), read, write)
    if "discriminator" in states:
        _complete(states["discriminator"])
    return states


def read_release(released: Mapping[str, Tensor | np.ndarray]) -> Released:
    """Return the released variables as our networks and their configuration take them.

    Raises:
        ValueError: as :func:`from_released`.
    """
    return Released(config=configuration_of(released), states=from_released(released))


def write_release(released: Released) -> State:
    """Turn our state dicts by role into released variables; :func:`read_release` backwards.

    Raises:
        ValueError: if a tensor is missing or left over; it is named.
    """
    kept = {
        role: {
            name: tensor
            for name, tensor in state.items()
            if role == "generator" or not name.endswith(".v")
        }
        for role, state in released.states.items()
    }
    return with_output_numbers(released_of(kept, _entries(), write))


def configuration_of(released: Mapping[str, Tensor | np.ndarray]) -> DeepFill2Config:
    """Return the configuration with which the released variables reproduce their authors' results.

    Raises:
        ValueError: if one of them is not a tensor; it is named.
    """
    for name, value in released.items():
        if not isinstance(value, Tensor | np.ndarray):
            raise ValueError(f"{name} is not a tensor but of type {type(value).__name__}")
    shapes = {canonical(name): tuple(value.shape) for name, value in released.items()}
    channels = shapes.get("inpaint_net/conv1/bias", (48,))[0]
    kernel = shapes.get(f"{DISCRIMINATOR}/conv1/kernel", (5, 5, 4, 64))
    return replace(
        DeepFill2Config.released(),
        channels=channels,
        discriminator_channels=kernel[-1],
        mask_to_discriminator=kernel[-2] > 3,
    )


def _entries() -> dict[str, list[Entry]]:
    discriminator = []
    for n in range(6):
        layer = f"{DISCRIMINATOR}/conv{n + 1}"
        discriminator += [
            Entry(f"convs.{n}.weight", f"{layer}/kernel", "in" if n == 0 else "none"),
            Entry(f"convs.{n}.bias", f"{layer}/bias"),
            Entry(f"convs.{n}.u", f"{layer}/kernel_sn/u"),
        ]
    return {"generator": generator_entries("tensorflow"), "discriminator": discriminator}


def read(entry: Entry, tensor: Tensor) -> Tensor:
    """Turn a TensorFlow variable into ours."""
    return tensor.flatten() if entry.ours.endswith(".u") else from_tensorflow(entry, tensor)


def write(entry: Entry, tensor: Tensor) -> Tensor:
    """Undo :func:`read`."""
    return tensor[None] if entry.ours.endswith(".u") else to_tensorflow(entry, tensor)


def _complete(state: State) -> None:
    """Add the right vectors of the power iterations."""
    for name in [name for name in state if name.endswith(".u")]:
        matrix = state[name.removesuffix("u") + "weight"].flatten(1)
        right = functional.normalize(matrix.T @ state[name], dim=0, eps=1e-12)
        state[name.removesuffix("u") + "v"] = right
