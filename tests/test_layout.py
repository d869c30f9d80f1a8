"""The package layout: imports point one way, and models are independent of Ray.

python tests/test_layout.py prints the map that the README shows.
"""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PIPELINE_ORDER = (
    "errors",
    "error_sentences",
    "interruption",
    "background",
    "progress",
    "proxies",
    "store_endpoint",
    "memory_holders",
    "commands",
    "config_fields",
    "completion",
    "config",
    "provenance",
    "temporary_folders",
    "forkserver",
    "head_process",
    "ray_messages",
    "cluster",
    "attempts",
    "object_store",
    "storage",
    "shared_folders",
    "database_addresses",
    "downloads",
    "manifest",
    "tar_reader",
    "images",
    "sources",
    "sharding",
    "masks",
    "loading",
    "metrics",
    "image_grid",
    "baselines",
    "pretrained",
    "checkpoints",
    "weight_import",
    "weight_export",
    "tracking",
    "registry",
    "job_summary",
    "inference",
    "visualize",
    "inspection",
    "training",
    "cost_estimate",
    "reading_estimate",
    "train_cli",
    "tuning",
    "reporting",
    "evaluation",
    "user_study",
    "model_selection",
    "serving",
    "batch_inference",
    "job_runner",
)
CLOSED_TO_RAY = ("models", "pipeline/masks", "pipeline/metrics")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}

FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("models", "pipeline", "jobs")
    for path in (ROOT / folder).rglob("*.py")
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the dotted names a file imports, anywhere in it; relative ones begin with a dot."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def packages(path: Path) -> set[str]:
    """Return the top-level packages a file imports from; of ours, those under ``infill``."""
    return {name.removeprefix("infill.").split(".")[0] for name in imported(path)}


def package(dotted: str) -> str | None:
    """Return the module or package of a dotted name directly under ``pipeline``, or None."""
    parts = dotted.split(".")
    return parts[2] if parts[:2] == ["infill", "pipeline"] and len(parts) > 2 else None


def wrong_imports(path: Path) -> Iterator[str]:
    names = imported(path)
    yield from (f"{path}: relative import {name}" for name in names if name.startswith("."))
    for name in names:
        if name.split(".")[0] in ("pipeline", "models", "jobs"):
            yield f"{path} imports {name}, whose name is infill.{name}"
    if path.parts[0] == "models":
        yield from (f"{path} imports {top}" for top in packages(path) & {"pipeline", "jobs"})
    if path.parts[0] == "pipeline":
        if "jobs" in packages(path):
            yield f"{path} imports jobs"
        here = path.parts[1].removesuffix(".py")
        if here == "__init__":
            return
        if here not in PIPELINE_ORDER:
            yield f"{path}: {here} is not in PIPELINE_ORDER"
            return
        for name in names:
            other = package(name)
            if not other or other == here:
                continue
            if other not in PIPELINE_ORDER:
                yield f"{path} imports {name}, which is not in PIPELINE_ORDER"
            elif PIPELINE_ORDER.index(other) >= PIPELINE_ORDER.index(here):
                yield f"{path} imports {name}, which stands below it"


def assert_none(offences: Iterable[str]) -> None:
    """Fail with a line for each offence; a bare assertion would cut the list short."""
    found = sorted(offences)
    assert not found, "\n".join(found)


def test_files_of_all_three_folders_are_found():
    assert {path.parts[0] for path in FILES} == {"models", "pipeline", "jobs"}
    assert {path.parts[1].removesuffix(".py") for path in FILES if path.parts[0] == "pipeline"} == {
        "__init__",
        *PIPELINE_ORDER,
    }


def test_imports_point_one_way():
    assert_none(offence for path in FILES for offence in wrong_imports(path))


def test_models_masks_and_metrics_do_not_import_ray():
    closed = [path for path in FILES if str(path).startswith(CLOSED_TO_RAY)]
    assert closed
    assert_none(f"{path} imports ray" for path in closed if "ray" in packages(path))


def test_every_file_has_a_docstring_and_a_name_of_its_own():
    undocumented = [
        f"{path} has no docstring" for path in FILES if not ast.get_docstring(tree(path))
    ]
    forbidden = FORBIDDEN_NAMES | (sys.stdlib_module_names - {"config", "__init__"})
    misnamed = [f"{path} has a forbidden name" for path in FILES if path.stem in forbidden]
    assert_none(undocumented + misnamed)


def test_nothing_is_pickled_by_us():
    pickling = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert_none(f"{path} imports {n}" for path in FILES for n in packages(path) & pickling)


def test_packages_before_training_and_actors_beside_the_driver_do_not_import_pytorch():
    names = ("config", "cluster", "storage", "manifest", "images", "sources", "sharding", "masks")
    actors = ("training.heartbeat", "tracking.driver_queue")  # Each is a process of its own.
    modules = ", ".join(f"infill.pipeline.{name}" for name in names + actors)
    program = f"import sys, {modules}\n"
    program += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


FILE_CALLS = {
    "imdecode",
    "imdecodemulti",
    "imencode",
    "imread",
    "imreadmulti",
    "imwrite",
    "imcount",
}
DRAWS = Path("pipeline/image_grid.py")
"""Writes titles and captions with Pillow; its files are encoded by ``images`` too."""


