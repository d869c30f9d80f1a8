"""The authors' released checkpoints, name by name, to ours and back.

A released file keeps the state dict of the whole training module under "model": the generator
under "module.model." and the frozen VGG under "module.extractor.", which is set aside. The
encoder's batch norms, which the authors declare and never run, are a role of their own, so that
nothing is lost and the default generator need not carry them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from infill.models.architecture import Released
from infill.models.madf.config import MADFConfig
from infill.models.madf.networks import Generator
from infill.models.released_tensors import State, require_exactly, shapes_of

PREFIXES = ("module.", "model.")
"""Prefixes of data parallelism and of the training module, in the order of removal."""
PERCEPTUAL_PREFIX = "extractor."
"""The frozen VGG inside a released checkpoint."""
RELEASED_SIZE_PX = 512
"""Side of the images that the authors trained the released weights on; their tables are at 256."""
DEAD = "dead_norms"
"""Role of the batch norms that are declared and never run."""
DEAD_PREFIX = "encoder.dead_norms."


def from_released(released: Mapping[str, Any]) -> dict[str, State]:
    """Turn a released checkpoint into our state dicts, by role.

    Args:
        released: the checkpoint or its "model", with or without the prefixes.

    Returns:
        "generator", for :func:`configuration_of`, and "dead_norms", for the encoder's part of
        that name if its configuration carries them.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    theirs = bare(released)
    config = configuration_of(theirs)
    names, shapes = released_names(config), generator_shapes(config)
    require_exactly(theirs, {names[ours]: shape for ours, shape in shapes.items()}, "generator")
    states: dict[str, State] = {"generator": {}, DEAD: {}}
    for ours, name in names.items():
        role = DEAD if ours.startswith(DEAD_PREFIX) else "generator"
        states[role][ours.removeprefix(DEAD_PREFIX)] = theirs[name]
    return states


def read_release(released: Mapping[str, Any]) -> Released:
    """Return a released checkpoint as our generator and its configuration take it.

    The batch norms that are never run are set aside, as is the frozen VGG.

    Raises:
        ValueError: as :func:`from_released`.
    """
    states, config = from_released(released), configuration_of(released)
    names = released_names(config)
    aside = {names[DEAD_PREFIX + name]: tensor for name, tensor in states[DEAD].items()}
    return Released(
        config=config,
        states={"generator": states["generator"]},
        aside=aside,
        image_size_px=RELEASED_SIZE_PX,
    )


def write_release(released: Released) -> State:
    """Turn our generator into a checkpoint that the authors' code reads, without prefixes.

    Dead norms that neither the generator carries nor were set aside are written as they are
    initialised, which is what they stay.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = released.config
    assert isinstance(config, MADFConfig)
    if set(released.states) != {"generator"}:
        raise ValueError(f"MADF released a generator alone, not {', '.join(released.states)}")
    names = released_names(config)
    ours = dict(released.states["generator"])
    if not any(name.startswith(DEAD_PREFIX) for name in ours):
        aside = {ours: theirs for ours, theirs in names.items() if theirs in released.aside}
        ours.update(_untouched_norms(config))
        ours.update({name: released.aside[theirs] for name, theirs in aside.items()})
    require_exactly(ours, generator_shapes(config), "generator")
    return {theirs: ours[name] for name, theirs in names.items()}


def configuration_of(released: Mapping[str, Any]) -> MADFConfig:
    """Read off a released checkpoint which network it is: levels, widths and decoders.

    Raises:
        ValueError: if it has no generator of MADF.
    """
    theirs = bare(released)
    num_refinements = _count(theirs, r"dec_ref\d+_1\.weight")
    levels = _count(theirs, r"filter_gen_\d+\.conv\.0\.weight")
    try:
        norm_channels = (
            theirs[f"dec_ref0_{levels}.bn.mlp_shared.0.weight"].shape[0]
            if num_refinements
            else MADFConfig.norm_channels
        )
        return MADFConfig(
            num_refinements=num_refinements,
            levels=levels,
            channels=theirs["enc_up_1.0.weight"].shape[1],
            mask_channels=theirs["filter_gen_1.conv.0.weight"].shape[0],
            decoder_channels=theirs["enc_up_1.0.weight"].shape[0],
            norm_channels=norm_channels,
        )
    except KeyError as error:
        raise ValueError(
            f"this is not a released checkpoint of MADF: it has no tensor {error.args[0]}"
        ) from error


def bare(released: Mapping[str, Any]) -> State:
    """Return the generator's tensors without prefixes, and without the frozen VGG.

    Raises:
        ValueError: if two tensors would then share a name.
    """
    state: State = {}
    inner = released.get("model", released)
    for key, tensor in inner.items():
        name = key
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if name in state:
            raise ValueError(f"two tensors of the checkpoint are called {name}")
        if not name.startswith(PERCEPTUAL_PREFIX):
            state[name] = tensor
    return state


def released_modules(levels: int, num_refinements: int) -> dict[str, str]:
    """Return the released name of each of our modules that holds tensors.

    Their levels count from 1, the finest; our decoders' blocks from 0, the deepest.
    """
    table = {"recovery_head.rise": "deconv_1.0", "recovery_head.merge": "att_conv_1.conv.0"}
    for level in range(1, levels + 1):
        table[f"encoder.masks.{level - 1}"] = f"filter_gen_{level}.conv.0"
        table[f"encoder.filters.{level - 1}.kernels"] = f"filter_gen_{level}.conv1.0"
        table[f"encoder.lifts.{level - 1}"] = f"enc_up_{level}.0"
        table[f"{DEAD_PREFIX}{level - 1}"] = f"enc_conv_{level}.bn"
    for level in range(2, levels + 1):
        table[f"recovery.{levels - level}.rise"] = f"deconv_{level}.0"
        table[f"recovery.{levels - level}.norm"] = f"deconv_{level}.1"
        table[f"recovery.{levels - level}.merge"] = f"att_conv_{level}.conv.0"
        for index in range(num_refinements):
            ours, theirs = f"refinements.{index}.blocks.{levels - level}", f"dec_ref{index}_{level}"
            table[f"{ours}.rise"] = f"{theirs}.deconv"
            table[f"{ours}.norm.norm"] = f"{theirs}.bn.batch_norm"
            table[f"{ours}.norm.hidden"] = f"{theirs}.bn.mlp_shared.0"
            table[f"{ours}.norm.gain"] = f"{theirs}.bn.mlp_scale"
            table[f"{ours}.norm.shift"] = f"{theirs}.bn.mlp_bias"
    for index in range(num_refinements):
        table[f"refinements.{index}.head"] = f"dec_ref{index}_1"
    return table


def released_names(config: MADFConfig) -> dict[str, str]:
    """Return the released name of every tensor of our generator with dead norms."""
    table = released_modules(config.levels, config.num_refinements)
    return {name: _renamed(name, table) for name in generator_shapes(config)}


def generator_shapes(config: MADFConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of our generator with dead norms."""
    with torch.device("meta"):
        return shapes_of(Generator(replace(config, dead_norms=True)))


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Return a tensor's released name, or its own if its module has none."""
    module, _, leaf = name.rpartition(".")
    return f"{table[module]}.{leaf}" if module in table else name


def _untouched_norms(config: MADFConfig) -> State:
    """Return the dead norms as they are initialised, by our names."""
    norms = [nn.BatchNorm2d(width) for width in config.filter_widths]
    return {
        f"{DEAD_PREFIX}{index}.{name}": tensor
        for index, norm in enumerate(norms)
        for name, tensor in norm.state_dict().items()
    }


def _count(names: Iterable[str], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)
