import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infill.pipeline.progress import Progress, duration, file_size, speed

ROOT = Path(__file__).parents[2]
STEP = """
import sys, threading
from infill.pipeline.progress import Progress
with Progress("sharding", 4, "photographs", period_s=float(sys.argv[1])) as progress:
    for count in range(4):
        sys.stdin.readline()
        progress.advance(1, f"{count} quarantined")
        if count == 1:
            progress.say("a line of its own")
        print(f"<{count}>", file=sys.stderr, flush=True)
"""


def advance(child: subprocess.Popen[bytes]) -> None:
    """Let the step finish one more, and wait until it has."""
    child.stdin.write(b"\n")
    child.stdin.flush()
    while not (line := child.stderr.readline()).startswith(b"<"):
        assert line, "the step has ended"


def start(period_s: float, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", STEP, str(period_s)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    )


def shown_by(program: str, columns: int = 100) -> str:
    """Return what a program shows on a terminal of some width."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux says so when the other end is closed.
        pass
    assert child.wait(timeout=60) == 0
    return shown.decode()


def test_in_a_pipe_there_is_a_line_at_the_start_and_one_at_the_end():
    child = start(3600, subprocess.PIPE)
    assert child.stdout.readline() == b"sharding: 0 of 4 photographs\n"  # Before anything is done.
    for _ in range(4):
        advance(child)
    rest, _ = child.communicate(timeout=60)
    lines = rest.decode().splitlines()
    assert lines[0] == "a line of its own"
    assert re.fullmatch(
        r"sharding: 4 photographs in \d+s(, [\d.]+(/s| s each))?, 3 quarantined", lines[1]
    )
    assert len(lines) == 2
    assert child.returncode == 0


def test_in_a_pipe_a_line_comes_once_a_period_also_while_nothing_is_finished():
    child = start(0.2, subprocess.PIPE)
    assert [child.stdout.readline() for _ in range(3)] == [b"sharding: 0 of 4 photographs\n"] * 3
    advance(child)
    advance(child)
    while b"2 of 4" not in (line := child.stdout.readline()):
        assert line
    assert re.fullmatch(
        rb"sharding: 2 of 4 photographs, [\d.]+(?:/s| s each), \S+ left, 1 quarantined\n", line
    ), line
    for _ in range(2):
        advance(child)
    child.communicate(timeout=60)


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left():
    ours, theirs = pty.openpty()
    child = start(3600, theirs)
    os.close(theirs)
    shown = ""

    def read_until(wanted: str) -> str:
        nonlocal shown
        deadline = time.monotonic() + 20
        while not re.search(wanted, shown):
            ready, _, _ = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} never came: {shown!r}"
            shown += os.read(ours, 65536).decode()
        return shown

    assert "━" in read_until("0/4")  # The bar is there before anything is done.
    advance(child)
    advance(child)
    read_until(r"2/4\x1b\[0m +[\d.]+(?:/s| s each), \S+ left, 1 quarantined")
    for _ in range(2):
        advance(child)
    child.communicate(timeout=60)
    ended = read_until(r"sharding: 4 photographs in ").split("\r\n")
    assert any("a line of its own" in line for line in ended)
    assert "\x1b[2K" in shown  # The bar itself is wiped away.


def test_rate_and_time_left_are_measured_since_the_first_result(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("infill.pipeline.progress.time.monotonic", lambda: clock[0])
    lines: list[str] = []
    progress = Progress("evaluation", 100, "pairs", done=10, log=lines.append)
    progress._start = clock[0]
    clock[0] += 20
    progress.advance(10)  # The actors were starting until now: the first estimate is too long.
    assert progress.line() == "evaluation: 20 of 100 pairs, 2.0 s each, 2m40s left"
    clock[0] += 10
    progress.advance(20)
    assert progress.line() == "evaluation: 40 of 100 pairs, 2.0/s, 30s left"
    progress.skip(20)  # Found to be there already: no measure of the rate.
    assert progress.line() == "evaluation: 60 of 100 pairs, 2.0/s, 20s left"


def test_results_that_come_in_a_burst_have_the_rate_since_the_start(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("infill.pipeline.progress.time.monotonic", lambda: clock[0])
    progress = Progress("spn", 60, "steps", log=[].append)
    progress._start = clock[0]
    clock[0] += 10
    for step in (10, 20, 30):
        progress.reach(step)
        clock[0] += 0.001
    assert progress.line() == "spn: 30 of 60 steps, 3.0/s, 10s left"


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_bar_keeps_its_width_beside_many_facts(columns):
    program = (
        "from infill.pipeline.progress import Progress\n"
        "with Progress('spn', 5000, 'steps') as progress:\n"
        "    progress.reach(1000, 'discriminator 0.694  prior 1.35  image 3.77  ' * 3)\n"
    )
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown_by(program, columns))
    bars = [line for line in re.split(r"[\r\n]+", plain) if "1000/5000" in line]
    assert bars
    for bar in bars:
        assert re.match(r"\S spn [━╸╺]{20} 1000/5000 [\d.]+/s, \d+s left, ", bar), bar
        assert len(bar) <= columns


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (250.0, "250.0/s"),
        (1.0, "1.0/s"),
        (0.96, "1.0/s"),
        (0.9, "1.1 s each"),
        (0.04, "25.0 s each"),
        (1 / 95, "1m35s each"),
        (1 / 7320, "2h02m each"),
    ],
)
def test_what_takes_longer_than_a_second_shows_its_time(rate, shown):
    assert speed(rate) == shown


def test_a_step_that_fails_has_no_last_line():
    lines: list[str] = []
    with pytest.raises(ValueError, match="mine"), Progress("import", log=lines.append):
        raise ValueError("mine")
    assert lines == ["import ..."]


def test_a_step_without_an_amount_says_that_it_is_done_or_how_it_ended():
    lines: list[str] = []
    with Progress("import", log=lines.append):
        pass
    with Progress("starting Ray", log=lines.append) as progress:
        progress.ending = "started"
    assert lines == [
        *("import ...", "import: done in 0s"),
        *("starting Ray ...", "starting Ray: started in 0s"),
    ]


def test_a_step_within_a_step_leaves_the_terminal_to_the_outer_one():
    program = (
        "from infill.pipeline.progress import Progress\n"
        "with Progress('outer', 2, 'trials') as outer:\n"
        "    with Progress('inner', 1, 'pairs') as inner:\n"
        "        inner.advance()\n"
        "        assert outer.has_bar and not inner.has_bar\n"
        "    outer.advance(2)\n"
    )
    shown = shown_by(program)
    assert "inner: 1 pairs in" in shown
    assert "outer: 2 trials in" in shown


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (6_140_000, "6.1 MB"),
        (999_960_000, "1.0 GB"),
        (50e9, "50.0 GB"),
        (2.5e15, "2500.0 TB"),
    ],
)
def test_a_size_is_written_in_the_unit_that_suits_it(size, text):
    assert file_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (190, "3m10s"), (7512, "2h05m")]
)
def test_a_duration_is_written_as_people_write_it(seconds, text):
    assert duration(seconds) == text
