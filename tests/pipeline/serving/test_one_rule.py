"""One rule on every route: bodies, repeated fields, forms of answers, and JSON of many values."""

import asyncio
import base64
import gzip
import io
import json
from collections import Counter
from typing import Annotated

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import Field
from starlette.routing import Route

from infill.pipeline.images import MaskRule, read_mask
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.jobs_api import require_options_of_jobs
from infill.pipeline.serving.http.schemas import MAX_JSON_VALUES, RequestFields, check

TILING = TilingConfig(sides_px=(32, 64, 128), least_crop_px=64)
LINES = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}
POSTS = (
    "/v1/inpaint",
    "/v1/inpaint/batch",
    "/v1/images/edits",
    "/api/v1/inpaint",
    "/api/v1/adjust_mask",
    "/v2/models/spn/infer",
    "/v1/jobs",
    "/v1/mask",
)


def send(backend, *requests: dict, **config) -> list[httpx.Response]:
    async def main():
        app = create_app(backend, HttpConfig(tiling=TILING, **config))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.request(**{"method": "POST", **one}) for one in requests]

    return asyncio.run(main())


def encoded(files: dict) -> dict:
    return {name: base64.b64encode(data).decode() for name, data in files.items()}


def as_v2(files: dict) -> dict:
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
        for name, text in encoded(files).items()
    ]
    return {"inputs": tensors}


@pytest.fixture
def clear(make) -> bytes:
    """A photograph whose own transparency marks the hole."""
    pixels = np.dstack([make.photograph(40, 40), np.full((40, 40), 255, np.uint8)])
    pixels[10:20, 10:20, 3] = 0
    return make.file(pixels)


@pytest.fixture
def erased(make) -> bytes:
    """A mask as OpenAI's clients send it: transparent in the hole."""
    pixels = np.full((60, 60, 4), 255, np.uint8)
    pixels[20:30, 20:30] = 0
    return make.file(pixels)


@pytest.mark.parametrize("url", POSTS)
def test_compressed_body_is_refused_before_it_is_read(url):
    body = gzip.compress(b"{}")
    packed = {"url": url, "content": body, "headers": {**JSON, "content-encoding": "gzip"}}
    [refused] = send(None, packed)
    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "identity"
    assert "without compression" in refused.text


@pytest.mark.parametrize("url", POSTS[1:4] + POSTS[5:6])
def test_what_is_not_made_is_refused_on_every_route(replica, request_of, erased, url):
    files = request_of()["files"]
    body = {
        "/v1/inpaint/batch": {"content": json.dumps(encoded(files)), "headers": LINES},
        "/v1/images/edits": {"files": {**files, "mask": erased}, "headers": {}},
        "/api/v1/inpaint": {"json": encoded(files), "headers": {}},
        "/v2/models/spn/infer": {"json": as_v2(files), "headers": {}},
    }[url]
    statuses = []
    for accept in ("text/html", "*/*;q=0", "text/html, */*;q=0.1"):
        one = {"url": url, **body, "headers": {**body["headers"], "accept": accept}}
        statuses += [answer.status_code for answer in send(replica, one)]
    assert statuses == [406, 406, 200]


def test_field_given_twice_is_refused_wherever_it_stands(replica, request_of, erased):
    files = request_of()["files"]
    image, mask = ("image", files["image"]), ("mask", files["mask"])
    text = json.dumps(encoded(files))
    twice = f'{text[:-1]}, "seed": 1, "seed": 2}}'
    answers = send(
        replica,
        {"url": "/v1/inpaint", "files": [image, image]},
        {"url": "/v1/inpaint", "files": [image, mask], "data": {"seed": ["1", "2"]}},
        {"url": "/v1/inpaint", "content": twice, "headers": JSON},
        {"url": "/v1/inpaint/batch", "files": [image, mask], "data": {"seed": ["1", "2"]}},
        {"url": "/v1/images/edits", "files": [image, ("mask", erased), ("mask", erased)]},
        {"url": "/api/v1/inpaint", "content": twice, "headers": JSON},
    )
    assert [answer.status_code for answer in answers] == [400] * 6
    assert all("is given twice" in answer.text for answer in answers)
    [lines] = send(replica, {"url": "/v1/inpaint/batch", "content": twice, "headers": LINES})
    assert "is given twice" in json.loads(lines.text)["error"]["message"]


