"""The public files of MI-GAN, tensor by tensor, to ours and back.

There are two forms. The files for serving hold a generator whose parallel kernels are merged
(``num_kernels`` 0), beside fixed filters. A network in training holds every kernel as a tensor of
its own, ``w0`` to ``w8``, or ``weight`` where there is one; its discriminator's names begin with
the size of a block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.migan.config import DEEPEST_PX, MIGANConfig
from infill.models.migan.discriminator import Discriminator
from infill.models.migan.layers import binomial, merge
from infill.models.migan.networks import Generator
from infill.models.released_tensors import State, require_exactly, shapes_of


def read_release(released: Mapping[str, Any]) -> Released:
    """Return released tensors as our networks and their configuration take them.

    Args:
        released: the tensors of a file for serving, or of a network in training, with its
            discriminator or without.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over, or a fixed filter is another.
    """
    config = configuration_of(released)
    networks = networks_of(config)
    if not any(name.startswith("b4.") for name in released):
        del networks["discriminator"]
    fixed = {name: value for role in networks for name, value in filters(role, config)}
    shapes = {name: tuple(value.shape) for name, value in fixed.items()}
    for role, network in networks.items():
        shapes |= _released_shapes(role, config, shapes_of(network))
    require_exactly(released, shapes, "checkpoint")
    for name, value in fixed.items():
        if not torch.allclose(released[name].to(value.dtype), value, atol=1e-3):
            raise ValueError(f"{name} is not the binomial filter that MI-GAN was released with")
    states = {
        role: {
            ours: torch.stack([released[name] for name in theirs])
            if ours.endswith("kernels")
            else released[theirs[0]]
            for ours, theirs in names(role, config).items()
        }
        for role in networks
    }
    return Released(config=config, states=states, image_size_px=config.image_size_px)


def write_release(released: Released) -> State:
    """Turn our state dicts into released names, in the form of their configuration.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = released.config
    assert isinstance(config, MIGANConfig)
    networks, out = networks_of(config), dict(released.aside)
    for role, state in released.states.items():
        require_exactly(state, shapes_of(networks[role]), role)
        for ours, theirs in names(role, config).items():
            parts = state[ours].unbind() if ours.endswith("kernels") else (state[ours],)
            out |= {name: part.clone() for name, part in zip(theirs, parts, strict=True)}
        out |= dict(filters(role, config))
    return out


