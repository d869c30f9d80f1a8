"""Time and memory of each architecture, against its authors' way of computing the same.

make bench ONLY=models
NETWORKS=spn,deepfill WORK=forward make bench ONLY=models  # all other rows stay as they were

The naive form has the same parameters and draws the same picture: tests/models/test_naive_forms.py
holds both against each other. Only the generator is naive; losses, discriminators and optimizers
are ours in both, so a step's ratio is a lower bound.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from conditions import turns
from pages import machine, rows_of_section, table, write_section

ONE_STEP = Path(__file__).with_name("one_step.py")
CASES = [("forward", 1), ("forward", 4), ("step", 1)]
MORE = {"deepfill": [("step", 4)]}
ARCHITECTURES = ["pennet", "madf", "deepgin", "spn", "deepfill"]
HEADER = [
    "Network",
    "Work",
    "Batch",
    "GMAC",
    "Ours, s",
    "Naive, s",
    "Faster",
    "Ours, MiB",
    "Naive, MiB",
    "Memory",
    "Of the floor",
]


def ask(*arguments: str) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, str(ONE_STEP), *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if "memory" in arguments:
        # Memory is given back to the system at once, so that what is held is what is in use.
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def both(name: str, kind: str, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Measure ours and the naive form in turns, and return the median of each figure."""
    seen: dict[str, list[dict[str, float]]] = {"ours": [], "naive": []}
    for form in turns(list(seen)):
        seen[form].append(ask("time", name, form, kind, str(count)))
    ours, naive = (
        {field: median(answer[field] for answer in answers) for field in answers[0]}
        | ask("memory", name, form, kind, str(count))
        for form, answers in seen.items()
    )
    return ours, naive


def row(name: str, kind: str, count: int, gmac_per_s: float) -> list[str]:
    ours, naive = both(name, kind, count)
    floor_s = ours["gmac"] / gmac_per_s
    return [
        name,
        kind,
        str(count),
        f"{ours['gmac']:.0f}",
        f"{ours['seconds']:.2f}",
        f"{naive['seconds']:.2f}",
        f"{naive['seconds'] / ours['seconds']:.2f}x",
        f"{ours['peak_mib']:.0f}",
        f"{naive['peak_mib']:.0f}",
        f"{ours['peak_mib'] / naive['peak_mib']:.2f}",
        f"{floor_s / ours['seconds']:.0%}",
    ]


def test_models() -> None:
    gmac_per_s = ask("rate")["gmac_per_s"]
    chosen = os.environ.get("NETWORKS", ",".join(ARCHITECTURES)).split(",")
    kinds = os.environ.get("WORK", "forward,step").split(",")
    rows = {tuple(row[:3]): row for row in rows_of_section("models")}
    cases = [
        (name, kind, str(count))
        for name in ARCHITECTURES
        for kind, count in CASES + MORE.get(name, [])
    ]
    for name, kind, count in cases:
        if name not in chosen or kind not in kinds:
            continue
        rows[name, kind, count] = row(name, kind, int(count), gmac_per_s)
        print(*rows[name, kind, count], sep="  ", flush=True)
        measured = [rows[case] for case in cases if case in rows]
        text = f"{table(HEADER, measured)}\n\nA plain convolution: {gmac_per_s:.0f} GMAC/s."
        write_section("models", f"{text} {machine()}.")
