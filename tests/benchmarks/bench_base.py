"""The network of the package as a person meets it: a fill, and a fill from a cold start.

make bench ONLY=base

Fills are medians after one to warm up, of a stroke from corner to corner. Cold starts are whole
commands, from the shell to the end, with the files in the system's cache: medians of five.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from pages import machine, table, write_section
from PIL import Image

from infill.pipeline.inference import load
from infill.pipeline.inference.config import Mode

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
LINES = """from infill.pipeline.inference import load
inpaint = load("infill-base")
inpaint("{photo}", "{hole}")"""
TIMES = 5


def median(work: Callable[[], object], times: int) -> float:
    """Return the seconds that work takes, the median of a number of times after a first one."""
    work()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return float(np.median(found))


def fill_s(side: int, threads: int, mode: Mode = "auto") -> float:
    """Return the seconds of a fill of a square photograph: a stroke from corner to corner."""
    torch.set_num_threads(threads)
    inpaint = load("infill-base")
    with Image.open(PICTURES / "photo.jpg") as opened:
        photo = np.asarray(opened.convert("RGB").resize((side, side)))
    mask = np.zeros((side, side), np.uint8)
    cv2.line(mask, (0, 0), (side, side), 255, side // 12)
    return median(lambda: inpaint(photo, mask, mode=mode), 4 * TIMES)


def command_s(*words: str) -> tuple[float, float]:
    """Return the seconds of a command and those of the processors, medians of five."""
    found = []
    for _ in range(TIMES + 1):
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((time.perf_counter() - begin, used))
    seconds, used_s = np.median(found[1:], axis=0)
    return float(seconds), float(used_s)


def test_base(tmp_path: Path) -> None:
    photo, hole = str(PICTURES / "photo.jpg"), str(PICTURES / "hole.png")
    rows = [
        [f"256 x 256 px, {threads}", f"{1e3 * fill_s(256, count):.0f} ms", "", aim]
        for threads, count, aim in (("one thread", 1, "150 ms"), ("two threads", 2, ""))
    ]
    rows += [
        [f"1,024 x 1,024 px, two threads, {mode}", f"{fill_s(1024, 2, mode):.2f} s", "", "2 s"]
        for mode in get_args(Mode)
        if mode != "crop"
    ]
    out = str(tmp_path / "filled.png")
    command = ("jobs/inpaint.py", photo, hole, "--out", out)
    for name, aim, words in (
        ("`jobs/inpaint.py photo.jpg hole.png`", "3 s", command),
        ("three lines of Python", "3 s", ("-c", LINES.format(photo=photo, hole=hole))),
        ("`jobs/inpaint.py --help`", "1 s", ("jobs/inpaint.py", "--help")),
        ("`jobs/train_spn.py --help`", "1 s", ("jobs/train_spn.py", "--help")),
        ("`import infill.pipeline.inference`", "2 s", ("-c", "import infill.pipeline.inference")),
    ):
        seconds, used_s = command_s(*words)
        rows.append([name, f"{seconds:.2f} s", f"{used_s:.2f} s", aim])
    header = ["what", "time", "of the processors", "aim"]
    write_section("base", f"{machine()}.\n\n{table(header, rows)}")
