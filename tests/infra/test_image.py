"""The image: linted, pinned, and its install commands executed in a clean environment."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Return every instruction with its words, lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def test_linter_has_nothing_to_say():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_image_is_of_two_stages_and_does_not_run_as_root():
    found = instructions()
    stages = [words for name, words in found if name == "FROM"]
    assert len(stages) == 2
    assert all(re.search(r":\d+\.\d+\.\d+", stage) for stage in stages)
    last = found[[name for name, _ in found].index("FROM", 1) :]
    assert [words for name, words in last if name == "USER"] == ["1000"]
    assert not any("pip install" in words for _, words in last)


def test_every_dependency_is_pinned_within_what_the_project_asks_for():
    import tomllib

    pins = {}
    for line in (ROOT / "infra" / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["demo"]:
        asked = Requirement(text)
        if asked.name != "torch":  # The image's argument.
            assert asked.specifier.contains(pins[canonicalize_name(asked.name)]), text
    [torch] = re.findall(r"ARG TORCH=(\S+)\+cpu", DOCKERFILE.read_text())
    asked = next(Requirement(t) for t in project["dependencies"] if t.startswith("torch>"))
    assert asked.specifier.contains(torch)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_install_commands_build_an_environment_in_which_jobs_run(tmp_path):
    """The build stage as it stands, with folders of the test's in place of the image's."""
    home, environment = tmp_path / "home", tmp_path / "opt"
    home.mkdir()
    [torch] = re.findall(r"ARG TORCH=(\S+)", DOCKERFILE.read_text())
    place, stage = home, 0
    for name, words in instructions():
        stage += name == "FROM"
        words = words.replace("/opt/infill", str(environment))
        if stage != 1:
            continue
        if name == "COPY":
            *sources, target = words.split()
            for source in sources:
                found = ROOT / source
                if found.is_dir():
                    shutil.copytree(
                        found, place / target, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(found, place / target)
        elif name == "RUN":
            # This machine's index stands in for the one that is named.
            words = words.replace('--extra-index-url "${TORCH_INDEX}"', "")
            words = words.replace('"torch==${TORCH}"', f"'torch=={torch}'")
            words = words.replace("python -m venv", f"{sys.executable} -m venv")
            path = f"{environment}/bin:/usr/bin:/bin"
            done = subprocess.run(
                ["sh", "-c", words],
                cwd=place,
                env={**clean_environment(), "PATH": path},
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-2000:]
    job = [str(environment / "bin" / "python"), str(home / "jobs" / "train_spn.py"), "--help"]
    done = subprocess.run(
        job, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "places2" in done.stdout
    check = [str(environment / "bin" / "pip"), "check"]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


def clean_environment() -> dict[str, str]:
    """Return the environment without what would lead to this test's own packages."""
    import os

    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "RAY_"))
    }
