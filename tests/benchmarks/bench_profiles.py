"""The ten dearest operations of each architecture's forward pass and training step.

make bench ONLY=profiles
NETWORKS=madf make bench ONLY=profiles  # all other tables stay as they were

Shares of processor time on one thread, of the least of several calls for each operation: other
work on the machine moves them little, so that a crowded machine will do.
"""

import os

from bench_models import ARCHITECTURES, ask
from pages import machine, table, write_section

DEAREST = 10
HEADER = ["Operation", "Step", "Forward", "Calls in a step"]


def rows_of(step: dict[str, list[float]], forward: dict[str, list[float]]) -> list[list[str]]:
    """Return the dearest operations of a step, and the rest, as rows.

    Args:
        step: microseconds and number of calls, by operation.
        forward: the same of a forward pass.
    """
    whole, passed = (sum(one[0] for one in found.values()) for found in (step, forward))
    names = sorted(step, key=lambda name: -step[name][0])[:DEAREST]
    rows = [
        [
            f"`{name.removeprefix('aten::')}`",
            f"{step[name][0] / whole:.1%}",
            f"{forward.get(name, [0.0])[0] / passed:.1%}",
            f"{step[name][1]:.0f}",
        ]
        for name in names
    ]
    rest = [
        sum(one[0] for name, one in found.items() if name not in names) for found in (step, forward)
    ]
    return [*rows, ["all others", f"{rest[0] / whole:.1%}", f"{rest[1] / passed:.1%}", ""]]


def test_profiles() -> None:
    for name in os.environ.get("NETWORKS", ",".join(ARCHITECTURES)).split(","):
        step, forward = (ask("profile", name, "ours", kind, "1") for kind in ("step", "forward"))
        rows = rows_of(step["operations"], forward["operations"])
        text = f"{table(HEADER, rows)}\n\n{name}, batch 1, 256 x 256 px, one thread. {machine()}."
        print(text, flush=True)
        write_section(f"profile-{name}", text)
