"""Packages import their modules when a name is used, and offer every name they list."""

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infill import pipeline
from infill.models.config import config_class, names, tables

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference.md"
INSIDE = ("serving.http", "serving.replica", "forkserver")
"""Packages that the reference leaves out: it shows what ``serving`` offers, and how Ray's workers
start is nobody's to call."""
PACKAGES = [
    module.name.removeprefix("infill.pipeline.")
    for module in pkgutil.walk_packages(pipeline.__path__, "infill.pipeline.")
    if module.ispkg
]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_listed_name_is_there_and_none_is_a_modules(name):
    package = importlib.import_module(f"infill.pipeline.{name}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert package.__all__
    assert len(set(package.__all__)) == len(package.__all__)
    assert not modules & set(package.__all__)
    for offered in package.__all__:
        value = getattr(package, offered)
        assert getattr(package, offered) is value


def test_every_package_of_the_pipeline_is_in_the_reference():
    described = {name.removeprefix("infill.pipeline.") for name in public_modules()}
    assert set(PACKAGES) - set(INSIDE) <= described
    assert not set(INSIDE) & described


def public_modules() -> list[str]:
    return re.findall(r"^::: (\S+)$", REFERENCE.read_text(), re.MULTILINE)


def documented(path: Path) -> set[str]:
    """Return the names of a module that have a docstring."""
    body = ast.parse(path.read_text()).body
    found = set()
    for statement, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(statement):
            found.add(statement.name)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            targets = getattr(statement, "targets", None) or [statement.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("module", public_modules())
def test_a_public_module_lists_its_names_and_each_is_described(module):
    """The reference leaves out what has no docstring."""
    imported = importlib.import_module(module)
    source = Path(imported.__file__)
    files = source.parent.rglob("*.py") if source.name == "__init__.py" else [source]
    described = set().union(*map(documented, files))
    offered_again = [ROOT / "pipeline" / name for name in ("errors.py", "images/kinds.py")]
    assert set(imported.__all__) <= described.union(*map(documented, offered_again))


def imports_of_the_pages() -> set[tuple[str, str]]:
    """Return module and name of each import in the Python of the pages and of the notebook."""
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```python[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    ]
    cells = json.loads((ROOT / "docs" / "inpainting.ipynb").read_text())["cells"]
    blocks += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = re.findall(r"^from (infill\S*) import (.+)$", "\n".join(blocks), re.MULTILINE)
    return {(module, name.strip()) for module, names in found for name in names.split(",")}


def test_the_pages_import_public_names_alone():
    public = public_modules()
    for module, name in imports_of_the_pages():
        if module in ("infill.jobs", "infill.models.plain") or f"{module}.{name}" in public:
            continue  # A job's main, the example of docs/new-architecture.md, or a whole module.
        assert module in public, f"{module} is not in docs/reference.md"
        assert name in importlib.import_module(module).__all__, f"{module}.{name}"


def test_a_name_that_is_not_offered_is_an_attribute_error():
    masks = importlib.import_module("infill.pipeline.masks")
    with pytest.raises(AttributeError, match=r"module 'infill.pipeline.masks' has no .* 'nothing'"):
        masks.__getattr__("nothing")
    assert not hasattr(masks, "nothing")


def test_configurations_are_read_without_what_only_work_needs():
    program = (
        "import importlib, pkgutil, sys\n"
        "from infill import pipeline\n"
        "from infill.models.config import config_class, names, tables\n"
        "for one in pkgutil.iter_modules(pipeline.__path__):\n"
        "    if one.ispkg:\n"
        "        package = importlib.import_module(f'infill.pipeline.{one.name}')\n"
        "        if any(m.name == 'config' for m in pkgutil.iter_modules(package.__path__)):\n"
        "            importlib.import_module(f'infill.pipeline.{one.name}.config')\n"
        "assert all(config_class(name).architecture == name for name in names())\n"
        "assert any(tables(name) for name in names())\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'matplotlib', 'cv2', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == "['cv2']\n", done.stdout + done.stderr  # Of the baselines.


@pytest.mark.parametrize("name", names())
def test_what_is_read_without_pytorch_is_what_the_architecture_has(name):
    paper = importlib.import_module(f"infill.models.{name}.architecture").ARCHITECTURE
    assert paper.config is config_class(name)
    assert paper.tables == tables(name)
