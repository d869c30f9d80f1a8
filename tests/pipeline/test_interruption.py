"""Ctrl-C and SIGTERM, as processes and jobs meet them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infill.pipeline import interruption
from infill.pipeline.config import run
from infill.pipeline.errors import UserError
from infill.pipeline.interruption import Interrupted, handled, postponed, requested

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[!_]*.py"))
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


@BOTH
def test_a_job_ends_with_the_signal_s_status_and_one_sentence(number, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: signal.raise_signal(number))
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == "interrupted; run the same command again to resume\n"


@BOTH
def test_whatever_a_library_makes_of_the_signal_is_not_shown(number, capsys):
    def main():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise UserError("the dataset was shut down") from None

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == "interrupted; run the same command again to resume\n"


def test_handlers_of_a_library_are_replaced_within_the_block_and_the_first_restored():
    first = signal.getsignal(signal.SIGTERM)
    with handled():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        with handled(), pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert requested() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is first
    assert requested() == 0


def test_ctrl_c_that_a_background_job_ignores_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled():
            signal.raise_signal(signal.SIGINT)
            assert requested() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_postponed_signal_is_noted_and_a_repeated_one_ends_the_process(monkeypatch, capfd):
    class EndedError(Exception):
        pass

    def end(status):
        raise EndedError(status)

    monkeypatch.setattr(os, "_exit", end)
    with handled(), postponed():
        signal.raise_signal(signal.SIGINT)
        assert requested() == signal.SIGINT
        signal.raise_signal(signal.SIGINT)  # Both of a launcher and its process group.
        monkeypatch.setattr(interruption, "SAME_REQUEST_S", 0.0)
        with pytest.raises(EndedError, match="130"):
            signal.raise_signal(signal.SIGINT)
    printed = capfd.readouterr()
    assert printed.out == "interrupted: saving a checkpoint; a second Ctrl-C ends at once\n"
    assert printed.err == "interrupted again: ended at once\n"


WAITS_FOR_EVER = """
import signal
from infill.pipeline.config import run
from infill.pipeline.interruption import postponed

def main():
    with postponed():
        print("up", flush=True)
        while True:
            signal.pause()

run(main)
"""


def test_a_second_signal_ends_a_process_that_cannot_stop():
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS_FOR_EVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert "interrupted: saving" in process.stdout.readline()
        while process.poll() is None:  # A signal soon after the first belongs to it.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 130
        assert process.stderr.read() == "interrupted again: ended at once\n"


INTERRUPTS_AN_IMPORT = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "infill.pipeline.commands":
            os.kill(os.getpid(), int(os.environ["NUMBER"]))

sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


@pytest.mark.parametrize("job", [*JOBS, "infill"])
def test_every_job_ends_in_a_sentence_while_it_is_still_importing(job, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS_AN_IMPORT)
    number = signal.SIGTERM if job == "infill" else signal.SIGINT
    words = ["-m", "infill"] if job == "infill" else [f"jobs/{job}.py"]
    done = subprocess.run(
        [sys.executable, *words, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBER": str(int(number))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr == "interrupted; run the same command again to resume\n"
    assert done.stdout == ""


def test_a_program_that_imports_the_package_keeps_its_own_signals():
    program = "import signal; before = signal.getsignal(signal.SIGINT)\nimport infill\n"
    program += "assert signal.getsignal(signal.SIGINT) is before"
    subprocess.run([sys.executable, "-c", program], check=True)
