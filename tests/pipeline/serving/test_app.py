import asyncio
import base64
import json

import httpx
import numpy as np
import pytest

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.errors import CODES
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.json_logs import JsonFormatter
from infill.pipeline.serving.limits import LimitsConfig

CONFIG = HttpConfig(
    limits=LimitsConfig(max_body_bytes=2_000_000, max_pixels=400_000, max_waiting=4),
    tiling=TilingConfig(sides_px=(32, 64, 128), least_crop_px=64),
)


def exchange(backend, *requests: dict, config: HttpConfig = CONFIG) -> list[httpx.Response]:
    """Send requests at once to the application in this process."""

    async def main():
        transport = httpx.ASGITransport(create_app(backend, config), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(
                *(client.request(**{"method": "POST", "url": "/v1/inpaint", **r}) for r in requests)
            )

    return asyncio.run(main())


def pair(make, height: int, width: int, rows: slice, columns: slice, channels: int = 3) -> dict:
    image = make.file(make.photograph(height, width, channels))
    return {"files": {"image": image, "mask": make.file(make.hole(height, width, rows, columns))}}


def assert_refused(response: httpx.Response, status: int, code: str, text: str = "") -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) - {"type", "param"} == {"code", "message", "request_id"}
    assert error["code"] == code
    assert code in CODES
    assert text in error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("height", "width", "hole", "kind"),
    [
        (31, 47, (slice(3, 9), slice(4, 30)), "whole"),
        (128, 1, (slice(3, 9), slice(0, 1)), "whole"),
        (500, 601, (slice(250, 270), slice(590, 601)), "crop"),
        (333, 777, (slice(11, 222), slice(33, 444)), "resize"),
        (333, 777, (slice(11, 222), slice(33, 444)), "tile"),
        (333, 777, (slice(11, 222), slice(33, 444)), "subsample"),
        (333, 777, (slice(11, 222), slice(33, 444)), "refine"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_known_pixels_come_back_as_sent_for_any_size(
    replica, make, height, width, hole, kind, channels
):
    mode = kind if kind in ("tile", "subsample", "refine") else "auto"
    request = pair(make, height, width, *hole, channels=channels)
    [response] = exchange(replica, {**request, "data": {"mode": mode}})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-infill-canvas"] == kind
    reduced = 128 / 777 if kind in ("resize", "refine") else 1.0
    assert float(response.headers["x-infill-scale"]) == pytest.approx(reduced, abs=0.002)
    sent = make.photograph(height, width, channels)
    got = make.pixels(response.content).reshape(height, width, channels)
    missing = make.hole(height, width, *hole)
    np.testing.assert_array_equal(got[~missing], sent[~missing])
    assert (got[missing] != sent[missing]).any()


def test_json_answer_carries_picture_model_ratio_and_timings(replica, spn, make):
    class Together:
        """Hands both requests on when both are there, so that they share a pass."""

        def __init__(self) -> None:
            self.arrived, self.both = 0, asyncio.Event()

        async def describe(self):
            return []

        async def fill(self, *arguments):
            self.arrived += 1
            if self.arrived == 2:
                self.both.set()
            await self.both.wait()
            return await replica.fill(*arguments)

    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    json_request = {**request, "headers": {"accept": "application/json", "x-request-id": "mine-1"}}
    bare, answer = exchange(Together(), request, json_request)
    body = answer.json()
    assert base64.b64decode(body["image"]) == bare.content
    assert body["hole_ratio"] == 0.25
    assert body["model"]["version"] == spn.version
    assert body["model"]["digest"] == spn.digest
    assert "location" not in body["model"]
    assert body["canvas"] == {"kind": "whole", "count": 1, "height_px": 64, "width_px": 64}
    assert body["timings"]["batch_size"] == 2
    assert body["timings"]["total_ms"] >= body["timings"]["compute_ms"] > 0
    assert body["request_id"] == answer.headers["x-request-id"] == "mine-1"
    assert bare.headers["x-infill-model"] == f"spn@1 ({spn.digest[:12]})"


def test_output_format_follows_the_field_then_the_accept_header(replica, make):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    webp = {**request, "headers": {"accept": "image/webp,*/*"}}
    jpeg = {**webp, "data": {"output_format": "jpeg"}}
    answers = exchange(replica, request, webp, jpeg)
    kinds = [answer.headers["content-type"] for answer in answers]
    assert kinds == ["image/png", "image/webp", "image/jpeg"]
    np.testing.assert_array_equal(make.pixels(answers[0].content), make.pixels(answers[1].content))


def test_polarity_black_means_the_dark_pixels_are_hole(replica, make):
    hole = make.hole(40, 50, slice(0, 20), slice(0, 25))
    image = make.file(make.photograph(40, 50))
    white = {"files": {"image": image, "mask": make.file(hole)}}
    black = {
        "files": {"image": image, "mask": make.file(~hole)},
        "data": {"mask_polarity": "black"},
    }
    first, second = exchange(replica, white, black)
    np.testing.assert_array_equal(make.pixels(first.content), make.pixels(second.content))


def test_mask_rule_of_a_request_reads_labels_and_transparency(replica, make):
    hole = make.hole(40, 50, slice(0, 20), slice(0, 25))
    image = make.file(make.photograph(40, 50))
    labels = make.file(hole.astype(np.uint8))
    layer = make.file(np.dstack([0 * hole, 0 * hole, 0 * hole, 255 * hole]).astype(np.uint8))
    sent = [
        ({"mask": make.file(hole)}, {}),
        ({"mask": labels}, {"mask_threshold": "0"}),
        ({"mask": layer}, {}),
        ({"mask": layer}, {"mask_channel": "alpha"}),
    ]
    requests = [{"files": {"image": image, **mask}, "data": data} for mask, data in sent]
    white, *others = exchange(replica, *requests)
    for other in others:
        assert other.status_code == 200, other.text
        assert other.content == white.content
    forms = [answer.headers["x-infill-mask-form"] for answer in (white, *others)]
    assert forms == ["brightness", "brightness", "opaque", "opaque"]
    half = make.hole(40, 50, slice(0, 40), slice(0, 25))
    unclear = make.file(np.dstack([0 * half, 0 * half, 0 * half, 255 * half]).astype(np.uint8))
    refused = exchange(
        replica,
        {"files": {"image": image, "mask": labels}},
        {"files": {"image": image, "mask": unclear}},
    )
    assert_refused(refused[0], 400, "empty_mask", "mask_threshold=0")
    assert_refused(refused[1], 400, "bad_request", "mask_channel=alpha")


def cases(make) -> list[tuple[dict, int, str, str]]:
    image, mask = make.file(make.photograph(40, 50)), make.file(np.eye(40, 50) > 0)
    large = make.file(make.photograph(700, 600))
    return [
        ({"files": {"image": image}}, 400, "bad_request", "no mask"),
        ({"files": {"mask": mask}}, 400, "bad_request", "'image'"),
        ({}, 415, "unsupported_body", "multipart/form-data"),
        ({"json": {"image": "x"}}, 400, "bad_request", "'image'"),
        ({"json": {"image": "http://127.0.0.1/x.png"}}, 400, "bad_request", "'image'"),
        ({"json": [1]}, 400, "bad_request", "not an object"),
        (
            {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}},
            400,
            "bad_request",
            "not JSON",
        ),
        (
            {"files": {"image": image, "mask": mask}, "data": {"colour": "red"}},
            400,
            "bad_request",
            "'colour'",
        ),
        (
            {"files": {"image": image, "mask": mask}, "data": {"samples": "2"}},
            400,
            "bad_request",
            "generates one result: ask for one sample",
        ),
        ({"files": {"image": b"", "mask": mask}}, 400, "bad_request", "empty"),
        ({"files": {"image": b"text", "mask": mask}}, 415, "unsupported_image", "image"),
        ({"files": {"image": image, "mask": b"text"}}, 415, "unsupported_image", "mask"),
        ({"files": {"image": image[:-300], "mask": mask}}, 400, "damaged_image", "image"),
        ({"files": {"image": large, "mask": mask}}, 413, "too_many_pixels", "600 × 700"),
        ({"files": {"image": b"x" * 2_000_001, "mask": mask}}, 413, "too_large", "2,000,000"),
        (
            {"files": {"image": image, "mask": make.file(np.eye(50, 40) > 0)}},
            400,
            "different_sizes",
            "the image is 50 × 40, the mask 40 × 50",
        ),
        (
            {"files": {"image": image, "mask": make.file(np.zeros((40, 50), bool))}},
            400,
            "empty_mask",
            "127",
        ),
        (
            {"files": {"image": image, "mask": make.file(np.ones((40, 50), bool))}},
            400,
            "full_mask",
            "both kinds, white in the hole",
        ),
        (
            {"files": {"image": image, "mask": mask}, "data": {"model": "madf"}},
            404,
            "unknown_model",
            "'madf'",
        ),
        (
            {"files": {"image": image, "mask": mask}, "data": {"mode": "magic"}},
            400,
            "bad_request",
            "'mode'",
        ),
        ({"url": "/v9/nothing"}, 404, "unknown_route", ""),
        ({"method": "GET"}, 405, "unknown_route", ""),
        (
            {"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data"}},
            400,
            "bad_request",
            "",
        ),
    ]


