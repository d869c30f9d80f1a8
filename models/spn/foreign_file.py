"""Load the public file of a teacher that others trained into its first layers."""

from pathlib import Path
from typing import TypeVar

from torch import nn

from infill.models.weight_files import network_of, read_weights, sha256_of

Network = TypeVar("Network", bound=nn.Module)


def check_fit(
    network: Network, path: str | None, sha256: str | None, teacher: str, what: str
) -> Network:
    """Return a network with the tensors of a file; tensors of later layers are left out.

    Args:
        network: whose names are those of the file.
        path: the local file.
        sha256: its expected digest in hexadecimal; not compared if None.
        teacher: value of the field ``teacher``, for errors.
        what: whose weights they are, for errors.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    field = f"{teacher}_weights"
    if path is None:
        raise ValueError(f"teacher {teacher!r} needs {field}, the path of {what}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"{field}: there is no file {file}")
    if sha256 is not None and (found := sha256_of(file)) != sha256.lower():
        raise ValueError(
            f"{teacher}_sha256 is {sha256}, but {file} has {found}; get the file again"
        )
    own, given = network.state_dict(), network_of(read_weights(file))
    # Batch counters are absent from old files, and are not used here.
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    wrong = [n for n in needed if n not in given or given[n].shape != own[n].shape]
    if wrong:
        raise ValueError(
            f"{field}: {file} is not {what}: {len(wrong)} tensors are missing or misshapen, first "
            f"{wrong[0]}"
        )
    network.load_state_dict({**own, **{name: given[name] for name in needed}})
    return network
