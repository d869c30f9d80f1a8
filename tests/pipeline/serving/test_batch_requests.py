import asyncio
import base64
import json

import httpx
import numpy as np

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig

CONFIG = HttpConfig(
    limits=LimitsConfig(max_body_bytes=200_000, max_batch_body_bytes=2_000_000, pairs_at_once=3),
    tiling=TilingConfig(sides_px=(64, 128), least_crop_px=64),
)
LINES = {"content-type": "application/x-ndjson"}


def send(backend, config: HttpConfig = CONFIG, **request) -> httpx.Response:
    async def main():
        transport = httpx.ASGITransport(create_app(backend, config), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/inpaint/batch", **request)

    return asyncio.run(main())


def line(make, seed: int, **changes) -> bytes:
    hole = make.hole(40, 50, slice(0, 20), slice(5, 25))
    files = {"image": make.file(make.photograph(40, 50, seed=seed)), "mask": make.file(hole)}
    values = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return json.dumps({"id": f"p{seed}", **values, **changes}).encode() + b"\n"


def results(response: httpx.Response) -> dict:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return {one["id"]: one for one in map(json.loads, response.text.splitlines())}


def test_lines_are_answered_by_id_and_a_bad_pair_is_its_own_error(replica, make):
    body = b"".join(
        [
            line(make, 0),
            line(make, 1, model="madf"),
            b"not json\n",
            b"\n",
            line(make, 2, image="!!"),
            line(make, 3, id=7),
            line(make, 4, colour="red"),
            line(make, 5).rstrip(b"\n"),
        ]
    )
    answers = results(send(replica, content=body, headers=LINES))
    codes = {key: one.get("error", {}).get("code") for key, one in answers.items()}
    assert codes == {
        "p0": None,
        "p1": "unknown_model",
        2: "bad_request",
        "p2": "bad_request",
        7: None,
        "p4": "bad_request",
        "p5": None,
    }
    hole = make.hole(40, 50, slice(0, 20), slice(5, 25))
    for key, seed in (("p0", 0), (7, 3), ("p5", 5)):
        got = make.pixels(base64.b64decode(answers[key]["image"]))
        np.testing.assert_array_equal(got[~hole], make.photograph(40, 50, seed=seed)[~hole])


def test_form_pairs_go_by_order_and_share_the_other_fields(replica, make):
    hole = make.file(make.hole(40, 50, slice(0, 20), slice(5, 25)))
    images = [make.file(make.photograph(40, 50, seed=seed)) for seed in range(3)]
    files = [("image", image) for image in images] + [("mask", hole)] * 3
    files[1] = ("image", b"no image")
    answers = results(send(replica, files=files, data={"output_format": "webp"}))
    assert [answers[key].get("output_format") for key in range(3)] == ["webp", None, "webp"]
    assert answers[1]["error"]["code"] == "unsupported_image"
    named = results(send(replica, files=files, data={"id": ["a", "b", "c"]}))
    assert set(named) == {"a", "b", "c"}
    refused = send(replica, files=files[:4])
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("3 images, 1 masks")


def test_results_are_sent_while_pairs_are_still_arriving(replica, make):
    """The next pair is sent only once the one before is answered."""
    app = create_app(replica, CONFIG)
    answered = asyncio.Event()

    async def main():
        lines, sent = [line(make, seed) for seed in range(3)], []

        async def receive():
            if sent and len(sent) <= len(lines):
                await asyncio.wait_for(answered.wait(), 20)
                answered.clear()
            body = lines[len(sent)] if len(sent) < len(lines) else b""
            sent.append(body)
            return {"type": "http.request", "body": body, "more_body": bool(body)}

        messages = []

        async def send_message(message):
            messages.append(message)
            if message.get("body"):
                answered.set()

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/inpaint/batch",
            "query_string": b"",
            "headers": [(b"content-type", b"application/x-ndjson")],
        }
        await app(scope, receive, send_message)
        return [json.loads(m["body"])["id"] for m in messages if m.get("body")]

    assert asyncio.run(main()) == ["p0", "p1", "p2"]


def test_no_more_pairs_are_under_way_than_allowed(replica, make):
    class Counting:
        now = most = came = 0

        def __init__(self) -> None:
            self.full = [asyncio.Event() for _ in range(3)]

        async def describe(self):
            return []

        async def fill(self, *arguments):
            self.now += 1
            self.most = max(self.most, self.now)
            full = self.full[self.came // 3]
            self.came += 1
            if self.came % 3 == 0:
                full.set()
            await full.wait()  # Three are under way at some time, however slow the machine.
            await asyncio.sleep(0.02)
            self.now -= 1
            return await replica.fill(*arguments)

    backend = Counting()
    body = b"".join(line(make, seed) for seed in range(9))
    assert len(results(send(backend, content=body, headers=LINES))) == 9
    assert backend.most == 3


def test_line_or_body_past_its_limit_ends_the_batch_after_what_was_read(replica, make):
    body = line(make, 0) + b"x" * 300_000
    answers = results(send(replica, content=body, headers=LINES))
    assert "image" in answers["p0"]
    assert answers[None]["error"]["code"] == "too_large"
    refused = send(replica, content=b"x" * 2_000_001, headers=LINES)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    other = send(replica, content=b"{}", headers={"content-type": "text/plain"})
    assert (other.status_code, other.json()["error"]["code"]) == (415, "unsupported_body")


def test_pair_past_its_deadline_is_its_own_error(replica, make):
    class Slow:
        async def describe(self):
            return []

        async def fill(self, wanted, *arguments):
            await asyncio.sleep(30 if wanted else 0)
            return await replica.fill("", *arguments)

    config = HttpConfig(limits=LimitsConfig(request_timeout_s=4))
    body = line(make, 0, model="spn") + line(make, 1)
    answers = results(send(Slow(), config, content=body, headers=LINES))
    assert answers["p0"]["error"]["code"] == "busy"
    assert "image" in answers["p1"]
