"""The image: linted, pinned, and its install commands executed in a clean environment."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
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


@pytest.fixture(scope="module")
def tools():
    """Install what `make audit` runs, where it does, and return the folder of its commands."""
    made = Path(sys.prefix, "audit", "installed")
    subprocess.run(["make", f"VENV={sys.prefix}", made], cwd=ROOT, check=True, capture_output=True)
    return made.parent / "bin"


def audit(tools, tmp_path, holes):
    """Do what `make audit` does, with an answerer of the test's in place of the advisories."""

    class Advisories(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = holes.get(asked["package"]["name"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [found]} if found else {}).encode())

        def log_message(self, *words):
            pass

    told = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True)
    steps = [
        line
        for line in told.stdout.splitlines()
        if re.match(r"\S+/(cyclonedx-py|pip-audit) ", line)
    ]
    assert len(steps) == 2
    (tmp_path / "runs").mkdir()
    shutil.copytree(ROOT / "infra", tmp_path / "infra")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1/query"
        for step in steps:
            name, words = Path(step.split()[0]).name, step.split()[1:]
            more = (
                ["--vulnerability-service", "osv", "--osv-url", address] if "audit" in name else []
            )
            done = subprocess.run(
                [tools / name, *words, *more],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
        server.shutdown()
    return done


def test_audit_lists_what_is_inside_and_finds_no_hole_where_none_is_known(tools, tmp_path):
    done = audit(tools, tmp_path, {})
    assert done.returncode == 0, done.stderr
    listed = json.loads((tmp_path / "runs" / "infill.cdx.json").read_text())["components"]
    assert {f"{each['name']}=={each['version']}" for each in listed} == {
        line
        for line in (ROOT / "infra" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    assert all(each["purl"].startswith("pkg:pypi/") for each in listed)


def test_audit_fails_at_a_package_with_a_known_hole(tools, tmp_path):
    package = {"ecosystem": "PyPI", "name": "jinja2"}
    hole = {
        "id": "PYSEC-2026-1",
        "summary": "for the test",
        "modified": "2026-01-01T00:00:00Z",
        "affected": [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": []}]}],
    }
    done = audit(tools, tmp_path, {"jinja2": hole})
    assert done.returncode == 1
    assert "PYSEC-2026-1" in done.stdout


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