@pytest.mark.parametrize("index", range(23))
def test_every_refusal_has_its_code_and_one_shape(replica, make, index):
    assert len(cases(make)) == 23
    request, status, code, text = cases(make)[index]
    [response] = exchange(replica, request)
    assert_refused(response, status, code, text)


def test_body_without_announced_length_is_cut_at_the_limit(replica):
    sent = 0

    async def endless():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n'
        while True:
            sent += 65536
            yield bytes(65536)

    request = {"content": endless(), "headers": {"content-type": "multipart/form-data; boundary=b"}}
    [response] = exchange(replica, request)
    assert_refused(response, 413, "too_large")
    assert sent < 2_200_000


class Slow:
    """A slow backend, for cases that need one."""

    def __init__(self, replica, seconds: float) -> None:
        self.replica, self.seconds, self.cancelled = replica, seconds, 0

    async def fill(self, *arguments):
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self.replica.fill(*arguments)

    async def describe(self):
        await asyncio.sleep(self.seconds)
        return []


def test_more_requests_than_may_wait_get_a_time_to_retry(replica, make):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    answers = exchange(Slow(replica, 1), *[request] * 7)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 3
    for answer in answers:
        if answer.status_code == 503:
            assert_refused(answer, 503, "busy")
            assert answer.headers["retry-after"] == "1"


