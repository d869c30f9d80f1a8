"""The released weights of DeepFill v1, name by name, to ours and back.

Two files are known: the authors' TensorFlow variables, given as arrays by name (an .npz), and the
state dict of a widely used PyTorch port. TensorFlow keeps kernels as [height, width, in, out] and
was trained on blue-green-red images: colours are turned around where they enter and leave. The
port holds a generator only, and already as PyTorch does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.deepfill.config import DeepFillConfig
from infill.models.deepfill.networks import Critics, Generator
from infill.models.released_tensors import State

States = dict[str, State]
Form = Literal["tensorflow", "port"]


@dataclass(frozen=True)
class Entry:
    """One released tensor and where it belongs."""

    ours: str
    """Name in our state dict."""
    released: str
    """Name in the file."""
    colours: Literal["none", "in", "out"] = "none"
    """Whether the first three input channels, or the outputs, are colours."""
    side: int = 0
    """For a critic's last layer: side of the feature map it is flattened from."""


Convert = Callable[[Entry, Tensor], Tensor]


def from_released(released: Mapping[str, Tensor | np.ndarray]) -> States:
    """Turn a released file into our state dicts by role.

    Args:
        released: tensors or arrays by name; TensorFlow's with or without the final ":0".

    Returns:
        "generator", and "discriminator" if the file holds the critics.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    form = form_of(released)
    tensors = {canonical(name): torch.as_tensor(value) for name, value in released.items()}
    config = configuration_of(released)
    networks = networks_of(config, with_critics=any("discriminator/" in name for name in tensors))
    entries = {role: entries_of(role, form, config) for role in networks}
    return translated(tensors, networks, entries, READ[form], WRITE[form])


def read_release(released: Mapping[str, Tensor | np.ndarray]) -> Released:
    """Return a released file as our networks and their configuration take it.

    Raises:
        ValueError: as :func:`from_released`.
    """
    config = configuration_of(released)
    return Released(
        config=config, states=from_released(released), image_size_px=config.image_size_px
    )


def write_release(released: Released) -> State:
    """Turn our state dicts by role into a released file; the inverse of :func:`read_release`.

    Weights of a network that pads as the port does become the port's, others TensorFlow's.

    Raises:
        ValueError: if a tensor is missing or left over, or the port's form is requested for
            critics.
    """
    states, config = released.states, released.config
    assert isinstance(config, DeepFillConfig)
    form: Form = "port" if config.padding == "centred" else "tensorflow"
    if form == "port" and "discriminator" in states:
        raise ValueError("the port's file has no place for a discriminator; leave it out")
    entries = {role: entries_of(role, form, config) for role in states}
    file = released_of(states, entries, WRITE[form])
    return with_output_numbers(file) if form == "tensorflow" else file


def form_of(released: Iterable[str]) -> Form:
    """Tell which of the two files this is, by the names in it.

    Raises:
        ValueError: if it is neither; the first name is given.
    """
    names = list(released)
    if any(name.startswith("inpaint_net/") for name in names):
        return "tensorflow"
    if any(name.startswith(("coarse_generator.", "fine_generator.")) for name in names):
        return "port"
    raise ValueError(
        "neither the TensorFlow variables of DeepFill (inpaint_net/...) nor the port's "
        f"(coarse_generator....); the first of {len(names)} names is {names[:1]}"
    )


def canonical(name: str) -> str:
    """Return a variable's name without TensorFlow's output number."""
    return name.removesuffix(":0")


def with_output_numbers(released: State) -> State:
    """Return variables under TensorFlow's full names."""
    return {f"{name}:0": tensor for name, tensor in released.items()}


