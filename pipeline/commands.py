"""The commands, the jobs behind them, and how they are typed."""

import ast
import re
import shlex
import sys
from pathlib import Path

JOB_OF = {
    "shards": "make_shards",
    "inspect-shards": "inspect_shards",
    "verify-shards": "verify_shards",
    "train": "train_",
    "tune": "tune",
    "evaluate": "evaluate",
    "compare": "compare",
    "choose": "choose",
    "promote": "promote",
    "serve": "serve",
    "inpaint": "inpaint",
    "batch-inpaint": "batch_inpaint",
    "explain": "explain",
    "plan": "plan",
    "import-weights": "import_weights",
    "export-weights": "export_weights",
    "make-key": "make_key",
    "study": "study",
    "demo": "demo",
}
"""By command of ``infill``, in the order of a project: the job, without .py. ``train`` is one job
for each architecture."""

_TYPED = re.compile(r"python jobs/(\w+)\.py")
_JOBS = Path(__file__).parent.parent / "jobs"


def program() -> str:
    """Return the command of this process, such as "infill evaluate" or "python jobs/evaluate.py".

    The command ``infill`` puts its own words into ``sys.argv[0]``.
    """
    name = sys.argv[0]
    if name.startswith("infill "):
        return name
    return f"python {name}" if name.endswith(".py") else name


def typed(job: str, *words: str) -> str:
    """Return the command line of a job, in the form in which this process was started.

    Args:
        job: the job's name, such as "make_shards".
        words: its arguments; they are quoted for the shell where needed.
    """
    return " ".join([_started_as(job), *map(shlex.quote, words)])


def _started_as(job: str) -> str:
    """Return what starts a job: the command, or its file beside the one that was started."""
    if program().startswith("infill "):
        return f"infill {command_of(job)}"
    script = Path(sys.argv[0])
    beside = script.parent if script.suffix == ".py" and script.parent.name == "jobs" else "jobs"
    return f"python {beside}/{job}.py"


def as_typed(text: str) -> str:
    """Return a text whose commands are written the way this process was started."""
    if not program().startswith("infill "):
        return text
    return _TYPED.sub(lambda found: f"infill {command_of(found[1])}", text)


def command_of(job: str) -> str:
    """Return what follows ``infill`` for a job: "train spn" for ``train_spn``."""
    if job.startswith("train_"):
        return f"train {job.removeprefix('train_')}"
    return next(command for command, name in JOB_OF.items() if name == job)


def architectures() -> list[str]:
    """Return the architectures that have a training job."""
    return sorted(path.stem.removeprefix("train_") for path in _JOBS.glob("train_*.py"))


def summary(job: str) -> str:
    """Return the first line of a job's docstring, read without importing it."""
    return _first_line(_JOBS / f"{job}.py")


def paper(architecture: str) -> str:
    """Return the first line of an architecture's docstring, read without importing it."""
    return _first_line(_JOBS.parent / "models" / architecture / "__init__.py")


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
