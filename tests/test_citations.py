"""Every equation, section, table and figure that code and pages cite is one that its paper has."""

import re
from pathlib import Path

import pytest

from infill.models.architecture import papers
from infill.models.config import tables
from infill.pipeline.evaluation.published import PUBLISHED

ROOT = Path(__file__).parents[1]


def words(text: str) -> set[str]:
    """Return the words of a line."""
    return set(text.split())


def upto(last: int) -> set[str]:
    """Return the numbers from 1 to the last, as they are printed."""
    return {str(number) for number in range(1, last + 1)}


PAPERS: dict[str, dict[str, set[str]]] = {
    "spn": {
        "equation": upto(15),
        "table": upto(6),
        "figure": upto(13),
        "section": words(
            "1 2 2.1 2.2 2.2.1 2.2.2 2.2.3 3 3.1 3.1.1 3.1.2 3.2 3.3 3.3.1 3.3.2 4 4.1 "
            "4.1.1 4.1.2 4.1.3 4.2 4.2.1 4.2.2 4.3 4.3.1 4.3.2 "
            "4.4 4.4.1 4.4.2 4.5 4.5.1 4.5.2 4.6 4.7 5"
        ),
    },
    "pennet": {
        "equation": upto(11),
        "table": upto(6),
        "figure": upto(8),
        "section": words("1 2 3 3.1 3.2 3.3 4 4.1 4.2 4.3 5"),
    },
    "madf": {
        "equation": upto(8),
        "table": words("I II III IV"),
        "figure": upto(12),
        "section": {"I", "II", "III", "IV", "V"}
        | {f"III-{letter}" for letter in "ABCDE"}
        | {f"IV-{letter}" for letter in "ABCDEFGHI"},
    },
    "deepgin": {
        "equation": upto(7),
        "table": upto(2),
        "figure": upto(6),
        "section": words("1 2 3 4 4.2 5 5.1 5.2 6 6.1 6.2 7"),
    },
    "deepfill": {
        "table": upto(1),
        "figure": upto(16),
        "algorithm": upto(1),
        "section": words("1 2 2.1 2.2 3 4 4.1 4.2 5 5.1 6"),
        "appendix": set("ABCD"),
    },
}
"""The numbers that the text of each paper has, by kind. In the text at hand DeepFill v1's equations
and DeepGIN's network architecture have no number, so their sections are cited. Of other
networks no text is at hand: their citations are not checked."""
NAMES = {
    "SPN": "spn",
    "PEN-Net": "pennet",
    "MADF": "madf",
    "DeepGIN": "deepgin",
    "DeepFill v1": "deepfill",
    "DeepFill": "deepfill",
}
KINDS = {"eq": "equation", "sec": "section", "tab": "table", "fig": "figure", "alg": "algorithm"}
NUMBER = r"(?:[IVX]+(?:-[A-Z])?\b|[A-D]\b|\d+(?:\.\d+)*)"
CITATION = re.compile(
    r"\b(Eqs?\.|Equations?|Secs?\.|Sections?|Tables?|Figs?\.|Figures?|Algorithm|[Aa]ppendix)\s+"
    rf"({NUMBER}(?:(?:(?<=Eq\. \d),\s+|\s+and\s+|\s+to\s+|/){NUMBER})*)"
)
NAMED = re.compile(rf"({'|'.join(NAMES)}),?(?:'s)?\s+\"?$")
ELSEWHERE = re.compile(r"(RFC \d+|SIGGRAPH \d+|et al\.), $")
"""Documents other than the papers of our networks."""


def numbers(text: str) -> list[str]:
    """Return the numbers of a citation, with those between "2 to 4"."""
    found = re.findall(NUMBER, text)
    for first, last in re.findall(r"\b(\d+)\s+to\s+(\d+)", text):
        found += [str(number) for number in range(int(first), int(last))]
    return found


def default_paper(path: str, line: str) -> str:
    """Return the paper that a file, or a row of a table by its first column, is about."""
    if row := re.match(r"\| (\w+) \|", line):
        return row[1]
    found = re.match(r"(?:tests/)?models/(\w+)/|jobs/train_(\w+)\.py", path)
    return (found[1] or found[2]) if found else ""