def test_true_is_no_number_and_a_list_is_no_name(replica, request_of):
    files = encoded(request_of()["files"])
    fields = ("seed", "samples", "quality", "mask_threshold")
    requests = [{"url": "/v1/inpaint", "json": {**files, name: True}} for name in fields]
    names = [{"url": "/api/v1/model", "json": {"name": name}} for name in (None, ["spn"], 3)]
    answers = send(replica, *requests, *names)
    assert [answer.status_code for answer in answers] == [400] * 7
    assert all(f"'{name}'" in answer.text for name, answer in zip(fields, answers, strict=False))


class WiderFields(RequestFields):
    """The fields, and two more as docs/extending.md adds one."""

    feather_px: Annotated[int, Field(ge=0, le=32)] = 0
    sharp: bool = False


def test_a_new_field_is_no_truth_unless_it_is_one_and_no_job_ignores_it():
    assert check(WiderFields, {"feather_px": "8", "sharp": True}).feather_px == 8
    with pytest.raises(RequestError, match=r"field 'feather_px': Input should be a number$"):
        check(WiderFields, {"feather_px": True})
    require_options_of_jobs(check(WiderFields, {"mode": "tile", "feather_px": 0}))
    with pytest.raises(RequestError, match=r"field 'feather_px': jobs take model, mode, mask_"):
        require_options_of_jobs(check(WiderFields, {"feather_px": 8}))


def other_values(schema: dict) -> list:
    """Return values of a field that differ from its default."""
    values: list = []
    for kind in schema.get("anyOf", [schema]):
        if "enum" in kind:
            values += kind["enum"]
        elif kind["type"] in ("integer", "number"):
            values.append(kind.get("minimum", 0) + 1)
        elif kind["type"] != "null":
            values += {"string": ["spn"], "boolean": [True, False]}[kind["type"]]
    return [value for value in values if value != schema["default"]]


@pytest.mark.parametrize("name", RequestFields.model_fields)
def test_no_field_of_a_request_is_read_and_then_ignored(name):
    schema = RequestFields.model_json_schema()["properties"][name]
    usual = RequestFields(output_format="webp")
    given = [usual.model_copy(update={name: value}) for value in other_values(schema)]
    assert given
    found = {str(one.options("image/webp")) for one in given}
    assert str(usual.options("image/webp")) not in found or name == "output_format"
    assert len(found) == len(given)


def test_no_route_hides_another():
    """FastAPI answers by the first of two routes of one path and method, in silence."""
    app = create_app(None, HttpConfig())
    found = Counter(
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    )
    assert len(found) > 20
    assert [both for both, count in found.items() if count > 1] == []


def test_openai_s_route_reads_forms_and_names_fields_as_its_callers_do(replica, request_of):
    url = "/v1/images/edits"
    files = request_of()["files"]
    body, none, wrong = send(
        replica,
        {"url": url, "json": {}},
        {"url": url, "content": b""},
        {"url": url, "files": files, "data": {"n": "0"}},
    )
    assert [body.status_code, none.status_code, wrong.status_code] == [415, 415, 400]
    assert wrong.json()["error"]["message"].startswith("field 'n': ")
    assert wrong.json()["error"]["param"] == "n"


def test_transparency_goes_to_a_format_that_the_caller_accepts_or_nowhere(replica, clear):
    url, files = "/v1/inpaint", {"image": clear}
    by_header, other, by_field, wanted = send(
        replica,
        {"url": url, "files": files, "headers": {"accept": "image/jpeg"}},
        {"url": url, "files": files, "headers": {"accept": "image/jpeg, image/webp;q=0.1"}},
        {"url": url, "files": files, "data": {"output_format": "jpeg"}},
        {
            "url": "/v1/inpaint/batch",
            "content": json.dumps(encoded(files)),
            "headers": {**LINES, "accept": "image/jpeg"},
        },
    )
    assert (by_header.status_code, by_header.json()["error"]["code"]) == (406, "not_acceptable")
    assert (other.status_code, other.headers["content-type"]) == (200, "image/webp")
    assert (by_field.status_code, by_field.json()["error"]["code"]) == (400, "bad_request")
    assert json.loads(wanted.text)["error"]["code"] == "not_acceptable"
    for answer in (by_header, by_field, wanted):
        assert "which JPEG cannot store: request png or webp" in answer.text


