"""The image: linted, pinned, and its install commands executed in a clean environment."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
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


LOCK = ROOT / "infra" / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked() -> list[tuple[Requirement, list[str]]]:
    """Return every requirement of the lock with its hashes."""
    text = re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines()]
    return [(Requirement(words.strip()), [h.strip() for h in hashes]) for words, *hashes in lines]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_every_dependency_has_one_pin_within_its_bounds(python, system):
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_machine": "x86_64" if system == "linux" else "arm64",
        "extra": "",
    }
    pins: dict[str, list[str]] = {}
    for pin, _ in locked():
        if pin.marker is None or pin.marker.evaluate(machine):
            [version] = pin.specifier
            assert version.operator == "=="
            pins.setdefault(canonicalize_name(pin.name), []).append(version.version)
    assert python + ".0" in SpecifierSet(PROJECT["requires-python"])
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for text in PROJECT["dependencies"] + extras:
        dependency = Requirement(text)
        applies = dependency.marker is None or dependency.marker.evaluate(machine)
        if dependency.name != "infill" and applies:
            [version] = pins[canonicalize_name(dependency.name)]
            assert dependency.specifier.contains(version), text


def test_lock_has_hashes_and_names_neither_an_index_nor_a_folder():
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for _, hashes in locked() for h in hashes)
    assert all(hashes for _, hashes in locked())
    assert not any(pin.url for pin, _ in locked())
    assert not re.search(r"://|^\s*-[^-]|^--|--(index|find-links)", LOCK.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("torch", "shown"), [("cpu", "/one,/two"), ("cuda", "")])
def test_build_for_cuda_is_not_looked_for_among_the_given_files(torch, shown, tmp_path):
    """A build for CPUs among them would pass for it, since its version is the same."""
    (tmp_path / "show.mk").write_text('show:\n\t@echo "[$$UV_FIND_LINKS]"\n')
    words = ["make", "-s", "-f", "Makefile", "-f", tmp_path / "show.mk", "show", f"TORCH={torch}"]
    environment = {n: v for n, v in os.environ.items() if n not in ("UV_FIND_LINKS", "MAKEFLAGS")}
    environment["PIP_FIND_LINKS"] = "/one /two"
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"[{shown}]\n", done.stderr


def test_image_and_make_install_the_same_torch_with_the_same_installer():
    dockerfile, makefile = DOCKERFILE.read_text(), (ROOT / "Makefile").read_text()
    [pin] = [next(iter(pin.specifier)).version for pin, _ in locked() if pin.name == "torch"]
    assert re.findall(r"ARG TORCH=(\S+)\+cpu", dockerfile) == [pin]
    [cuda] = map(Requirement, PROJECT["optional-dependencies"]["cuda"])
    assert str(cuda.specifier) == f"=={pin}"
    [version] = re.findall(r"UV_VERSION := (\S+)", makefile)
    assert re.findall(r"uv==(\S+)", dockerfile) == [version]


@pytest.mark.parametrize("target", ["demo", "test", "check", "cluster", "docs"])
def test_targets_install_from_the_lock_and_torch_for_cpus_first(target):
    outer = (
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MFLAGS",
        "LOCKED",
        "TORCH",
    )  # of the make that runs this test
    printed = subprocess.run(
        ["make", "-n", "VENV=nowhere", target],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in outer},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cpu, rest = printed.index("--default-index https://download.pytorch.org/whl/cpu"), -1
    for found in re.finditer(r"uv pip install [^;|]*?--editable '\.\[\w+\]'", printed):
        rest = found.start()
        assert "--constraint infra/constraints.txt" in found.group()
        assert "--build-constraint infra/constraints.txt" in found.group()
        assert cpu < rest
    assert rest > 0


@pytest.fixture(scope="module")
def tools():
    """Install the tools of `make audit`, and return the folder of its commands."""
    made = Path(sys.prefix, "audit", "installed")
    subprocess.run(["make", f"VENV={sys.prefix}", made], cwd=ROOT, check=True, capture_output=True)
    return made.parent / "bin"


def audit(tools, tmp_path, lock, holes):
    """Run the steps of `make audit` on a lock, with a server of the test for the advisories."""

    class Advisories(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = holes.get(asked["package"]["name"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [found]} if found else {}).encode())

        def log_message(self, *words):
            pass

    printed = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True)
    steps = [
        line
        for line in printed.stdout.splitlines()
        if re.match(r"\S+/(cyclonedx-py|pip-audit) ", line)
    ]
    assert len(steps) == 2
    (tmp_path / "runs").mkdir()
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / LOCK.name).write_text(lock)
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
    done = audit(tools, tmp_path, LOCK.read_text(), {})
    assert done.returncode == 0, done.stderr
    listed = json.loads((tmp_path / "runs" / "infill.cdx.json").read_text())["components"]
    assert {(each["name"], f"=={each['version']}") for each in listed} == {
        (pin.name, str(pin.specifier)) for pin, _ in locked()
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
    [entry] = re.findall(r"^jinja2==(?:.*\\\n)*.*\n", LOCK.read_text(), flags=re.MULTILINE)
    done = audit(tools, tmp_path, entry, {"jinja2": hole})
    assert done.returncode == 1
    assert "PYSEC-2026-1" in done.stdout


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_install_commands_build_an_environment_in_which_jobs_run(tmp_path):
    """The build stage as it stands, with folders of the test's in place of the image's."""
    home, environment = tmp_path / "home", tmp_path / "opt"
    home.mkdir()
    wheels = os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    [torch] = re.findall(r"ARG TORCH=(\S+)", DOCKERFILE.read_text())
    place, stage, settings = home, 0, {}
    for name, words in instructions():
        stage += name == "FROM"
        words = words.replace("/opt/infill", str(environment))
        if stage != 1:
            continue
        if name == "ENV":
            pairs = dict(pair.split("=", 1) for pair in words.split())
            settings |= {n: v for n, v in pairs.items() if n != "PATH" and "NO_CACHE" not in n}
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
            words = words.replace('--default-index "${TORCH_INDEX}"', "")
            words = words.replace('"torch==${TORCH}"', f"'torch=={torch}'")
            words = words.replace("python -m venv", f"{sys.executable} -m venv")
            path = f"{environment}/bin:/usr/bin:/bin"
            done = subprocess.run(
                ["sh", "-c", words],
                cwd=place,
                env={**clean_environment(), **settings, "PATH": path, "UV_FIND_LINKS": wheels},
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-2000:]
    packages = next(environment.glob("lib/python3*/site-packages"))
    for package in ("torch", "ray", "pandas"):  # Before a process could write its own.
        assert list(packages.glob(f"{package}/__pycache__/*.pyc")), package
    job = [str(environment / "bin" / "python"), str(home / "jobs" / "train_spn.py"), "--help"]
    done = subprocess.run(
        job, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "places2" in done.stdout
    pip = str(environment / "bin" / "pip")
    assert subprocess.run([pip, "check"], capture_output=True, check=False).returncode == 0
    freeze = [pip, "list", "--format=json"]
    done = subprocess.run(freeze, capture_output=True, text=True, check=True)
    pins = {(canonicalize_name(pin.name), str(pin.specifier)[2:]) for pin, _ in locked()}
    held = {(canonicalize_name(p["name"]), p["version"]) for p in json.loads(done.stdout)}
    own = {"infill", "pip", "setuptools", "uv", "torch"}  # Python's venv brings pip and setuptools.
    assert {(name, version) for name, version in held if name not in own} <= pins
    assert ("torch", torch) in held


def clean_environment() -> dict[str, str]:
    """Return the environment without paths to this test's own packages."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "RAY_"))
    }
