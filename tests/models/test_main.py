"""The table of all networks: its counts, the published figures, and its JSON form."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from infill.models import architecture
from infill.models.__main__ import main, rows_of
from infill.models.architecture import Variant
from infill.models.flops import Size, difference, size_of, without_files
from infill.models.spn.config import SPNConfig

ROOT = Path(__file__).parents[2]
every_architecture = pytest.mark.parametrize("name", architecture.names())

PUBLISHED_GMACS = {
    ("spn", "full"): 363.453,
    ("spn", "spl"): 210.788,
    ("spn", "probabilistic"): 345.887,
    ("deepgin", "full"): 32.180,
    ("deepgin", "standard-mssa"): 32.007,
    ("deepgin", "coarse"): 13.202,
    ("madf", "k0"): 10.4328,
    ("madf", "full"): 28.2606,
}
"""Counted in the released networks, whose forms compute as much as ours within a percent."""

counted = cache(size_of)


@every_architecture
def test_no_count_differs_from_what_is_published(name: str) -> None:
    paper = architecture.load(name)
    variants = paper.variants()
    assert variants[0].name == "full"
    assert len({variant.name for variant in variants}) == len(variants)
    assert any(variant.published for variant in variants) or not paper.has_paper
    for variant in variants:
        assert variant.config.architecture == name
        assert variant.source or not paper.has_paper
        assert difference(variant, counted(variant.config)) in (0, None), variant.name


@every_architecture
def test_counts_on_paper_are_those_of_networks_built(name: str) -> None:
    paper = architecture.load(name)
    config = paper.config.tiny()
    objective = paper.objective(config, lambda network: network)
    size = size_of(config)
    assert size.generator == sum(p.numel() for p in objective.generator.parameters())
    others = [network for role, network in objective.networks.items() if role != "generator"]
    trained = sum(p.numel() for n in others for p in n.parameters() if p.requires_grad)
    assert size.discriminators == trained


@pytest.mark.parametrize(("name", "row"), PUBLISHED_GMACS)
def test_multiply_accumulates_are_those_of_the_released_network(name: str, row: str) -> None:
    configs = {variant.name: variant.config for variant in architecture.load(name).variants()}
    gmacs = counted(configs[row]).macs / 1e9
    assert gmacs == pytest.approx(PUBLISHED_GMACS[name, row], rel=0.01)


@pytest.mark.parametrize(
    ("row", "ours", "printed"), [("k0", "10.43", "22.13G"), ("full", "28.24", "51.77G")]
)
def test_the_flops_of_madf_s_table_iv_stand_beside_ours(row: str, ours: str, printed: str) -> None:
    [variant] = [v for v in architecture.load("madf").variants() if v.name == row]
    assert f"{counted(variant.config).macs / 1e9:.2f}" == ours
    assert variant.source.endswith(f": {printed} FLOPs")


def test_counts_of_the_fidelity_page_are_those_of_the_code() -> None:
    shown = re.findall(
        r"^\| (\w+) \| ([\w-]+) \| ([\d,]+) \| ([^|]*) \| ([^|]*) \|$",
        (ROOT / "docs" / "fidelity.md").read_text(),
        flags=re.MULTILINE,
    )
    found = [
        (
            str(row["network"]),
            str(row["variant"]),
            f"{row['generator']:,}",
            str(row["published"] or ""),
            str(row["source"]),
        )
        for name in architecture.names()
        for row in rows_of(name)
        if row["generator"] and row["source"]  # neither other methods' figures nor own networks
    ]
    assert [tuple(cell.strip() for cell in row) for row in shown] == found


def test_attention_by_algebra_takes_fewer_multiplications_than_by_patches() -> None:
    assert counted(architecture.load("pennet").variants()[0].config).macs < 25.66e9 / 2
    assert counted(architecture.load("deepfill").variants()[0].config).macs < 23.2e9


@pytest.mark.parametrize(
    ("published", "ours", "expected"),
    [
        ("", 5, None),
        ("8.168M", 8_168_499, 0),
        ("8.168M", 8_168_500, 1),
        ("8.168M", 8_166_900, -1),
        ("50M", 50_400_000, 0),
        ("12,345", 12_340, -5),
    ],
)
def test_difference_is_in_the_last_digit_printed(
    published: str, ours: int, expected: int | None
) -> None:
    variant = Variant(name="full", config=SPNConfig(), published=published)
    assert difference(variant, Size(generator=ours, discriminators=7, macs=0)) == expected
    everything = replace(variant, counts="everything")
    apart = Size(generator=ours - 7, discriminators=7, macs=0)
    assert difference(everything, apart) == expected


def test_frozen_networks_need_no_file_to_be_counted_beside() -> None:
    assert without_files(SPNConfig()).teacher == "random"
    assert without_files(SPNConfig(teacher="edge")).teacher == "edge"


def test_table_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deepfill2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert main(["deepfill2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(table) == len(rows) + 1
    for line, row in zip(table[1:], rows, strict=True):
        assert line.split()[:3] == [row["network"], row["variant"], f"{row['generator']:,}"]
    assert rows[0]["published"] == "4,052,478"
    assert rows[1]["difference"] is None


def test_times_of_spn_s_table_6_stand_beside_those_of_this_machine(
    monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = architecture.load("spn")
    printed = {v.name: v.published_time for v in paper.variants() if v.published_time}
    assert printed == {  # SPN, Table 6; the probabilistic figure stands in SPN, Sec. 4.6.
        "full": "0.05 s, RTX 3090",
        "spl": "0.04 s, RTX 3090",
        "probabilistic": "0.07 s, RTX 3090",
    }
    [full, *_] = architecture.load("pennet").variants()
    assert full.published_time == "0.19 s, TITAN V"  # PEN-Net, Sec. 4.1
    tiny = tuple(
        replace(v, config=SPNConfig.tiny(), published="")
        for v in paper.variants()
        if v.name in ("full", "blocks-4")
    )
    small = replace(paper, variants=lambda: tiny, others=paper.others[:1])
    monkeypatch.setattr(architecture, "load", lambda name: small)
    assert main(["spn", "--time", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["seconds"] is not None for row in rows] == [True, True, False]
    assert all(row["seconds"] > 0 for row in rows[:2])
    times = [row["published_time"] for row in rows]
    assert times == ["0.05 s, RTX 3090", None, "0.03 s, RTX 3090"]
    assert main(["spn", "--time"]) == 0
    head, full, _, other = capsys.readouterr().out.splitlines()
    assert head.endswith("time published")
    assert re.search(r" \d+\.\d{3} +0\.05 s, RTX 3090$", full)
    words = r"spn +EdgeConnect +21M +Tab\w+ \d, as printed; not run here +0\.03 s, RTX 3090"
    assert re.fullmatch(words, other)


def test_figures_of_other_methods_are_those_printed_and_marked_so() -> None:
    spn, madf = (architecture.load(name).others for name in ("spn", "madf"))
    printed = {o.name: (o.published, o.published_time) for o in spn if "able 6" in o.source}
    assert printed == {  # SPN, Table 6
        "EdgeConnect": ("21M", "0.03 s, RTX 3090"),
        "MFE": ("130M", "0.05 s, RTX 3090"),
        "RFR": ("30M", "0.02 s, RTX 3090"),
        "RN": ("11M", "0.04 s, RTX 3090"),
        "WF": ("49M", "0.06 s, RTX 3090"),
        "CTSDG": ("52M", "0.05 s, RTX 3090"),
    }
    several = {o.name: (o.published, o.published_time) for o in spn if "4.6" in o.source}
    assert several == {"PIC": ("10M", "0.03 s, RTX 3090"), "DSI": ("256M", "25 s, RTX 3090")}
    flops = {o.name: o.source.rpartition(": ")[2] for o in madf}
    assert flops == {  # MADF, Table IV
        "LBAM": "22.11G FLOPs",
        "GConv": "55.51G FLOPs",
        "EdgeConnect": "122.67G FLOPs",
        "Contextual Attention": "51.62G FLOPs",
    }
    assert all("as printed; not run here" in other.source for other in (*spn, *madf))


def test_difference_ends_with_status_1(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    paper = architecture.load("pennet")
    wrong = (replace(paper.variants()[0], published="10.3M"),)
    monkeypatch.setattr(architecture, "load", lambda name: replace(paper, variants=lambda: wrong))
    assert main(["pennet"]) == 1
    assert " -1 " in capsys.readouterr().out


def test_unknown_network_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nonesuch"])
    assert ended.value.code == 2
    assert "spn" in capsys.readouterr().err
