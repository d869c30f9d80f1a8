"""Released tensors under our names, and ours under theirs: each is used once and has its shape."""

from collections.abc import Mapping

from torch import Tensor, nn

State = dict[str, Tensor]
Tables = Mapping[str, Mapping[str, str]]
"""By role, the released name of each of our tensors."""


def read_networks(
    tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], tables: Tables
) -> dict[str, State]:
    """Return the state dicts of networks, by role, from one checkpoint that holds them all.

    Args:
        tensors: by released name.
        networks: by role, with the expected shapes; may be on the meta device.
        tables: the released names of these roles.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; the first is named.
    """
    shapes = {
        tables[role][name]: shape
        for role, network in networks.items()
        for name, shape in shapes_of(network).items()
    }
    require_exactly(tensors, shapes, next(iter(networks)) if len(networks) == 1 else "checkpoint")
    return {
        role: {name: tensors[tables[role][name]] for name in network.state_dict()}
        for role, network in networks.items()
    }


def write_networks(
    states: Mapping[str, State], networks: Mapping[str, nn.Module], tables: Tables
) -> State:
    """Return the tensors of networks together, under their released names.

    Args:
        states: state dicts by role.
        networks: of these roles at least, with the expected shapes.
        tables: the released names of these roles at least.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; the first is named.
    """
    for role, state in states.items():
        require_exactly(state, shapes_of(networks[role]), role)
    return {
        tables[role][name]: tensor
        for role, state in states.items()
        for name, tensor in state.items()
    }


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a network, which may be on the meta device."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def require_exactly(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], network: str
) -> None:
    """Check that these are the tensors of a network, no more and no fewer.

    Args:
        tensors: by name.
        shapes: the expected ones, by the same names.
        network: for messages, such as "generator".

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; the first is named.
    """
    if missing := [name for name in shapes if name not in tensors]:
        raise ValueError(f"the {network} lacks {_count(missing)}, first {missing[0]}")
    if left := [name for name in tensors if name not in shapes]:
        raise ValueError(f"the {network} has {_count(left)} too many, first {left[0]}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"the {network}: {name} should have the shape {shape}, "
                f"not {tuple(tensors[name].shape)}"
            )


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"
