"""The wheel: it holds every file that code reads, and works without the source tree."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infill.models.architecture import load
from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints
from infill.pipeline.config import to_dict

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "pipeline", "jobs")

FILL = """
import asyncio, json, sys
import numpy as np
from PIL import Image
from infill import jobs, models, pipeline
import infill.jobs.batch_inpaint
from infill.pipeline.reporting.page import render
from infill.pipeline.serving.replica.replica import Replica, ReplicaConfig

picture, out, model = sys.argv[1:]
replica = Replica(ReplicaConfig())
replica.reconfigure({"models": [json.loads(model)]})
image = np.asarray(Image.open(picture))
mask = np.zeros(image.shape[:2], np.uint8)
mask[20:40, 16:48] = 1
filled = asyncio.run(replica.fill("", image, mask)).predictions[0]
Image.fromarray(np.where(mask[..., None] == 1, filled, image)).save(out)
render("report.html.j2", title="wheel", summary={}, sections=[])
print(json.dumps([m.__file__ for m in (infill, jobs.batch_inpaint, models, pipeline)]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that neither build/ nor egg-info are left in the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("infill", *PACKAGES):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, out], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [built] = out.glob("infill-*.whl")
    return built


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    listed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = [*(ROOT / "infill").glob("*.py"), ROOT / "infill" / "py.typed"]
    files = [f"infill/{path.name}" for path in own] + [
        f"infill/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert listed == set(files)
    assert any(name.endswith(".css") for name in listed)


CALLS = """
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from infill.pipeline.inference import load

inpaint, photo = load("infill-base"), Image.open("a.png")
reveal_type(inpaint(photo, "m.png"))
reveal_type(inpaint(Path("a.png"), np.zeros((3, 3), bool)))
reveal_type(inpaint(torch.zeros(3, 3, 3), torch.zeros(3, 3)))
reveal_type(inpaint([Path("a.png")], ["m.png"]))
reveal_type(inpaint((photo, photo), (photo, photo)))
reveal_type(inpaint([photo, "a.png"], [photo, "m.png"]))
reveal_type(inpaint(photo, photo, samples=3))
inpaint(photo, photo, mode="bogus")
"""


@pytest.fixture(scope="module")
def packages(wheel, tmp_path_factory) -> Path:
    """Install the wheel into an environment of its own; return its folder of packages."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([environment / "bin" / "python", *install], cwd=environment, check=True)
    [packages] = environment.glob("lib/python*/site-packages")
    # The dependencies are those of this environment; its link to the source tree is in a .pth file,
    # and Python does not read one in a folder that is itself named by one.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return packages


@pytest.mark.slow
def test_type_checkers_see_the_hints_of_the_installed_library(packages, tmp_path):
    (tmp_path / "calls.py").write_text(CALLS)
    python = packages.parents[2] / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "mypy", "calls.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    shown = [line.partition('type is "')[2].strip('"') for line in lines if "type is" in line]
    picture = "PIL.Image.Image"
    listed = [f"list[{picture}]"] * 2
    expected = [picture, picture, "torch._tensor.Tensor", *listed, "list[Any]", f"list[{picture}]"]
    assert shown == expected, done.stdout + done.stderr
    assert lines[-1].startswith("Found 1 error in 1 file")


def test_wheel_fills_a_hole_in_an_empty_environment_without_the_source_tree(packages, tmp_path):
    python = packages.parents[2] / "bin" / "python"
    torch.manual_seed(0)
    architecture = load("spn")
    config = SPNConfig.tiny()
    location = str(tmp_path / "checkpoint")
    digest = checkpoints.export(
        location,
        {"generator": architecture.generator(config).state_dict()},
        {"model": to_dict(config), "data": {"image_size_px": 64}},
        {"step": 0},
    )
    model = {
        "name": "spn",
        "reference": "spn@champion",
        "version": "1",
        "digest": digest,
        "location": location,
    }
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    for name in PACKAGES:  # A user's own folders of these names hide nothing.
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not the one meant')")
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", FILL, "photo.png", "filled.png", json.dumps(model)],
        cwd=tmp_path,
        env=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(Path(path).is_relative_to(packages) for path in json.loads(done.stdout))
    filled = np.asarray(Image.open(tmp_path / "filled.png"))
    hole = np.zeros((64, 64), bool)
    hole[20:40, 16:48] = True
    assert (filled[~hole] == image[~hole]).all()
    assert (filled[hole] != image[hole]).mean() > 0.9
