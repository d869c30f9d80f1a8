"""What docs/fidelity.md claims is what code and tests have."""

import gzip
import json
import re
from pathlib import Path

from infill.jobs import train_aotgan
from infill.models import architecture
from infill.pipeline.metrics.metric_registry import DECLARED

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
TEXT = " ".join(PAGE.split())
PAPERS = architecture.papers()
TITLES = {
    "SPN": "spn",
    "PEN-Net": "pennet",
    "MADF": "madf",
    "DeepGIN": "deepgin",
    "DeepFill v1": "deepfill",
    "DeepFill v2": "deepfill2",
    "LaMa": "lama",
    "AOT-GAN": "aotgan",
    "MI-GAN": "migan",
}
OF_THE_RELEASES = ROOT / "tests" / "data" / "state_dicts"
ROLES = ({"generator", "discriminator"}, {"netG", "netD"})


def cells(name: str) -> list[str]:
    """Return a network's row of the first table: paper, files, losses, what can be run."""
    [line] = re.findall(rf"^\| {name} \| (.*\d{{4}}.*) \|$", PAGE, flags=re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def listed_releases() -> dict[str, list[tuple[str, bool]]]:
    """Return the lists of released keys by network: their names, and whether of both networks."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for file in sorted(OF_THE_RELEASES.iterdir()):
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        stem = file.name.partition(".")[0]
        network = "spn" if stem == "spl" else stem.partition("_")[0]
        found.setdefault(network, []).append((stem, set(json.loads(data)) in ROLES))
    return found


def in_words(titles: str) -> set[str]:
    """Return the networks of titles in a sentence: "A, B and C"."""
    return {TITLES[title] for title in re.split(", | and ", titles)}


def test_every_paper_has_a_row_with_the_year_of_its_publication() -> None:
    assert sorted(TITLES.values()) == PAPERS
    for name in PAPERS:
        year = re.search(r"\b(20\d\d)\b", cells(name)[0])
        head = (ROOT / "models" / name / "__init__.py").read_text()[:500]
        assert year is not None
        assert year.group(1) in head, name


def test_released_files_are_those_whose_keys_and_shapes_the_tests_have() -> None:
    lists = listed_releases()
    for name, found in lists.items():
        files = cells(name)[1]
        assert sorted(quoted(files)) == [stem for stem, _ in found]
        assert ("generator and discriminator" in files) == all(both for _, both in found)
    match = re.search(r"every key and shape .* of the (\w+) papers and of (DeepFill v2),", TEXT)
    assert match is not None
    assert (match.group(1), len(lists)) == ("five", 6)
    match = re.search(r"The layers of ([^.]*) are matched with their releases by name", TEXT)
    assert match is not None
    assert in_words(match.group(1)) == set(PAPERS) - set(lists)
    for name in lists:
        tests = "".join(f.read_text() for f in (ROOT / "tests" / "models" / name).glob("*.py"))
        assert "state_dicts" in tests, name


def test_each_loss_term_is_read_by_a_test() -> None:
    for name in PAPERS:
        terms = set(architecture.load(name).symbols)
        tests = "".join(f.read_text() for f in (ROOT / "tests" / "models" / name).glob("*.py"))
        assert [term for term in terms if f'"{term}"' not in tests] == [], name


def test_the_networks_said_to_be_compared_whole_have_a_slow_form() -> None:
    match = re.search(r"The generators of ([^.]*?) are compared whole, in float64", TEXT)
    assert match is not None
    slow = {
        file.parent.name
        for file in (ROOT / "tests" / "models").glob("*/reference.py")
        if "def naive(" in file.read_text()
    }
    assert in_words(match.group(1)) == slow


def test_metrics_have_one_definition_each_where_the_page_says() -> None:
    [place] = re.findall(r"one definition each in `([^`]+)`", TEXT)
    assert (ROOT / place).read_text().count("DECLARED: tuple[Metric, ...]") == 1
    names = [metric.name for metric in DECLARED]
    assert len(set(names)) == len(names)
    assert {"psnr", "ssim", "l1", "fid"} <= set(names)


def test_figures_and_options_of_the_page_are_those_of_the_code() -> None:
    others = architecture.load("spn").others + architecture.load("madf").others
    assert "Other methods of SPN's Table 6 and MADF's Table IV stand there as printed" in TEXT
    assert {other.source.partition(",")[0] for other in others} >= {
        f"Table {number}" for number in ("6", "IV")
    }
    [pennet, *_] = architecture.load("pennet").variants()
    assert f"PEN-Net prints {pennet.published_time.replace(', ', ' on a ')}." in TEXT
    assert "--model.adversarial-form released" in TEXT
    forms = [preset.model.adversarial_form for preset in train_aotgan.PRESETS.values()]
    assert "released" not in forms  # an option, and no preset's choice
    macs = re.search(r"([\d.]+) G without refinements \(printed: ([\d.]+) G\) and ([\d.]+) G", TEXT)
    assert macs is not None  # compared with the code in tests/models/test_main.py
    assert macs.groups() == ("10.43", "22.13", "28.24")


def test_departures_and_papers_that_were_not_at_hand_are_named_where_the_page_says() -> None:
    for name in PAPERS:
        head = (ROOT / "models" / name / "__init__.py").read_text()
        assert "Where we differ" in head, name
        unread = name in ("aotgan", "migan", "lama", "deepfill2")
        assert ("not at hand" in " ".join(head.split())) == unread, name
    assert "Of AOT-GAN and MI-GAN only the released code was at hand" in TEXT
    assert "The texts of LaMa and DeepFill v2 were not at hand either" in TEXT
    for name in ("aotgan", "migan"):
        assert not architecture.load(name).tables


def test_departures_from_the_releases_are_named_in_their_networks() -> None:
    named = {
        "deepgin": ("mean of the area, where the code takes the bicubic", "for eleven epochs"),
        "spn": ("drops in the last third (after 50 of 75 epochs)", "the last quarter"),
        "pennet": ("``PENNetConfig.as_printed``", "sums over all maps of the decoder"),
        "lama": ("`generates_again`: as in the code, the updated generator runs again",),
    }
    for name, sentences in named.items():
        head = " ".join((ROOT / "models" / name / "__init__.py").read_text().split())
        assert all(sentence in head for sentence in sentences), name