def test_request_past_its_deadline_is_ended_and_its_work_cancelled(replica, make):
    slow = Slow(replica, 30)
    config = HttpConfig(limits=LimitsConfig(request_timeout_s=3))
    [response] = exchange(slow, pair(make, 40, 50, slice(0, 20), slice(0, 25)), config=config)
    assert_refused(response, 503, "busy", "3 s")
    assert slow.cancelled == 1


def test_body_that_never_ends_is_a_slow_request(replica):
    async def stalling():
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n'
        await asyncio.sleep(30)

    config = HttpConfig(limits=LimitsConfig(request_timeout_s=0.2))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    [response] = exchange(replica, {"content": stalling(), "headers": headers}, config=config)
    assert_refused(response, 408, "slow_request")


def test_defect_is_answered_without_its_details(replica, make):
    class Broken:
        async def describe(self):
            return []

        async def fill(self, *arguments):
            raise KeyError("secret detail")

    [response] = exchange(Broken(), pair(make, 40, 50, slice(0, 20), slice(0, 25)))
    assert_refused(response, 500, "internal")
    assert "secret" not in response.text


def test_state_routes_show_what_is_served(replica, spn):
    get = [{"method": "GET", "url": url} for url in ("/v1/models", "/healthz", "/readyz")]
    models, alive, ready = exchange(replica, *get)
    [model] = models.json()["models"]
    assert {name: model[name] for name in ("name", "version", "reference", "digest")} == {
        "name": "spn",
        "version": "1",
        "reference": "spn@champion",
        "digest": spn.digest,
    }
    assert spn.location not in models.text
    assert alive.json() == {"status": "alive"}
    assert ready.json() == {"status": "ready", "models": [spn.label]}
    [not_ready] = exchange(Slow(replica, 0), {"method": "GET", "url": "/readyz"})
    assert_refused(not_ready, 503, "not_ready")


