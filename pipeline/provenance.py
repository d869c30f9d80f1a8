"""The commit, packages and processor that produced a result."""

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("infill", "torch", "numpy", "ray", "opencv-python-headless", "albumentations")
"""Packages whose version may affect results."""
COMMIT_VARIABLE = "INFILL_GIT_COMMIT"
"""Variable with the commit, for code outside its repository: an image, a submitted job."""


def made_with() -> dict[str, Any]:
    """Return the commit and the versions of packages, as JSON values."""
    return {"git_commit": git_commit(), "packages": packages()}


def git_commit() -> str:
    """Return the commit of this code, ``+changes`` if files differ from it, "" if unknown."""
    if given := os.environ.get(COMMIT_VARIABLE):
        return given
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        described = subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or no repository
        return ""
    return described.stdout.strip()


def packages() -> dict[str, str]:
    """Return the versions of :data:`PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def processor() -> str:
    """Return the name of this machine's processor, or its architecture if the name is unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
