"""Local paths on a cluster: the nodes that work for a job must see what its driver sees.

A path of one machine's own disk means nothing to the others. Workers there would find nothing, or
write where nobody looks.
"""

import os
import platform
from collections.abc import Sequence

from infill.pipeline import storage
from infill.pipeline.errors import UserError

__all__ = ["made_here", "require_seen", "seen_here"]


def made_here(folder: str) -> str:
    """Make a folder for results, so that nodes that do not see it can tell. On the driver.

    Returns:
        The folder, for :func:`seen_here`.
    """
    if not storage.is_remote(folder):
        os.makedirs(storage.absolute(folder), exist_ok=True)
    return folder


def seen_here(*locations: str) -> tuple[str, ...]:
    """Return the absolute paths of those locations that are on this machine. On the driver.

    Args:
        locations: paths, addresses of stores or empty; only paths of files and folders that exist
            are returned.
    """
    local = (storage.absolute(one) for one in locations if one and not storage.is_remote(one))
    return tuple(path for path in local if os.path.exists(path))


def require_seen(paths: Sequence[str]) -> None:
    """Refuse to work on a node that does not have the driver's paths. On a worker.

    Args:
        paths: what :func:`seen_here` has returned on the driver, or other locations that are there;
            only absolute paths are looked at.

    Raises:
        UserError: naming node and path.
    """
    for path in paths:
        if os.path.isabs(path) and not os.path.exists(path):
            raise UserError(
                f"the node {platform.node()} does not see {path}, as this command's machine "
                "does: give a folder that all nodes share at the same path, or s3://bucket/prefix"
            )
