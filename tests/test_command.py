"""The command ``infill``, as processes: its help, its errors, its completion."""

import json
import os
import pty
import re
import select
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import infill.__main__ as command
from infill.pipeline import commands

ROOT = Path(__file__).parent.parent
PRESETS_FIRST = {"shards", "train", "tune", "plan", "import-weights"}
HEAVY = {"torch", "ray", "mlflow", "pandas", "cv2", "matplotlib", "fastapi", "torchmetrics"}


def infill(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infill", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_console_script_is_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["infill"].partition(":")
    assert getattr(import_module(module), name) is command.command


def test_every_job_has_a_command():
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    trained = {job for job in jobs if job.startswith("train_")}
    assert jobs - trained == {job for job in commands.JOB_OF.values() if job != "train_"}
    assert trained == {f"train_{name}" for name in commands.architectures()}


def test_help_lists_every_command_with_what_it_does():
    done = infill("--help")
    assert done.returncode == 0, done.stderr
    for name, job in commands.JOB_OF.items():
        about = commands.summary(job) if job != "train_" else "Train an architecture"
        assert f"\n  {name:<16}{about}" in done.stdout
    assert "source <(infill --print-completion bash)" in done.stdout


def test_version_is_the_packages():
    done = infill("--version")
    assert done.stdout == f"infill {command.importlib.metadata.version('infill')}\n"


def test_help_of_every_command_imports_nothing_that_only_work_needs():
    program = (
        "import contextlib, io, json, sys\n"
        "from infill.__main__ import main\n"
        "shown = io.StringIO()\n"
        "try:\n"
        "    with contextlib.redirect_stdout(shown):\n"
        "        main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        "    print(json.dumps([ended.code, sorted(sys.modules), shown.getvalue()]))\n"
    )
    asked = [[name] for name in commands.JOB_OF if name != "train"]
    asked += [["train"], *(["train", name] for name in commands.architectures())]
    for words in asked:
        done = subprocess.run(
            [sys.executable, "-c", program, *words, "--help"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        status, modules, shown = json.loads(done.stdout)
        assert status == 0
        assert not HEAVY & set(modules), words
        assert f"infill {' '.join(words)}" in shown
        assert "python jobs/" not in shown, words


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["trian"], 2, "there is no command 'trian'; did you mean 'train'?"),
        (["train", "spm"], 2, "there is no architecture 'spm'; did you mean 'spn'?"),
        (["train", "spn", "smokee"], 2, "unknown preset 'smokee'; did you mean 'smoke'?"),
        (["train", "spn", "--steps", "3"], 2, "--steps stands before the preset: name a preset"),
        (
            ["compare", "--evaluation", "a"],
            2,
            "no option --evaluation; did you mean '--evaluations'",
        ),
        (["evaluate", "--chekpoint=a"], 2, "no option --chekpoint; did you mean '--checkpoint'?"),
        (["shards", "folder"], 1, "give the folder of photographs with --source DIR"),
        (["--print-completion", "cmd"], 2, "--print-completion takes bash, zsh or fish"),
        (["evaluate", "--checkpoint", "no", "--shards", "no"], 1, "no"),
        (["inpaint", "a.png", "b.png", "--out", "c.gif", "--model", "no"], 2, "out ends in .png"),
        (["inpaint", "a.png", "b.png", "--out", "./b.png"], 2, "would overwrite the photograph or"),
        (["inpaint", "a.png", "b.png", "--model", "./no"], 1, "no is not a checkpoint"),
    ],
)
def test_a_mistake_ends_with_the_jobs_status_and_a_sentence(words, status, sentence, tmp_path):
    done = infill(*words, cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_reader_who_leaves_early_is_not_an_error():
    words = ["bash", "-c", f"{sys.executable} -m infill --help | head -1"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("Image inpainting on Ray")
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_accepted_by_the_shell(shell):
    script = infill("--print-completion", shell).stdout
    if shell == "zsh" and not shutil.which("zsh"):
        shell = "bash"  # Its own part is two lines; the rest is bash's script.
        script = script.split("\n", 2)[2]
    if shell == "fish" and not shutil.which("fish"):
        assert script.endswith("complete --command infill --no-files --arguments '(__infill)'\n")
        return
    done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "complete" in script


@pytest.mark.parametrize(
    ("before", "part", "wanted"),
    [
        ("", "tr", {"train"}),
        ("train", "sp", {"spn"}),
        ("train spn", "pa", {"paris"}),
        ("train spn smoke", "--model.num-b", {"--model.num-blocks"}),
        ("shards", "bun", {"bundled"}),
        ("evaluate", "--masks.re", {"--masks.recipe"}),
        ("evaluate --masks.recipe", "s", {"scratches", "silhouettes", "square", "strokes"}),
        ("train spn smoke --data.loader", "", {"threads", "processes", "ray"}),
        ("train spn smoke --model.teacher", "f", {"filterbank"}),
        ("evaluate --shards", "", set()),
        ("train spn smoke --data.masks.mixture", "box", {"box", "boxes"}),
        (
            "tune spn",
            "--train.data.shuf",
            {"--train.data.shuffle-lanes", "--train.data.shuffle-window-shards"},
        ),
        ("plan", "madf-c", {"madf-celeba", "madf-cpu"}),
        ("inpaint", "--im", set()),
        ("inpaint", "--mas", {"--masks.polarity", "--masks.threshold", "--masks.channel"}),
        ("import-weights spn", "--w", set()),
        ("import-weights spn", "--f", {"--from"}),
        ("train spn smoke", "--data.no-", {"--data.no-horizontal-flip"}),
        ("--print-completion", "", {"bash", "zsh", "fish"}),
    ],
)
def test_words_are_completed(before, part, wanted):
    words = ["infill", *before.split(), part]
    assert set(command.complete(len(words) - 1, words)) == wanted


@pytest.mark.parametrize(
    "words",
    ["shards folder", "train spn paris", "tune spn", "plan madf-cpu", "import-weights spn"]
    + [name for name in sorted(commands.JOB_OF) if name not in PRESETS_FIRST],
)
def test_every_flag_that_is_offered_is_one_of_the_help(words, capsys):
    job, rest = command._job_of(words.split())
    with pytest.raises(SystemExit):
        import_module(f"infill.jobs.{job}").main([*rest, "--help"])
    explained = set(re.findall(r"--[a-z0-9][\w.-]*\w", capsys.readouterr().out))
    line = ["infill", *words.split(), "--"]
    assert set(command.complete(len(line) - 1, line)) <= explained


def test_nothing_is_printed_where_no_word_fits():
    assert infill("--complete", "2", "infill", "inpaint", "ph").stdout == ""


def test_tab_completes_a_command_in_a_real_bash(tmp_path):
    wrapper = tmp_path / "bin" / "infill"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m infill "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={
            "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "PS1": "$ ",
            "HOME": str(tmp_path),
        },
    )
    os.close(theirs)
    shown = ""

    def read_until(wanted: str) -> None:
        nonlocal shown
        deadline = time.monotonic() + 20
        while wanted not in shown:
            ready, _, _ = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} never came: {shown!r}"
            shown += os.read(ours, 65536).decode()

    os.write(ours, b"source <(infill --print-completion bash); echo rea''dy\n")
    read_until("ready\r\n")
    shown = ""
    os.write(ours, b"infill tr\t")
    read_until("infill train ")
    os.write(ours, b"sp\t")
    read_until("infill train spn ")
    child.kill()
    child.wait(timeout=60)
    os.close(ours)