def test_transparency_marks_the_hole_when_there_is_no_mask(replica, make):
    sent = make.photograph(40, 50, 4)
    sent[..., 3] = 255
    sent[5:15, 5:15, 3] = 0
    sent[15, 5:15, 3] = 254  # a soft edge
    [response] = exchange(replica, {"files": {"image": make.file(sent)}})
    got = make.pixels(response.content)
    assert (got[..., 3] == 255).all()
    hole = make.hole(40, 50, slice(5, 16), slice(5, 15))
    np.testing.assert_array_equal(got[~hole], sent[~hole])
    assert float(response.headers["x-infill-hole-ratio"]) == pytest.approx(hole.mean(), abs=1e-6)
    opaque = {
        "files": {"image": make.file(np.dstack([sent[..., :3], np.full((40, 50), 255, np.uint8)]))}
    }
    assert_refused(exchange(replica, opaque)[0], 400, "empty_mask", "opaque")


def test_json_body_with_base64_or_data_urls_equals_the_form(replica, make):
    form = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    encoded = {name: base64.b64encode(data).decode() for name, data in form["files"].items()}
    url = {**encoded, "mask": f"data:image/png;base64,{encoded['mask']}", "mode": "crop"}
    answers = exchange(replica, form, {"json": encoded}, {"json": url})
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].content == answers[1].content == answers[2].content


def test_keys_are_asked_for_where_pictures_are(replica, make):
    secret, key = new_key("alice", 2)
    config = HttpConfig(tiling=CONFIG.tiling, keys=(key,))
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    known = {**request, "headers": {"authorization": f"Bearer {secret}"}}
    get = [{"method": "GET", "url": url} for url in ("/v1/models", "/readyz", "/metrics")]
    answers = exchange(replica, request, known, known, known, *get, config=config)
    assert_refused(answers[0], 401, "unauthorized", "Bearer")
    statuses = sorted(answer.status_code for answer in answers[1:4])
    assert statuses == [200, 200, 429]
    limited = next(answer for answer in answers if answer.status_code == 429)
    assert_refused(limited, 429, "rate_limited")
    assert int(limited.headers["retry-after"]) in (29, 30)
    assert [answer.status_code for answer in answers[4:]] == [401, 200, 200]


def test_several_samples_follow_their_seed(imaginative, make):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    accept = {"accept": "application/json"}
    asked = [
        {**request, "headers": accept, "data": {"samples": "3", "seed": "5"}},
        {**request, "headers": accept, "data": {"samples": "3", "seed": "6"}},
        {**request, "headers": accept},
        {**request, "headers": accept, "data": {"samples": "3", "seed": "5"}},
        {**request, "data": {"samples": "2"}},
        {**request, "data": {"samples": "99"}},
    ]
    first, other, mean = exchange(imaginative, *asked[:3])
    again, bare, many = exchange(imaginative, *asked[3:])
    pictures = [make.pixels(base64.b64decode(one)) for one in first.json()["images"]]
    assert len({picture.tobytes() for picture in pictures}) == 3
    same = [make.pixels(base64.b64decode(one)) for one in again.json()["images"]]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(pictures, same, strict=True)) <= 1
    assert first.json()["images"] != other.json()["images"]
    assert "image" in mean.json()
    hole, sent = make.hole(40, 50, slice(0, 20), slice(0, 25)), make.photograph(40, 50)
    for picture in pictures:
        np.testing.assert_array_equal(picture[~hole], sent[~hole])
    assert_refused(bare, 400, "bad_request", "Accept: application/json")
    assert_refused(many, 400, "bad_request", "'samples'")


