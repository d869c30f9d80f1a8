"""What HTTP and its clients expect: Accept, methods, hosts, ids, keys that change."""

import asyncio
import base64
import json

import httpx
import pytest

from infill.pipeline.errors import ImageError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.pair_files import InpaintOptions, fitting
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.negotiation import acceptable
from infill.pipeline.serving.limits import LimitsConfig

TILING = TilingConfig(sides_px=(32, 64, 128), least_crop_px=64)


def send(backend, *requests: dict, **config) -> list[httpx.Response]:
    async def main():
        app = create_app(backend, HttpConfig(tiling=TILING, **config))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                await client.request(**{"method": "POST", "url": "/v1/inpaint", **one})
                for one in requests
            ]

    return asyncio.run(main())


def line(files: dict, **fields) -> bytes:
    encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return json.dumps({**encoded, **fields}).encode() + b"\n"


@pytest.mark.parametrize(
    ("accept", "kinds"),
    [
        ("", ["png"]),
        ("*/*", ["png", "jpeg", "webp"]),
        ("image/webp,*/*", ["webp", "png", "jpeg"]),
        ("image/webp;q=0.1, image/jpeg;q=0.9", ["jpeg", "webp"]),
        ("image/png;q=0, image/*", ["jpeg", "webp"]),
        ("image/avif,image/webp,*/*;q=0.8", ["webp", "png", "jpeg"]),
        ("application/json;q=0.5, image/png", ["png", "json"]),
        ("application/json, image/webp;q=0.2", ["json", "webp"]),
        ("IMAGE/PNG", ["png"]),
        ("image/png;q=nonsense", []),
        ("text/html", []),
    ],
)
def test_forms_have_the_order_of_the_caller_s_weights(accept, kinds):
    assert acceptable(accept) == kinds