def citations(path: str, text: str) -> list[tuple[str, str, str, str]]:
    """Return where, paper ("" if unnamed), kind and number of every citation in a file."""
    found = []
    for match in CITATION.finditer(text):
        before = text[: match.start()]
        line = before.rsplit("\n", 1)[-1]
        if ELSEWHERE.search(before):
            continue
        named = NAMED.search(before)
        paper = NAMES[named[1]] if named else default_paper(path, line)
        kind = KINDS.get(match[1][:3].lower().rstrip("."), "appendix")
        where = f"{path}:{before.count(chr(10)) + 1}"
        found += [(where, paper, kind, number) for number in numbers(match[2])]
    return found


def wrong(found: list[tuple[str, str, str, str]]) -> list[str]:
    """Return the citations of what no paper has, a sentence each."""
    return [
        f"{where}: {paper or 'no paper named'} has no {kind} {number}"
        for where, paper, kind, number in found
        if paper in ("", *PAPERS) and number not in PAPERS.get(paper, {}).get(kind, set())
    ]


def cited() -> list[tuple[str, str, str, str]]:
    files = [
        file
        for folder in ("models", "pipeline", "jobs", "docs", "tests")
        for suffix in ("py", "md")
        for file in sorted((ROOT / folder).rglob(f"*.{suffix}"))
        if file != Path(__file__)
    ]
    files += [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    return [
        one
        for file in files
        for one in citations(file.relative_to(ROOT).as_posix(), file.read_text())
    ]


def test_every_citation_is_in_the_text_of_its_paper() -> None:
    found = cited()
    assert {paper for _, paper, _, _ in found} >= set(PAPERS)
    assert "\n".join(wrong(found)) == ""


def test_networks_without_a_text_say_that_their_citations_are_not_checked() -> None:
    others = set(papers()) - set(PAPERS)
    assert others == {"aotgan", "deepfill2", "lama", "migan"}
    for name in others:
        said = " ".join((ROOT / "models" / name / "__init__.py").read_text().split())
        assert "text is not at hand" in said, name
        cites = [one for one in cited() if one[0].startswith(f"models/{name}/")]
        assert "not checked" in said if cites else "is cited here" in said, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The loss (Eq. 6, 9 and 10).", ["6", "9", "10"]),
        ("All of them (Eq. 2 to 4)", ["2", "4", "2", "3"]),
        ("MADF, Table IV", ["IV"]),
        ("see Sec. III-C)", ["III-C"]),
        ("(PEN-Net, Fig. 7-8)", ["7"]),
    ],
)
def test_citations_are_read(text: str, expected: list[str]) -> None:
    assert [number for *_, number in citations("models/pennet/x.py", text)] == expected


def test_a_number_that_a_paper_lacks_is_found() -> None:
    path = "models/deepgin/objective.py"
    assert wrong(citations(path, "hinge (Eq. 9)")) == [f"{path}:1: deepgin has no equation 9"]
    assert wrong(citations(path, "hinge (Eq. 3)")) == []
    assert wrong(citations("pipeline/x.py", "as in Table 1")) == [
        "pipeline/x.py:1: no paper named has no table 1"
    ]
    assert wrong(citations("pipeline/x.py", "as in SPN, Table 7")) == [
        "pipeline/x.py:1: spn has no table 7"
    ]


def test_figures_from_memory_are_marked_wherever_they_stand() -> None:
    """The text of DeepFill v1 at hand has Table 1 without figures, such as a PSNR of 18.91."""
    holders = [
        file
        for folder in ("models", "pipeline", "jobs", "docs")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".py", ".md") and re.search(r"\b18\.91\b", file.read_text())
    ]
    assert len(holders) >= 3
    for file in holders:
        for figure in re.finditer(r"\b18\.91\b", file.read_text()):
            around = file.read_text()[max(0, figure.start() - 800) : figure.end() + 200]
            assert "memory" in around, file
    assert "from memory" in PUBLISHED["deepfill-places2"][0].source
    assert "from memory" in tables("deepfill")["table1"].title


def test_spn_has_the_title_of_its_paper_everywhere() -> None:
    found = [
        path
        for folder in ("models", "pipeline", "jobs", "docs")
        for path in (*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md"))
        if "semantic prior network" in " ".join(path.read_text().split()).lower()
    ]
    assert not found, "that is not what SPN stands for"
    title = "Fully Context-Aware Image Inpainting with a Learned Semantic Pyramid"
    for path in ("models/spn/__init__.py", "pipeline/evaluation/protocols.py"):
        text = " ".join((ROOT / path).read_text().split())
        assert title in text, path