def test_iopaint_s_clients_get_the_bare_picture(replica, make):
    form = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    encoded = {
        name: f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for name, data in form["files"].items()
    }
    body = {**encoded, "ldm_steps": 20, "hd_strategy": "Crop", "prompt": "", "sd_seed": 42}
    ours, theirs = exchange(replica, form, {"url": "/api/v1/inpaint", "json": body})
    assert theirs.status_code == 200
    assert theirs.headers["x-seed"] == "42"
    assert theirs.content == ours.content
    [refused] = exchange(replica, {"url": "/api/v1/inpaint", "json": {"image": "x"}})
    assert_refused(refused, 400, "bad_request", "'image'")


def test_openai_s_clients_get_a_list_of_pictures(replica, make):
    form = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    hole = make.hole(40, 50, slice(0, 20), slice(0, 25))
    opaque = np.where(hole, 0, 255).astype(np.uint8)
    mask = make.file(np.dstack([make.photograph(40, 50), opaque]))
    edit = {
        "url": "/v1/images/edits",
        "files": {"image": form["files"]["image"], "mask": mask},
        "data": {"prompt": "anything", "model": "spn", "n": "1", "size": "auto"},
    }
    ours, theirs = exchange(replica, form, edit)
    assert theirs.status_code == 200, theirs.text
    [picture] = theirs.json()["data"]
    assert base64.b64decode(picture["b64_json"]) == ours.content
    assert isinstance(theirs.json()["created"], int)
    bad = [
        {**edit, "files": [("image[]", form["files"]["image"])] * 2},
        {**edit, "data": {"response_format": "url"}},
        {**edit, "files": form["files"]},
    ]
    several, url, no_alpha = exchange(replica, *bad)
    assert_refused(several, 400, "bad_request", "one image, not 2")
    assert_refused(url, 400, "bad_request", "b64_json")
    assert_refused(no_alpha, 400, "bad_request", "transparent")


def test_metrics_count_what_happened_under_few_labels(replica, make):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))

    async def main():
        transport = httpx.ASGITransport(create_app(replica, CONFIG))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for _ in range(2):
                await client.post("/v1/inpaint", **request)
            await client.post("/v1/inpaint")
            for number in range(5):
                await client.get(f"/guess/{number}")
            return await client.get("/metrics")

    response = asyncio.run(main())
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    assert 'infill_requests_total{route="/v1/inpaint",status="200"} 2.0' in lines
    assert 'infill_requests_total{route="/v1/inpaint",status="415"} 1.0' in lines
    assert 'infill_requests_total{route="other",status="404"} 5.0' in lines
    assert 'infill_refusals_total{code="unsupported_body"} 1.0' in lines
    assert 'infill_pictures_total{canvas="whole",model="spn@1"} 2.0' in lines
    assert "infill_requests_inside 0.0" in lines
    assert 'infill_stage_seconds_count{stage="compute"} 2.0' in lines


def test_log_has_one_line_per_request_and_nothing_of_the_picture(replica, make, caplog):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    with caplog.at_level("INFO", logger="infill.serving"):
        exchange(replica, {**request, "headers": {"x-request-id": "mine-2"}}, {"url": "/nothing"})
    records = [record for record in caplog.records if record.message == "request"]
    facts = {(r.request_id if r.status == 200 else "", r.status, r.route) for r in records}
    assert facts == {("mine-2", 200, "/v1/inpaint"), ("", 404, "other")}
    line = json.loads(JsonFormatter().format(records[0]))
    assert set(line) <= {
        *("time", "level", "logger", "message"),
        *("request_id", "method", "route", "status", "code", "duration_ms"),
    }