def _released_shapes(
    role: str, config: MIGANConfig, ours: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a role's released tensors: parallel kernels are apart there."""
    return {
        theirs: ours[name][1:] if name.endswith("kernels") else ours[name]
        for name, all_of in names(role, config).items()
        for theirs in all_of
    }


def for_serving(config: MIGANConfig, state: State) -> tuple[MIGANConfig, State]:
    """Merge the parallel kernels of a trained generator, whose images stay the same."""
    merged = {
        name.removesuffix("kernels") + "weight" if name.endswith(".kernels") else name: (
            merge(tensor) if name.endswith(".kernels") else tensor
        )
        for name, tensor in state.items()
    }
    return replace(config, num_kernels=0), merged


def configuration_of(released: Mapping[str, Any]) -> MIGANConfig:
    """Read size, widths and the number of kernels off names and shapes.

    Raises:
        ValueError: if it is not a generator of MI-GAN.
    """
    entries = [name for name in released if name.endswith(".fromrgb.weight")]
    entry = next((name for name in entries if name.startswith("encoder.b")), None)
    deepest = "encoder.b4.conv1.conv1.bias"
    if entry is None or deepest not in released:
        raise ValueError(
            "not a file of MI-GAN: it has no tensor encoder.b256.fromrgb.weight, whose number is "
            f"the side in pixels, or no {deepest}"
        )
    side, width = int(entry.split(".")[1][1:]), len(released[entry])
    count = 0
    while f"encoder.b4.conv1.conv1.w{count}" in released:
        count += 1
    if not count and "synthesis.b8.resample_filter" in released:
        count = 1
    return MIGANConfig(
        image_size_px=side,
        channel_base=width * side,
        channel_max=len(released[deepest]),
        num_kernels=count,
    )


def networks_of(config: MIGANConfig) -> dict[str, nn.Module]:
    """Build the networks by role, without memory for their weights."""
    with torch.device("meta"):
        return {"generator": Generator(config), "discriminator": Discriminator(config)}


def names(role: str, config: MIGANConfig) -> dict[str, tuple[str, ...]]:
    """Return the released names of each of our tensors of a role: one for each parallel kernel."""
    table: dict[str, tuple[str, ...]] = {}
    modules = dict(
        _generator_modules(config) if role == "generator" else _discriminator_modules(config)
    )
    for ours, like in networks_of(config)[role].state_dict().items():
        module, _, kind = ours.rpartition(".")
        theirs = modules[module]
        if kind in ("noise", "strength"):
            own = theirs if config.num_kernels == 0 else f"{theirs}.conv2"
            table[ours] = (f"{own}.noise_{'const' if kind == 'noise' else 'strength'}",)
        elif kind == "kernels" and len(like) > 1:
            table[ours] = tuple(f"{theirs}.w{index}" for index in range(len(like)))
        else:
            table[ours] = (f"{theirs}.{'weight' if kind == 'kernels' else kind}",)
    return table


def filters(role: str, config: MIGANConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the fixed filters of a role's released form by name."""
    sides = [config.image_size_px >> level for level in range(config.num_halvings)]
    if role == "discriminator":
        for side in sides:
            yield f"b{side}.conv2.conv2.resample_filter", binomial()
            yield f"b{side}.skip.resample_filter", binomial()
    elif config.num_kernels:
        for side in (*sides, DEEPEST_PX):
            yield f"encoder.b{side}.conv2.conv2.resample_filter", binomial()
        for side in sides:
            yield f"synthesis.b{side}.resample_filter", binomial()
            yield f"synthesis.b{side}.conv1.conv2.resample_filter", binomial()
    else:
        for side, width in zip(sides, config.widths, strict=False):
            halving = binomial().repeat(width, 1, 1, 1)
            yield f"encoder.b{side}.conv2.downsample.filter.weight", halving
            zeros = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(1, 1, side // 2, side // 2)
            for name, count in (("conv1.upsample", width), ("upsample", 3)):
                doubling = 4.0 * binomial().repeat(count, 1, 1, 1)
                yield f"synthesis.b{side}.{name}.filter.weight", doubling
                yield f"synthesis.b{side}.{name}.filter_const", zeros


def _generator_modules(config: MIGANConfig) -> Iterator[tuple[str, str]]:
    yield "entry", f"encoder.b{config.image_size_px}.fromrgb"
    for level in range(config.num_halvings + 1):
        side = config.image_size_px >> level
        yield from _block(f"encoder.{level}", f"encoder.b{side}")
        ours, theirs = f"decoder.{config.num_halvings - level}", f"synthesis.b{side}"
        yield from _block(ours, theirs)
        yield f"{ours}.colours", f"{theirs}.torgb"


def _discriminator_modules(config: MIGANConfig) -> Iterator[tuple[str, str]]:
    yield "entry", f"b{config.image_size_px}.fromrgb"
    for level in range(config.num_halvings):
        theirs = f"b{config.image_size_px >> level}"
        yield from _block(f"blocks.{level}", theirs)
        yield f"blocks.{level}.skip", f"{theirs}.skip"
    yield from _separable("last", "b4.conv")
    yield from (("dense", "b4.fc"), ("out", "b4.out"))


def _block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield from _separable(f"{ours}.first", f"{theirs}.conv1")
    yield from _separable(f"{ours}.second", f"{theirs}.conv2")


def _separable(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield ours, theirs
    yield from ((f"{ours}.depth", f"{theirs}.conv1"), (f"{ours}.point", f"{theirs}.conv2"))
