"""What the pages under docs/ show is what happens."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config, launching

ROOT = Path(__file__).parent.parent


def fences(page: str, language: str) -> list[str]:
    """Return the blocks of code of one language; "" is that of commands."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page writes out: the first line of each names its place."""
    found = [re.fullmatch(r"# (\S+\.py)\n(.*)", b, re.DOTALL) for b in fences(page, "python")]
    return {match.group(1): match.group(2) for match in found if match}


def commands(page: str) -> list[str]:
    return [line for block in fences(page, "") for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_architecture_of_the_page_trains_keeps_every_promise_and_is_evaluated(tmp_path):
    for room in ("models", "pipeline", "jobs", "tests/models"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, tmp_path / room, ignore=ignored)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = {place: place.read_bytes() for place in tmp_path.rglob("*.py")}
    for name, text in files_of("new-architecture.md").items():
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        assert place not in before
        place.write_text(text)
    asked = commands("new-architecture.md")
    assert len(asked) == 3
    for command in asked:
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if "pytest" in command:
            passed = re.search(r"(\d+) passed", done.stdout)
            assert passed, done.stdout
            assert int(passed.group(1)) > 20
    assert all(place.read_bytes() == text for place, text in before.items())


def test_links_between_pages_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith(("http:", "https:", "#")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def command_lines() -> list[tuple[str, str]]:
    """Return every call of a job that README, pages and jobs show, with where it stands."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = []
    for page in (*pages, *sorted((ROOT / "jobs").glob("*.py"))):
        for line in page.read_text().replace("\\\n", " ").splitlines():
            if match := re.match(r"(?:ray job submit .* -- )?(python jobs/\w+\.py\b.*)", line):
                found.append((page.name, match.group(1).partition("  #")[0]))
    return found


def test_every_command_that_is_shown_is_understood_by_its_job(monkeypatch):
    class Understood(BaseException):
        pass

    def then_stop(parse):
        def parse_and_stop(*words, **named):
            parse(*words, **named)
            raise Understood

        return parse_and_stop

    shown = command_lines()
    assert len(shown) > 40
    for page, command in shown:
        script, *words = shlex.split(command)[1:]
        if script == "jobs/train_plain.py":
            continue  # Run from end to end above.
        module = importlib.import_module(f"jobs.{Path(script).stem}")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [script, *words])
            for holder in (module, launching):
                for name in ("parse", "parse_one"):
                    if hasattr(holder, name):
                        patch.setattr(holder, name, then_stop(getattr(config, name)))
            try:
                module.main()
            except Understood:
                continue
            except SystemExit as end:
                pytest.fail(f"{page}: {command}: status {end.code}")
        pytest.fail(f"{page}: {command}: nothing was read")