def test_json_of_many_values_is_counted_before_it_is_read(replica):
    many = b'{"image": [' + b"1," * MAX_JSON_VALUES + b"1,1]}"
    requests = [{"url": url, "content": many, "headers": JSON} for url in (POSTS[0], *POSTS[3:5])]
    assert [answer.status_code for answer in send(replica, *requests)] == [413] * 3


def test_values_of_a_large_tensor_are_written_in_order(replica, make):
    side = 200  # 120,000 values: more than one piece
    image, hole = (
        make.photograph(side, side),
        make.hole(side, side, slice(50, 80), slice(50, 80)) * 255,
    )
    inputs = [
        {
            "name": name,
            "datatype": "UINT8",
            "shape": list(values.shape),
            "data": values.reshape(-1).tolist(),
        }
        for name, values in (("image", image), ("mask", hole))
    ]
    [got] = send(replica, {"url": POSTS[5], "json": {"id": "a", "inputs": inputs}})
    assert got.status_code == 200, got.text
    answer = got.json()
    values = np.reshape(answer["outputs"][0]["data"], (side, side, 3))
    np.testing.assert_array_equal(values[hole == 0], image[hole == 0])
    assert (answer["id"], answer["outputs"][0]["shape"]) == ("a", [side, side, 3])


def test_every_answer_says_what_marked_the_hole(replica, request_of, erased):
    files = request_of()["files"]
    cleared = {**files, "mask": erased}
    answers = send(
        replica,
        {"url": "/v1/inpaint", "files": files},
        {"url": "/v1/inpaint", "files": files, "headers": {"accept": "application/json"}},
        {"url": "/v1/images/edits", "files": cleared},
        {"url": "/v1/images/edits", "files": cleared, "data": {"stream": "true"}},
        {"url": "/api/v1/inpaint", "json": encoded(files)},
        {"url": POSTS[5], "json": as_v2(files)},
    )
    forms = [answer.headers["x-infill-mask-form"] for answer in answers]
    assert forms == ["brightness"] * 2 + ["transparent"] * 2 + ["brightness"] * 2
    for name in ("x-infill-model", "x-infill-canvas", "x-infill-scale", "x-infill-hole-ratio"):
        assert all(name in answer.headers for answer in answers)


def test_mask_is_shown_as_every_route_reads_it(replica, make, erased, request_of):
    files, alpha = request_of()["files"], {"mask_channel": "alpha", "mask_polarity": "black"}
    turned, ours, odd, none, twice = send(
        replica,
        {"url": "/v1/mask", "files": {"mask": erased}, "data": alpha},
        {"url": "/v1/mask", "files": {"mask": files["mask"]}, "data": {"mask_polarity": "black"}},
        {"url": "/v1/mask", "files": {"mask": files["mask"]}, "data": {"seed": "1"}},
        {"url": "/v1/mask", "data": {"mask": "text"}, "files": {"other": b""}},
        {"url": "/v1/mask", "files": [("mask", erased)], "data": {"mask_channel": ["alpha"] * 2}},
    )
    for answer, file, rule, form in (
        (turned, erased, MaskRule(channel="alpha", polarity="black"), "transparent"),
        (ours, files["mask"], MaskRule(polarity="black"), "brightness"),
    ):
        assert answer.headers["x-infill-mask-form"] == form
        with Image.open(io.BytesIO(answer.content)) as shown:
            assert shown.mode == "1"
            np.testing.assert_array_equal(np.asarray(shown), read_mask(file, rule))
    assert [answer.status_code for answer in (odd, none, twice)] == [400] * 3


def test_options_of_an_unknown_path_is_a_whole_answer(serving, replica):
    with serving(replica, HttpConfig()) as url:
        answer = httpx.options(f"{url}/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_route")