def configuration_of(released: Mapping[str, Tensor | np.ndarray]) -> DeepFillConfig:
    """Return the configuration with which a released file reproduces its authors' results.

    The width, and the sizes the critics were made for, are read from the tensors' shapes.
    """
    form = form_of(released)  # refuses other files before their values are looked at
    if others := [n for n, v in released.items() if not isinstance(v, Tensor | np.ndarray)]:
        raise ValueError(
            f"{others[0]!r} is not a tensor of DeepFill's generator: the port's discriminators are "
            "narrower than the released ones, and ours cannot take them; give the generator's file "
            "alone"
        )
    shapes = {canonical(name): tuple(value.shape) for name, value in released.items()}
    if form == "port":
        channels = shapes.get("coarse_generator.conv1.conv.bias", (32,))[0]
        return replace(DeepFillConfig.port(), channels=channels)
    channels = shapes.get("inpaint_net/conv1/bias", (32,))[0]
    config = replace(DeepFillConfig.released(), channels=channels)
    heads = [shapes.get(f"discriminator/dout_{view}_fc/kernel") for view in ("global", "local")]
    if heads[0] is None or heads[1] is None:
        return config
    return _with_sizes(config, heads[0][0], heads[1][0])


def _with_sizes(config: DeepFillConfig, whole: int, window: int) -> DeepFillConfig:
    """Solve the inputs of the last layers, width * (size / 16)^2, for the sizes."""
    c = config.channels
    return replace(
        config,
        image_size_px=16 * round((whole / (8 * c)) ** 0.5),
        local_size_px=16 * round((window / (16 * c)) ** 0.5),
    )


def networks_of(config: DeepFillConfig, with_critics: bool) -> dict[str, nn.Module]:
    """Build the networks by role, without memory for their weights."""
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {"generator": Generator(config)}
        if with_critics:
            networks["discriminator"] = Critics(config)
    return networks


def entries_of(role: str, form: Form, config: DeepFillConfig) -> list[Entry]:
    """List every tensor of a role in one of the released files."""
    if role == "generator":
        return generator_entries(form)
    return [entry for view in ("whole", "window") for entry in critic_entries(view, config)]


def generator_entries(form: Form) -> list[Entry]:
    """List every tensor of the generator; version 2 has the same names in TensorFlow."""
    stages = {
        "tensorflow": ["inpaint_net/" + kind for kind in ("conv", "xconv", "pmconv", "allconv")],
        "port": ["coarse_generator.conv"]
        + ["fine_generator." + kind for kind in ("conv", "pmconv", "allconv")],
    }
    coarse, imagine, match, merge = stages[form]
    places = [
        *((f"coarse.conv{n}", coarse, n) for n in range(1, 11)),
        *((f"coarse.merge{n}", coarse, n) for n in range(11, 18)),
        *((f"refine.imagine.conv{n}", imagine, n) for n in range(1, 11)),
        *((f"refine.match.pm{n}", match, n) for n in range(1, 7)),
        *((f"refine.rebuild.pm{n}", match, n) for n in (9, 10)),
        *((f"refine.merge.merge{n}", merge, n) for n in range(11, 18)),
    ]
    return [
        Entry(f"{ours}.{kind}", _parameter(_layer(stem, n, form), kind, form), _colours(n, kind))
        for ours, stem, n in places
        for kind in ("weight", "bias")
    ]


