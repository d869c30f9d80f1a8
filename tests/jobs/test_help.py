"""The help of every job and preset: quick, plain, with examples that can be copied."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from infill.models.optimizers import OPTIMIZERS, OptimizerConfig
from infill.models.schedules import SCHEDULES, DiscriminatorScheduleConfig, ScheduleConfig
from infill.pipeline.baselines import BASELINES
from infill.pipeline.completion import suggestions
from infill.pipeline.evaluation.config import EvaluationConfig
from infill.pipeline.tracking import LOGGERS, TrackingConfig
from infill.pipeline.tuning import TuneConfig
from infill.pipeline.tuning.algorithms import ALGORITHMS

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__")
HEAVY = ["torch", "ray", "mlflow", "pandas", "cv2", "matplotlib", "fastapi", "torchmetrics"]
PROGRAM = """
import contextlib, io, json, runpy, sys
heavy, shown = set(json.loads(sys.argv[1])), []
for job, preset in json.loads(sys.argv[2]):
    before = heavy & set(sys.modules)
    path = f"jobs/{job}.py"
    sys.argv = [path, *([preset] if preset else []), "--help"]
    text, status = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    found = sorted(heavy & set(sys.modules) - before)
    shown.append([job, preset, status, len(text.getvalue()), found])
print(json.dumps(shown))
"""


def test_help_imports_nothing_that_only_work_needs():
    """One process shows the help of every job: what none has imported, each alone does not."""
    presets = {"make_shards": "folder", "tune": "spn", "plan": "spn-cpu"}
    asked = []
    for name in JOBS:
        preset = "smoke" if name.startswith("train_") else presets.get(name, "")
        asked += [(name, word) for word in sorted({"", preset})]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    shown = json.loads(done.stdout)
    assert [(job, preset) for job, preset, *_ in shown] == asked
    assert [one for one in shown if one[2] != 0] == []
    assert [one for one in shown if one[3] <= 200] == []
    assert [one for one in shown if one[4]] == []


REQUIRED = {
    "batch_inpaint": ["images", "out", "--model", "m"],
    "choose": ["--search", "s", "--shards", "s"],
    "compare": ["--evaluations", "a", "b"],
    "evaluate": ["--checkpoint", "c", "--shards", "s"],
    "explain": ["--checkpoint", "c", "--image", "i"],
    "export_weights": ["--checkpoint", "c", "--out", "o"],
    "import_weights": ["--from", "f"],
    "inpaint": ["photo.jpg", "mask.png"],
    "inspect_shards": ["--shards", "s"],
    "make_key": ["alice"],
    "study": ["--evaluations", "a", "b"],
    "verify_shards": ["--shards", "s"],
}
"""The arguments that a job requires before it reads the others."""
INTERNAL = re.compile(r"dummy|\binner\b|Traceback|the paris preset")
NUMBER = re.compile(r"(--[\w.-]+) (?:INT|FLOAT)\b")
FLAG = re.compile(r"^ +(--[\w.-]+)", re.MULTILINE)


def presets_of(name: str) -> list[str]:
    """Return a job's presets, or one empty name if it has none."""
    main = importlib.import_module(f"infill.jobs.{name}").main
    return [word for word in suggestions(main, []) if not word.startswith("-")] or [""]


def said(config: type, field: str) -> str:
    """Return the help of a field."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    [place] = [n for n, line in enumerate(body.body) if ast.unparse(line).startswith(f"{field}:")]
    return ast.literal_eval(body.body[place + 1].value)


@pytest.mark.parametrize(
    ("config", "field", "names"),
    [
        (TrackingConfig, "loggers", LOGGERS),
        (EvaluationConfig, "baselines", BASELINES),
        (TuneConfig, "algorithm", ALGORITHMS),
        (OptimizerConfig, "name", OPTIMIZERS),
        (ScheduleConfig, "name", SCHEDULES),
        (DiscriminatorScheduleConfig, "name", SCHEDULES),
    ],
)
def test_help_of_a_field_that_takes_names_has_each(config, field, names):
    help_text = said(config, field)
    assert [name for name in names if f'"{name}"' not in help_text] == []


@pytest.mark.parametrize("name", JOBS)
def test_help_and_mistakes_of_every_preset_are_plain(name, run_job):
    """Suggestions for a mistyped flag are flags of the preset that was chosen.

    Presets with equal flags, such as those of one architecture, answer mistakes alike: the first of
    them is asked.
    """
    asked: list[set[str]] = []
    for place, preset in enumerate(presets_of(name)):
        chosen = [preset] if preset else []
        shown = run_job(name, *chosen, "--help")
        assert shown.returncode == 0
        assert not INTERNAL.search(shown.stdout), shown.stdout
        if preset:
            assert re.match(rf"The preset '{preset}': \S.*\.$", shown.stdout, re.MULTILINE)
        flags = set(suggestions(importlib.import_module(f"infill.jobs.{name}").main, chosen))
        if flags in asked:
            continue
        asked.append(flags)
        number = NUMBER.search(shown.stdout)
        flag = number.group(1) if number else min(flags - {"--help", "--verbose"})
        refused = run_job(name, *chosen, *REQUIRED.get(name, []), f"{flag}z", "1")
        assert refused.returncode == 2, refused.stdout
        assert "Unrecognized options" in refused.stderr
        assert not INTERNAL.search(refused.stderr), refused.stderr
        meant = refused.stderr.partition("Perhaps you meant")[2]
        assert flag in meant
        assert set(FLAG.findall(meant)) <= flags | {f"--no-{one[2:]}" for one in flags}
        if number and not place:  # All presets have the same fields.
            refused = run_job(name, *chosen, *REQUIRED.get(name, []), flag, "many")
            assert refused.returncode == 2, refused.stdout
            assert f"Error parsing {flag}: " in refused.stderr
            assert not INTERNAL.search(refused.stderr), refused.stderr


@pytest.mark.parametrize("name", JOBS)
def test_help_says_what_every_preset_is_and_its_examples_can_be_copied(name, run_job):
    """Each example is one line, whatever the width of the terminal."""
    text = ast.get_docstring(ast.parse((ROOT / "jobs" / f"{name}.py").read_text()))
    examples = [line for line in text.splitlines() if line.startswith(("python jobs/", "curl"))]
    assert examples
    shown = run_job(name, "--help", COLUMNS="60").stdout.splitlines()
    for example in examples:
        assert not example.endswith("\\")
        assert example in shown
    assert not [line for line in shown if line.endswith("\\")]
    for preset in presets_of(name):
        if preset:
            assert [line for line in shown if re.match(rf"  {preset} +\S+ .*\.$", line)], preset
