"""The house: imports point one way, and papers know nothing of the cluster."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIPELINE_ORDER = (
    *(
        "config",
        "provenance",
        "cluster",
        "storage",
        "manifest",
        "sources",
        "shards",
        "masks",
        "batches",
    ),
    *(
        "metrics",
        "pictures",
        "baselines",
        "checkpoints",
        "importing",
        "explaining",
        "tracking",
        "training",
        "launching",
        "planning",
    ),
    *("tuning", "report", "evaluation", "study", "registry", "choosing", "serving"),
)
CLOSED_TO_RAY = ("models", "pipeline/masks", "pipeline/metrics")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}

FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("models", "pipeline", "jobs")
    for path in (ROOT / folder).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Return the dotted names a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(dotted: str) -> str | None:
    """Return the room of a dotted name under ``pipeline``, or None."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pipeline" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path):
    names = imported(path)
    tops = {name.split(".")[0] for name in names}
    if path.parts[0] == "models":
        assert not tops & {"pipeline", "jobs"}
    if path.parts[0] == "pipeline":
        assert "jobs" not in tops
        here = path.parts[1].removesuffix(".py")
        if here == "__init__":
            return
        assert here in PIPELINE_ORDER, f"{here} has no place in the order of rooms"
        for name in names:
            other = room(name)
            if other and other != here:
                assert PIPELINE_ORDER.index(other) < PIPELINE_ORDER.index(here), (
                    f"{path} imports {name}, which stands below it"
                )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_papers_masks_and_metrics_have_never_heard_of_ray(path):
    if str(path).startswith(CLOSED_TO_RAY):
        assert not {name for name in imported(path) if name.split(".")[0] == "ray"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_says_what_it_is_for_and_none_is_a_drawer(path):
    assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} has no docstring"
    assert path.stem not in FORBIDDEN_NAMES
    assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names - {"config"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_pickled_by_us(path):
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_rooms_that_train_nothing_do_not_load_pytorch():
    rooms = ("config", "cluster", "storage", "manifest", "sources", "shards", "masks")
    program = f"import sys, {', '.join(f'pipeline.{room}' for room in rooms)}\n"
    program += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
