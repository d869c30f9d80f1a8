"""The commands on the pages under docs/ print what the pages show."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from infill.models import architecture
from infill.models.config import tables
from infill.pipeline import checkpoints, config, registry, train_cli

ROOT = Path(__file__).parent.parent
PAGES = sorted(place.name for place in (ROOT / "docs").glob("*.md"))
IN_A_SHELL = (
    "index.md",
    "photographs.md",
    "training.md",
    "sweeps.md",
    "evaluation.md",
    "serving.md",
    "fidelity.md",
    "faq.md",
)
"""Run below from their first command to their last, in this order; the others elsewhere."""
OWN_RAY = "index.md"
"""Its commands start Rays of their own, as they do for a reader; those of the others join one."""
SERVE = "python jobs/serve.py --model spn@champion --port"
"""The command of another page that starts one, too."""
RAY = """
import sys
import ray
from infill.pipeline.cluster import start_ray

size = {"num_cpus": 4, "object_store_memory": 200 * 2**20}
start_ray(address="local", **size, include_dashboard=True, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
"""Runs the one that they join. Its workers are forked, which costs seconds less of each."""
GENERATED = {
    "commands": ("infill batch-inpaint", "jobs/train_NAME.py"),
    "fidelity": ("hole_coarse", "lambdas-probabilistic"),
    "configuration": ("shuffle_window_shards", "max_hole_ratio", "image_weight"),
    "metrics": ("hole_psnr", "uniform_ssim_51", "lpips"),
}
"""Names that tables of the site take from the source."""
MARK = re.compile(r'sh title="(needs|takes) [^"]+"')
"""Marks of commands that no test can run, with their requirements, for the reader."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the blocks of code of a page: the text behind the first fence, and the code."""
    text = (ROOT / page).read_text()
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def fences(page: str, language: str) -> list[str]:
    """Return the blocks of code of one language; "" is that of commands."""
    return [block for kind, block in blocks(f"docs/{page}") if kind == language]


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page writes out: the first line of each part names its place."""
    found: dict[str, str] = {}
    for block in fences(page, "python"):
        if match := re.fullmatch(r"# (\S+\.py)(?:, continued)?\n(.*)", block, re.DOTALL):
            path, text = match.groups()
            found[path] = f"{found[path]}\n\n{text}" if path in found else text
    return found


def in_one_line(text: str) -> str:
    """Return commands without the breaks that a page has for its readers."""
    return re.sub(r" \\\n +", " ", text)


def commands(page: str) -> list[str]:
    return [line for block in fences(page, "") for line in in_one_line(block).splitlines()]


OF_EVERY_MODEL = (
    "tests/test_lazy.py",
    "tests/models/test_main.py",
    "tests/models/test_optimizers.py",
    "tests/models/test_updating.py",
    "tests/models/test_visualize.py",
    "tests/jobs/test_help.py",
    "tests/jobs/test_jobs.py",
    "tests/jobs/test_recipes.py",
    "tests/jobs/test_import_weights.py",
    "tests/jobs/test_training_jobs.py",
)
"""Tests that find the models by their names, each for one."""
OF_ALL_MODELS = (
    "tests/test_layout.py",
    "tests/test_fidelity.py",
    "tests/test_citations.py",
    "tests/test_docs.py::test_the_fidelity_page_names_the_tables_that_can_be_run_and_no_other",
)
"""Tests that compare a list with all models."""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_architecture_of_the_page_trains_keeps_every_promise_and_is_evaluated(tmp_path):
    for folder in ("infill", "models", "pipeline", "jobs", "tests", "docs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = {place: place.read_bytes() for place in tmp_path.rglob("*.py")}
    written = files_of("new-architecture.md")
    assert len(written) == 3
    for name, text in written.items():
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        assert place not in before
        place.write_text(text)
    asked = commands("new-architecture.md")
    assert len(asked) == 3
    asked.append(f"python -m pytest {' '.join(OF_EVERY_MODEL)} -k plain")
    asked.append(f"python -m pytest {' '.join(OF_ALL_MODELS)}")
    for command in asked:
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if "pytest" in command:
            passed = re.search(r"(\d+) passed", done.stdout)
            assert passed, done.stdout
            assert int(passed.group(1)) > 22
    assert all(place.read_bytes() == text for place, text in before.items())
    jobs = [place for place in sorted((tmp_path / "jobs").glob("*.py")) if place.stem != "__init__"]
    assert len(jobs) > 15
    asked = [[place, "--help"] for place in jobs]
    asked.append([tmp_path / "jobs" / "tune.py", "plain", "--scale", "smoke", "--space", "nothing"])
    asked.append([tmp_path / "jobs" / "tune.py", "plain", "--scale", "paper"])
    for words in asked:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        assert done.returncode == (0 if "--help" in words else 1), words
    assert "has no preset 'paper' to search around; it has" in done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_command_that_no_test_runs_says_what_it_needs(page):
    elsewhere = {
        "cluster.md": ROOT / "tests/infra/test_local.py",
        "new-architecture.md": Path(__file__),
    }
    for kind, block in blocks(f"docs/{page}"):
        assert kind in ("", "python") or MARK.fullmatch(kind), f"{page}: {kind!r} over {block}"
        if kind == "":
            assert page in IN_A_SHELL or f'"{page}"' in elsewhere[page].read_text(), block


def test_readme_shows_what_the_pages_show():
    shown = in_one_line("\n".join((ROOT / "docs" / page).read_text() for page in PAGES))
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for _, block in blocks("README.md"):
        if block.startswith("pipeline/ "):
            continue  # The map.
        for line in block.splitlines():
            command = line.partition("  #")[0].strip()
            target = re.fullmatch(r"make (\w+)", command)
            assert (target and target.group(1) in targets) or command in shown, line


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """Yield a new checkout with a reader's files: photographs, some with a mask."""
    desk = tmp_path_factory.mktemp("reader") / "infill"
    for name in ("infill", "jobs", "models", "pipeline", "infra", "docs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, desk / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "Makefile", "README.md", "LICENSE", "mkdocs.yml"):
        shutil.copy(ROOT / name, desk / name)
    random = np.random.default_rng(3)
    for folder in ("home/photos", "pictures", "holes"):
        (desk / folder).mkdir(parents=True)
    hole = np.zeros((96, 128), np.uint8)
    hole[30:60, 40:80] = 255
    for number in range(24):
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        picture = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(desk / f"home/photos/{number}.jpg"), picture)
        if number < 2:
            cv2.imwrite(str(desk / f"pictures/{number}.png"), picture)
            cv2.imwrite(str(desk / f"holes/{number}.png"), hole)
    cv2.imwrite(str(desk / "photo.jpg"), picture)
    cv2.imwrite(str(desk / "hole.png"), hole)
    return desk


class Reader:
    """A reader who runs the pages' commands, page after page, each page once."""

    def __init__(self, desk: Path, shell: Callable[[Sequence[str], Path, Mapping[str, str]], str]):
        self.desk, self.shell = desk, shell
        self.head: subprocess.Popen[str] | None = None
        self.address = ""
        self.said: dict[str, str] = {}
        self.failed = ""

    def after(self, page: str) -> str:
        """Return the output of a page's commands, after those of the pages before it."""
        for name in IN_A_SHELL[: IN_A_SHELL.index(page) + 1]:
            if name not in self.said:
                assert not self.failed, f"{self.failed} has failed, on which {page} builds"
                self.failed = name
                self.said[name] = self.shell(*self._of(name))
                self.failed = ""
        return self.said[page]

    def _of(self, page: str) -> tuple[list[str], Path, dict[str, str]]:
        """Return commands, folder and environment: that of the first page, nothing else of ours."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name == "RAY_TMPDIR" or not name.startswith(("RAY_", "VIRTUAL_ENV", "PYTHON"))
        }
        words = fences(page, "")
        if page != IN_A_SHELL[0]:
            words = ["source .venv/bin/activate", *words]
            environment["HOME"] = str(self.desk / "home")
        if page != OWN_RAY:
            environment["RAY_AUTH_MODE"] = "disabled"
            environment["RAY_ADDRESS"] = self._ray(environment)
            alone = f"env -u RAY_ADDRESS -u RAY_AUTH_MODE {SERVE}"
            words = [block.replace(SERVE, alone) for block in words]
        return words, self.desk, environment

    def _ray(self, environment: Mapping[str, str]) -> str:
        """Start a Ray from the environment that the first page has made, once."""
        if self.head is None:
            self.head = subprocess.Popen(
                [self.desk / ".venv" / "bin" / "python", "-c", RAY],
                env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
                cwd=self.desk,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self.head.stdout is not None
            self.address = self.head.stdout.readline().strip()
            assert self.address, "Ray has not started"
        return self.address

    def leave(self) -> None:
        if self.head is not None:
            self.head.communicate()


@pytest.fixture(scope="module")
def reader(desk, in_one_shell) -> Iterator[Reader]:
    reader = Reader(desk, in_one_shell)
    yield reader
    reader.leave()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", IN_A_SHELL)
def test_page_runs_from_its_first_command_to_its_last(reader, page):
    assert "Traceback" not in reader.after(page)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(3000)
def test_pages_leave_what_they_promise(desk, reader):
    """After the pages: pictures whose known pixels are as they were sent."""
    reader.after(IN_A_SHELL[-1])
    known = cv2.imread(str(desk / "hole.png"), cv2.IMREAD_GRAYSCALE) < 128
    photo = cv2.imread(str(desk / "photo.jpg"))
    for name in ("filled.png", "filled-by-client.png"):
        filled = cv2.imread(str(desk / name))
        assert np.array_equal(filled[known], photo[known]), name
        assert not np.array_equal(filled, photo), name
    for name in ("filled", "filled-by-endpoint", "filled-offline"):
        assert len(list((desk / name).glob("*.png"))) >= 2, name
    own = desk / "docs" / "pictures"
    known = cv2.imread(str(own / "hole.png"), cv2.IMREAD_GRAYSCALE) < 128
    photo, filled = cv2.imread(str(own / "photo.jpg")), cv2.imread(str(desk / "first-fill.png"))
    assert np.array_equal(filled[known], photo[known])
    assert not np.array_equal(filled, photo)
    for name in ("runs/evaluation", "runs/mine-scores", "runs/sweep/choice"):
        assert "<table" in (desk / name / "report.html").read_text(), name
    assert list((desk / "runs/compared").glob("*.html"))
    assert reader.after("index.md").count("was complete already") == 1
    searched = reader.after("sweeps.md")
    assert "trial 2/2" in searched
    assert "trial 3/3" in searched
    rows = [line.split("|") for line in searched.splitlines() if line.startswith("| N = ")]
    assert [row[1].strip() for row in rows] == ["N = 4", "N = 8", "N = 12"]
    # Row, SSIM, printed, PSNR, printed, ...
    assert [row[5].strip() for row in rows] == ["29.40", "29.69", "29.61"]
    assert all(float(row[4].split("±")[0]) > 3 for row in rows)


def test_program_of_the_library_page_does_what_the_page_says(tmp_path, monkeypatch):
    """Its blocks run one after the other, as in a notebook, beside a run and a registry."""
    random, side = np.random.default_rng(4), (96, 128)
    photo = cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), side[::-1])
    hole = np.zeros(side, np.uint8)
    hole[30:60, 40:80] = 255
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", photo)
    cv2.imwrite("hole.png", hole)
    paper = architecture.load("spn")
    model = paper.config.tiny()
    for step, score in ((1, 20.0), (2, 10.0)):
        torch.manual_seed(step)
        checkpoints.export(
            checkpoints.step_location("runs/spn", step),
            {"generator": paper.generator(model).state_dict()},
            {"model": config.to_dict(model), "data": {"image_size_px": 64}},
            {"step": step, "scores": {"hole_psnr": score}},
        )
    registry.register(
        registry.RegistryConfig(), "runs/spn", "spn", registry.Lineage(configuration={})
    )
    names: dict[str, Any] = {}
    for block in fences("library.md", "python"):
        exec(block, names)
    result, known = np.asarray(names["result"]), hole == 0
    np.testing.assert_array_equal(result, names["array"])
    np.testing.assert_array_equal(result[known], names["photo"][known])
    assert not np.array_equal(result, names["photo"])
    one, other = (names[name].predictor.generator.state_dict() for name in ("newest", "best"))
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert names["fast"].predictor.precision == "bfloat16"


def test_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    """A link or an anchor that leads nowhere is a warning, and a warning ends it."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for page in PAGES:
        built = tmp_path / ("" if page == "index.md" else page.removesuffix(".md")) / "index.html"
        fetched = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?([^\" >]+)", built.read_text()
        )
        assert fetched
        assert not [address for address in fetched if address.startswith(("http", "//"))], page
    for page, words in GENERATED.items():
        text = (tmp_path / page / "index.html").read_text()
        assert "<!-- table" not in text
        assert not [word for word in words if f"<code>{word}</code>" not in text], page


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_what_comes_out(page):
    """In a small picture, with a text for those who cannot see it."""
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", (ROOT / "docs" / page).read_text())
    assert shown
    for text, picture in shown:
        assert len(text.split()) > 5, picture
        assert (ROOT / "docs" / picture).stat().st_size < 250_000, picture


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text()):
        if not target.startswith(("http:", "https:", "#")):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_fidelity_page_names_the_tables_that_can_be_run_and_no_other():
    text = (ROOT / "docs" / "fidelity.md").read_text()
    roman = {"2": "II", "3": "III", "4": "IV"}
    for name in architecture.papers():
        [line] = re.findall(rf"^\| {name} \| .*\d{{4}}.* \|$", text, flags=re.MULTILINE)
        shown = line.split("|")[-2]
        keys = {re.sub(r"-.*", "", key) for key in tables(name)}
        numbers = {key.removeprefix("table").removeprefix("figure") for key in keys}
        listed = re.findall(r"(?:Tables?|Figures?) ([\dIV]+)(?: and ([\dIV]+))?", shown)
        found = {number for pair in listed for number in pair if number}
        assert found == {roman[n] if name == "madf" else n for n in numbers}, name


def command_lines() -> list[tuple[str, str]]:
    """Return every call of a job that README, pages and jobs show, with where it stands."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = []
    for page in (*pages, *sorted((ROOT / "jobs").glob("*.py"))):
        for line in in_one_line(page.read_text()).splitlines():
            if match := re.match(r"(?:ray job submit .* -- )?(python jobs/\w+\.py\b.*)", line):
                command = match.group(1).partition("  #")[0]
                found.append((page.name, re.sub(r" (&|> \S+)$", "", command)))
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
        module = importlib.import_module(f"infill.jobs.{Path(script).stem}")
        with monkeypatch.context() as patch:
            for holder in (module, train_cli):
                for name in ("parse", "parse_one"):
                    if hasattr(holder, name):
                        patch.setattr(holder, name, then_stop(getattr(config, name)))
            try:
                module.main(words)
            except Understood:
                continue
            except SystemExit as end:
                if "--help" in words and not end.code:
                    continue
                pytest.fail(f"{page}: {command}: status {end.code}")
        pytest.fail(f"{page}: {command}: nothing was read")