def critic_entries(view: str, config: DeepFillConfig) -> list[Entry]:
    """List every tensor of one critic, "whole" or "window"; only TensorFlow's file has them."""
    scope = {"whole": "global", "window": "local"}[view]
    size = config.image_size_px if view == "whole" else config.local_size_px
    convs = [
        Entry(
            f"{view}.convs.{n}.{kind}",
            _parameter(f"discriminator/discriminator_{scope}/conv{n + 1}", kind, "tensorflow"),
            "in" if n == 0 and kind == "weight" else "none",
        )
        for n in range(4)
        for kind in ("weight", "bias")
    ]
    head = f"discriminator/dout_{scope}_fc"
    return [
        *convs,
        Entry(f"{view}.head.weight", f"{head}/kernel", side=size // 16),
        Entry(f"{view}.head.bias", f"{head}/bias"),
    ]


def _layer(stem: str, n: int, form: Form) -> str:
    if n in (2, 4):
        return f"{stem}{n}_downsample"
    if n in (7, 8, 9, 10) and "pm" not in stem:
        return f"{stem}{n}_atrous"
    if n in (13, 15) and form == "tensorflow":
        name = f"{stem.rsplit('/', 1)[-1]}{n}_upsample"
        return f"{stem}{n}_upsample/{name}_conv"
    return f"{stem}{n}"


def _parameter(layer: str, kind: str, form: Form) -> str:
    if form == "port":
        return f"{layer}.conv.{kind}"
    return f"{layer}/{'kernel' if kind == 'weight' else 'bias'}"


def _colours(n: int, kind: str) -> Literal["none", "in", "out"]:
    if n == 17:
        return "out"
    return "in" if n == 1 and kind == "weight" else "none"


def translated(
    tensors: Mapping[str, Tensor],
    networks: Mapping[str, nn.Module],
    entries: Mapping[str, list[Entry]],
    read: Convert,
    write: Convert,
) -> States:
    """Turn released tensors into state dicts, each tensor used once and of the right shape.

    Args:
        tensors: by released name.
        networks: by role, with the shapes that are expected; may be on the meta device.
        entries: by role.
        read: turns a released tensor into ours.
        write: turns ours into a released one; it determines the expected shape.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    expected = [entry.released for role in networks for entry in entries[role]]
    missing = sorted(set(expected) - set(tensors))
    left = sorted(set(tensors) - set(expected))
    if missing or left:
        raise ValueError(
            f"not the expected tensors: {len(missing)} missing {missing[:3]}, "
            f"{len(left)} left over {left[:3]}"
        )
    states: States = {}
    for role, network in networks.items():
        ours = network.state_dict()
        states[role] = {}
        for entry in entries[role]:
            shape = write(entry, ours[entry.ours]).shape
            given = tensors[entry.released]
            if given.shape != shape:
                raise ValueError(
                    f"{entry.released} should have shape {tuple(shape)}, has {tuple(given.shape)}"
                )
            states[role][entry.ours] = read(entry, given).contiguous()
    return states


def released_of(
    states: Mapping[str, State], entries: Mapping[str, list[Entry]], write: Convert
) -> State:
    """Turn our state dicts by role into released tensors by name.

    Raises:
        ValueError: if a tensor is missing or left over; it is named.
    """
    released: State = {}
    for role, state in states.items():
        names = {entry.ours for entry in entries[role]}
        if names != set(state):
            raise ValueError(f"not the {role} that was released: {sorted(names ^ set(state))[:3]}")
        for entry in entries[role]:
            released[entry.released] = write(entry, state[entry.ours]).contiguous()
    return released


def from_tensorflow(entry: Entry, tensor: Tensor) -> Tensor:
    """Turn a TensorFlow kernel, matrix or bias into ours, for red-green-blue images."""
    if entry.side:
        maps = tensor.view(entry.side, entry.side, -1)
        return maps.permute(2, 0, 1).reshape(1, -1)
    if tensor.dim() == 4:
        tensor = tensor.permute(3, 2, 0, 1)
    return _colours_turned(entry, tensor)


def to_tensorflow(entry: Entry, tensor: Tensor) -> Tensor:
    """Undo :func:`from_tensorflow`."""
    if entry.side:
        maps = tensor.view(-1, entry.side, entry.side)
        return maps.permute(1, 2, 0).reshape(-1, 1)
    tensor = _colours_turned(entry, tensor)
    return tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor


def _colours_turned(entry: Entry, tensor: Tensor) -> Tensor:
    """Exchange red and blue in a kernel [out, in, height, width] or bias."""
    if entry.colours == "out":
        return tensor.flip(0)
    if entry.colours == "in":
        return torch.cat([tensor[:, :3].flip(1), tensor[:, 3:]], 1)
    return tensor


def as_it_is(entry: Entry, tensor: Tensor) -> Tensor:
    """Return the tensor: the port keeps its weights as we do."""
    del entry
    return tensor


READ: dict[Form, Convert] = {"tensorflow": from_tensorflow, "port": as_it_is}
WRITE: dict[Form, Convert] = {"tensorflow": to_tensorflow, "port": as_it_is}
