"""Packages import their modules when a name is used, and offer every name they list."""

import importlib
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
    described = re.findall(r"^::: infill\.pipeline\.(\S+)$", REFERENCE.read_text(), re.MULTILINE)
    assert sorted(described) == sorted(name for name in PACKAGES if name not in INSIDE)


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
