"""The pages on serving say what the code does: limits, routes, headers and fields."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from starlette.routing import Match

from infill.pipeline.serving.errors import CODES
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.auth import ApiKey
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.middleware import is_open
from infill.pipeline.serving.http.responses import facts_of
from infill.pipeline.serving.http.schemas import RequestFields
from infill.pipeline.serving.limits import LimitsConfig

DOCS = Path(__file__).parents[3] / "docs"


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def test_every_limit_is_listed_with_its_default():
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9,]+)", page("security"), re.MULTILINE)
    listed = {name.replace("-", "_"): float(number.replace(",", "")) for name, number in rows}
    assert listed == {one.name: one.default for one in fields(LimitsConfig)}


def test_fields_of_a_key_and_of_a_request_are_listed():
    table = page("security").partition("| field | meaning |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [one.name for one in fields(ApiKey)]
    table = page("serving").partition("| field | values |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))
    assert named <= set(RequestFields.model_fields)  # /docs lists all of them.


@pytest.mark.parametrize("name", ["serving", "security", "operations"])
def test_named_routes_exist_and_open_ones_need_no_key(name):
    app = create_app(None, HttpConfig())
    paths = set(
        re.findall(r"(?<![\w/.:])(/(?:v1|v2|api)[\w/]*|/\w+z|/metrics|/docs)\b", page(name))
    )
    assert paths
    bases = [route.path for route in app.routes if hasattr(route, "path")]
    for path in paths - {"/v1", "/v2"}:
        scope = {"type": "http", "path": path, "method": "GET", "headers": [], "root_path": ""}
        found = any(route.matches(scope)[0] is not Match.NONE for route in app.routes)
        assert found or any(base.startswith(f"{path}/") for base in bases), path
    assert all(is_open(path) for path in ("/", "/healthz", "/readyz", "/metrics", "/docs"))
    assert not any(is_open(path) for path in ("/v1/models", "/v1/admin/keys", "/v1/mask"))


def test_headers_of_a_response_are_described():
    assert "not_acceptable" in CODES
    text = page("serving")
    source = Path(facts_of.__code__.co_filename).read_text()
    for header in re.findall(r"X-Infill-[A-Z][A-Za-z-]+", source):
        assert header in text, header
