"""Conditions of a measurement: an idle machine, its load and versions, and turns in both orders.

python tests/benchmarks/conditions.py

``make bench`` runs this first: it ends with status 1 if other work runs beside it. ``CROWDED=1``
measures all the same, and every section that is written then says that it is crowded.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from typing import TypeVar

Way = TypeVar("Way")
ROUNDS = 5
"""Fewest turns of each way that is compared."""
IDLE_LOAD = 0.25
"""Largest load average per core of a machine without other work."""
PACKAGES = {"PyTorch": "torch", "Ray": "ray", "OpenCV": "opencv-python-headless"}
LOAD_AT_START = os.getloadavg()[0]
"""Load average of a minute before the first benchmark, which is load itself."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def crowded(load: float) -> bool:
    """Return whether a load average means other work on this machine."""
    return load > IDLE_LOAD * cores()


def refusal(load: float, override: str) -> str:
    """Return why nothing is measured under a load, and what to do; "" if it is measured."""
    if not crowded(load) or override:
        return ""
    return (
        f"other work runs on this machine: load {load:.2f} on {cores()} cores, at most "
        f"{IDLE_LOAD * cores():.2f} is idle. Wait until it ends, or measure with CROWDED=1, which "
        "marks the figures"
    )


def versions() -> str:
    """Return the versions of the installed packages that figures depend on."""
    installed = {one.metadata["Name"]: one.version for one in distributions()}
    found = {name: installed.get(package) for name, package in PACKAGES.items()}
    return ", ".join(f"{name} {number}" for name, number in found.items() if number)


def turns(ways: Sequence[Way], rounds: int = ROUNDS) -> Iterator[Way]:
    """Yield every way once a round, each second round in reverse order.

    What heats, slows or fills a cache then meets all ways alike.
    """
    for number in range(rounds):
        yield from ways if number % 2 == 0 else reversed(ways)


if __name__ == "__main__":
    found = refusal(LOAD_AT_START, os.environ.get("CROWDED", ""))
    print(f"load {LOAD_AT_START:.2f} on {cores()} cores, {versions()}", flush=True)
    if found:
        sys.exit(f"error: {found}")
