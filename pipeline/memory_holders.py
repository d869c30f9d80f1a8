"""Which process holds the memory of this machine, for the sentence about one that ran out."""

import os
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")


def largest_holder(processes: Path = PROCESSES, own: int = 0) -> str:
    """Return the process outside this job that holds most memory, with its number and amount.

    Ray's processes and workers of this job are descendants of this process, and left out.

    Args:
        processes: the kernel's folder of processes.
        own: number of the process whose descendants are this job's; 0 is this process.

    Returns:
        Its name, number and resident memory; "" if none can be read, as on systems without such a
        folder.
    """
    found = {}
    for folder in processes.glob("[0-9]*"):
        with suppress(OSError, ValueError, KeyError):  # It has just ended.
            lines = (folder / "status").read_text(errors="replace").splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            parent, held_kb = int(fields["PPid"]), int(fields["VmRSS"].split()[0])
            found[int(folder.name)] = parent, held_kb * 1024, fields["Name"].strip()
    parents = {number: parent for number, (parent, *_) in found.items()}
    others = [
        (held, number, name)
        for number, (_, held, name) in found.items()
        if not _descends(number, own or os.getpid(), parents)
    ]
    if not others:
        return ""
    held, number, name = max(others)
    return f"{name} (process {number}), {held / 1e9:.1f} GB"


def _descends(number: int, own: int, parents: dict[int, int]) -> bool:
    """Return whether a process is ``own`` or descends from it."""
    while number in parents and number != own:
        number = parents[number]
    return number == own