def test_nothing_acceptable_is_refused_before_the_work(request_of):
    [refused] = send(None, {**request_of(), "headers": {"accept": "text/html"}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (406, "not_acceptable")


def test_format_that_cannot_store_the_size_gives_way_only_to_an_accepted_one():
    wide = (1000, 20_000)
    alone = InpaintOptions(output_format="webp")
    with pytest.raises(ImageError, match=r"20000 × 1000, and webp stores at most 16,383 .*png"):
        fitting(alone, wide)
    either = InpaintOptions(output_format="webp", other_formats=("jpeg", "png"))
    assert fitting(either, wide).output_format == "jpeg"
    assert fitting(either, (100, 70_000)).output_format == "png"
    assert fitting(alone, (16_383, 16_383)) is not None


def test_every_get_route_has_head_and_every_path_names_its_methods(replica):
    def ask(method, url):
        return {"method": method, "url": url}

    get, head, options, wrong, unknown = send(
        replica,
        ask("GET", "/healthz"),
        ask("HEAD", "/healthz"),
        ask("OPTIONS", "/v1/inpaint"),
        ask("DELETE", "/v1/inpaint"),
        ask("OPTIONS", "/nothing/" + "x" * 500),
    )
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert (options.status_code, options.headers["allow"]) == (204, "OPTIONS, POST")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")
    assert unknown.status_code == 404
    assert "allow" not in unknown.headers
    assert "x" * 101 not in unknown.text


def test_other_origins_and_hosts_are_fields(replica):
    origin = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
    preflight = {"method": "OPTIONS", "headers": origin}
    [closed] = send(replica, preflight)
    assert "access-control-allow-origin" not in closed.headers
    _, key = new_key("alice", 60)
    [opened] = send(replica, preflight, cors_origins=("https://app.example.org",), keys=(key,))
    assert opened.headers["access-control-allow-origin"] == "https://app.example.org"
    get = {"method": "GET", "url": "/v1/models"}
    ours, theirs, probe = send(
        replica,
        {**get, "headers": {"host": "fill.example.org:8000"}},
        {**get, "headers": {"host": "evil.example"}},
        {"method": "GET", "url": "/healthz", "headers": {"host": "10.0.0.7"}},
        allowed_hosts=("fill.example.org",),
    )
    assert [one.status_code for one in (ours, theirs, probe)] == [200, 400, 200]


def test_long_text_of_a_caller_is_not_echoed(replica, request_of):
    long = "z" * 5000
    answers = send(
        replica,
        {**request_of(), "data": {"model": long}},
        {**request_of(), "data": {long: "1"}},
        {"content": b"x", "headers": {"content-type": long}},
        {
            "url": "/v1/inpaint/batch",
            "content": line(request_of()["files"], id=long),
            "headers": {"content-type": "application/x-ndjson"},
        },
    )
    assert all("z" * 101 not in answer.text for answer in answers)
    assert [answer.status_code for answer in answers] == [404, 400, 415, 200]


def test_ids_of_lines_never_collide_and_a_defect_is_its_line_s(replica, request_of):
    class Faulty:
        async def describe(self):
            return []

        async def fill(self, wanted, *arguments):
            if wanted:
                raise ZeroDivisionError
            return await replica.fill(wanted, *arguments)

    files = request_of()["files"]
    body = [
        line(files, id=1),
        line(files),
        line(files, id="1"),
        line(files, id="a", model="x"),
        line(files, id=True),
    ]
    [answer] = send(
        Faulty(),
        {
            "url": "/v1/inpaint/batch",
            "content": b"".join(body),
            "headers": {"content-type": "application/x-ndjson"},
        },
    )
    by_line = {one["line"]: one for one in map(json.loads, answer.text.splitlines())}
    assert sorted(by_line) == [0, 1, 2, 3, 4]
    assert [by_line[at]["id"] for at in range(4)] == [1, "line-1", None, "a"]
    assert "earlier line" in by_line[2]["error"]["message"]
    assert by_line[3]["error"]["code"] == "internal"
    assert by_line[4]["error"]["code"] == "bad_request"
    assert all("image" in by_line[at] for at in (0, 1))


def test_readiness_is_asked_once_for_many_callers(replica, spn):
    class Counting:
        asked = 0

        async def describe(self):
            self.asked += 1
            await asyncio.sleep(0.05)
            return [spn]

    backend = Counting()

    async def main():
        transport = httpx.ASGITransport(create_app(backend, HttpConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(client.get("/readyz") for _ in range(200)))

    assert {answer.status_code for answer in asyncio.run(main())} == {200}
    assert backend.asked < 20


def test_every_route_shares_one_question_for_the_models(replica, spn):
    asked = []

    class Counting:
        async def describe(self):
            asked.append(1)
            return await replica.describe()

    get = {"method": "GET"}
    paths = ("/readyz", "/v1/models", "/v1/models/alias", "/v2/health/ready", "/v2/models/alias")
    more = ("/v2/models/alias/ready", "/api/v1/server-config", "/api/v1/model")
    answers = send(
        Counting(), *({**get, "url": path} for path in paths + more), aliases=("alias=spn",)
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len(asked) < len(answers) / 2
    [unknown] = send(Counting(), {**get, "url": "/v1/models/" + "x" * 500})
    assert (unknown.status_code, "x" * 101 in unknown.text) == (404, False)


def test_models_show_no_path(replica, write_spn, tmp_path):
    model = write_spn(tmp_path, 5)
    replica.reconfigure({"models": [{**vars(model), "reference": model.location}]})
    [answer] = send(replica, {"method": "GET", "url": "/v1/models"})
    assert str(tmp_path) not in answer.text
    assert answer.json()["models"][0]["reference"] == f"{model.name}@{model.version}"


def test_quota_counts_pictures_and_models_are_a_scope(replica, request_of):
    secret, key = new_key("alice", 3, models=("spn",))
    headers = {"authorization": f"Bearer {secret}"}
    files = request_of()["files"]
    batch = {
        "url": "/v1/inpaint/batch",
        "content": b"".join(line(files, model="spn") for _ in range(6)),
        "headers": {**headers, "content-type": "application/x-ndjson"},
    }
    [answer] = send(replica, batch, keys=(key,), limits=LimitsConfig(pairs_at_once=1))
    lines = [json.loads(text) for text in answer.text.splitlines()]
    assert ["image" in one for one in lines] == [True] * 3 + [False] * 3
    assert {one["error"]["code"] for one in lines[3:]} == {"rate_limited"}
    other, none = send(
        replica,
        {**request_of(), "data": {"model": "madf"}, "headers": headers},
        request_of(),
        keys=(key,),
    )
    assert (other.status_code, other.json()["error"]["code"]) == (403, "forbidden")
    assert none.status_code == 401
    assert none.headers["www-authenticate"].startswith("Bearer")