def reads_or_writes_image_files(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in FILE_CALLS:
            yield f"{path}:{node.lineno} calls {node.attr}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open":
            yield f"{path}:{node.lineno} calls Image.open"
    if "PIL" in packages(path) and path != DRAWS:
        yield f"{path} imports PIL"


def test_image_files_are_read_and_written_in_one_package():
    inside = [path for path in FILES if path.is_relative_to("pipeline/images")]
    assert any(offence for path in inside for offence in reads_or_writes_image_files(path))
    assert_none(
        offence
        for path in FILES
        if path not in inside
        for offence in reads_or_writes_image_files(path)
    )


OF_A_PREDICTION = {
    "infill.models.architecture.fill",
    "infill.models.masking.crop_to",
    "infill.models.masking.pad_to_multiple",
    "infill.models.masking.paste",
    "infill.models.subsampling.fill_in_pieces",
    "infill.pipeline.images.tensors.to_pixels",
}
TIMES = Path("pipeline/registry/latency.py")
"""Times a generator alone, without the way from pixels and back."""


def test_architectures_by_the_rule_are_named_in_their_own_packages_alone():
    """Adding one touches no existing code: it is found by its folder and its job.

    What its paper printed is data, and stands in the two lists of such data.
    """
    printed = {Path(f"pipeline/evaluation/{name}.py") for name in ("protocols", "published")}
    for name in ("aotgan", "migan"):
        naming = {path for path in FILES if name in (ROOT / path).read_text().lower()}
        own = {path for path in naming if path.parts[:2] == ("models", name)}
        assert naming - own - printed == {Path(f"jobs/train_{name}.py")}
        assert len(own) > 5


def test_generators_are_run_in_one_package():
    def offences(paths: Iterable[Path]) -> list[str]:
        return [f"{path} imports {n}" for path in paths for n in imported(path) & OF_A_PREDICTION]

    stages = [path for path in FILES if path.parts[0] != "models" and path != TIMES]
    inside = [path for path in stages if path.is_relative_to("pipeline/inference")]
    found = {line.split()[-1] for line in offences(inside)}
    assert found == OF_A_PREDICTION - {"infill.models.masking.paste"}
    assert_none(offences(path for path in stages if path not in inside))


def test_array_types_are_named_once():
    names = {"Pixels", "Hole", "ByteHole", "Picture"}
    defined = [
        f"{path} defines {target.id}"
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in names
    ]
    assert [line.split()[0] for line in defined] == ["pipeline/images/arrays.py"] * 3


PROGRAM_LINE = re.compile(r"^ *from (infill[.\w]*) import (\([^)]*\)|[^\n;(]+)", re.MULTILINE)


def has(module: str, name: str) -> bool:
    """Tell whether ``from module import name`` works."""
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def test_programs_kept_as_strings_import_names_that_exist():
    """No linter reads them, and most of them run in the long tests only."""
    texts = [
        (path, node.value)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = [
        (path, module, name.split(" as ")[0].strip())
        for path, text in texts
        for module, names in PROGRAM_LINE.findall(text)
        for name in names.strip("()\n ").rstrip(",").split(",")
    ]
    assert len(found) > 20
    assert_none(
        f"{path.relative_to(ROOT)}: {module} has no {name}"
        for path, module, name in set(found)
        if not has(module, name)
    )


WIDTH = 30
"""Width of the column of names in the map."""


def first_line(path: Path) -> str:
    return (ast.get_docstring(tree(path)) or "").splitlines()[0]


def is_own(package: Path) -> bool:
    """Return whether a network is a user's own, which the map leaves out."""
    file = package / "architecture.py"
    return "infill.models.architecture.unpublished" in imported(file)


def layout() -> str:
    """Return the map of the repository: packages in import order, each with its first line."""
    lines = [f"{'pipeline/':<{WIDTH}}In import order: each imports from those above it only."]
    for name in PIPELINE_ORDER:
        file = Path("pipeline", f"{name}.py")
        if (ROOT / file).exists():
            lines.append(f"  {name + '.py':<{WIDTH - 2}}{first_line(file)}")
        else:
            lines.append(
                f"  {name + '/':<{WIDTH - 2}}{first_line(Path('pipeline', name, '__init__.py'))}"
            )
    lines.append(f"{'models/':<{WIDTH}}{first_line(Path('models/__init__.py'))}")
    for file in sorted(path for path in FILES if path.parts[0] == "models"):
        if len(file.parts) == 2 and not file.stem.startswith("__"):
            lines.append(f"  {file.name:<{WIDTH - 2}}{first_line(file)}")
        elif len(file.parts) == 3 and file.stem == "__init__" and not is_own(file.parent):
            lines.append(f"  {file.parts[1] + '/':<{WIDTH - 2}}{first_line(file)}")
    for name, text in {
        "jobs/": "One script per command; they run with `ray job submit -- python jobs/NAME.py`.",
        "infra/": "The image, Kubernetes, AWS, monitoring, and a cluster on one machine.",
        "docs/": "The documentation; its commands are run by tests.",
        "tests/": "The same tree again.",
    }.items():
        lines.append(f"{name:<{WIDTH}}{text}")
    return "\n".join(lines).replace("``", "`")


def test_readme_shows_the_layout():
    assert f"```\n{layout()}\n```" in (ROOT / "README.md").read_text()


if __name__ == "__main__":
    print(layout())


def test_files_that_start_first_exist(pytestconfig):
    [ordering] = [
        plugin
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if Path(getattr(plugin, "__file__", None) or "").parent == Path(__file__).parent
        and hasattr(plugin, "LONGEST")
    ]
    assert [name for name in ordering.LONGEST if not (ROOT / name).exists()] == []
