import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from infill.pipeline.image_grid import encode_png
from infill.pipeline.reporting import (
    Section,
    facts,
    figure,
    format_csv,
    format_table,
    paragraphs,
    preformatted,
    slider,
    stack,
    table,
    write_report,
)


class Page(HTMLParser):
    """Collects tags, attributes and text, and proves that every element is closed."""

    VOID = ("meta", "img", "path", "line", "input")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for n, v in attributes if n in ("src", "href", "xlink:href") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


@pytest.fixture
def page(tmp_path: Path) -> str:
    hostile = "<script>alert('x')</script> & \"quoted\""
    png = encode_png(np.full((8, 16, 3), 90, np.uint8))
    sections = [
        Section(title=hostile, body=paragraphs(hostile)),
        Section(title="Facts", body=facts({hostile: hostile, "step": 7})),
        Section(
            title="Table", body=table(["method", hostile], [[hostile, None]], hostile, [(0, 1)])
        ),
        Section(title="Picture", body=stack(figure(png, hostile, hostile), preformatted(hostile))),
    ]
    location = tmp_path / "deep" / "report.html"
    write_report(str(location), hostile, sections, summary=hostile)
    assert [p.name for p in location.parent.iterdir()] == ["report.html"]
    return location.read_text()


def test_facts_are_words_of_a_command_line_and_none_is_empty():
    shown = facts(
        {
            "mixture": (("strokes", 2.0), ("box", 1.0)),
            "union": False,
            "folder": "",
            "images": None,
            "metrics": (),
            "seed": 0,
        }
    )
    read = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", shown)
    assert read == [("mixture", "strokes 2.0 box 1.0"), ("union", "false"), ("seed", "0")]


def test_report_is_one_well_formed_file_that_fetches_nothing(page: str):
    parsed = Page(page)
    assert all(a.startswith(("#section-", "data:image/png;base64,")) for a in parsed.addresses)
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert "url(" not in page
    assert "@import" not in page


def test_every_text_of_a_report_is_escaped_and_shown(page: str):
    assert page.count("&lt;script&gt;") >= 10
    assert "<script>" not in page
    assert Page(page).text.count("<script>alert('x')</script> & \"quoted\"") >= 10


def test_report_links_each_section_from_three_on(page: str):
    parsed = Page(page)
    assert [a for a in parsed.addresses if a.startswith("#")] == [
        f"#section-{n}" for n in range(1, 5)
    ]
    assert all(f'id="section-{n}"' in page for n in range(1, 5))


def test_report_adapts_to_dark_screens_phones_and_paper(page: str):
    for rule in ("prefers-color-scheme: dark", "max-width: 32rem", "@media print", "viewport"):
        assert rule in page


def test_missing_value_is_a_dash_and_the_best_is_stressed():
    html = table(
        ["method", "a", "b"], [["spn", "1.0", None], ["telea", "2.0", "3.0"]], strong=[(1, 2)]
    )
    assert "<td>–</td>" in html
    assert html.count("<strong>") == 1
    assert "<td><strong>3.0</strong></td>" in html
    assert '<th scope="row">spn</th>' in html


def test_figure_carries_its_own_bytes_and_size():
    png = encode_png(np.zeros((8, 16, 3), np.uint8))
    html = figure(png, "black")
    assert 'width="16" height="8"' in html
    assert 'alt="black"' in html


def test_text_table_is_aligned_markdown():
    text = format_table(["method", "PSNR"], [["spn", "23.1"], ["mean-fill", None], ["a|b", "9"]])
    assert text.splitlines() == [
        "| method    | PSNR |",
        "| --------- | ---: |",
        "| spn       | 23.1 |",
        "| mean-fill |    – |",
        "| a\\|b      |    9 |",
    ]


def test_csv_is_read_back_as_written():
    rows = [["spn, wide", 23.125, None], ['a "b"', 1, 2.5]]
    found = list(csv.reader(io.StringIO(format_csv(["method", "x", "y"], rows))))
    assert found == [["method", "x", "y"], ["spn, wide", "23.125", ""], ['a "b"', "1", "2.5"]]


@pytest.mark.parametrize("form", [table, format_table, format_csv])
def test_row_of_another_length_is_refused(form):
    with pytest.raises(ValueError, match="a row of 1 cells under 2 headers"):
        form(["a", "b"], [["x"]])


def test_slider_holds_both_images_and_answers_to_a_range_input():
    black, white = (encode_png(np.full((8, 16, 3), level, np.uint8)) for level in (0, 255))
    html = slider(black, white, "first <1>", "second", "a caption")
    parsed = Page(html)
    assert len({a for a in parsed.addresses if a.startswith("data:")}) == 2
    assert parsed.tags.count("img") == 2
    assert "first &lt;1&gt;" in html
    assert 'type="range"' in html
    assert "a caption" in parsed.text


def test_rows_from_elsewhere_are_set_apart():
    html = table(["system", "a"], [["ours", "1"], ["theirs", "2"]], quoted=[1])
    ours, theirs = (line for line in html.splitlines() if line.startswith("<tr") and "<td" in line)
    assert "quoted" not in ours
    assert 'class="quoted"' in theirs
