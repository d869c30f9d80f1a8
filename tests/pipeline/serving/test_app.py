import asyncio
import base64

import httpx
import numpy as np
import pytest

from pipeline.serving.app import AppConfig, create_app
from pipeline.serving.canvas import CanvasConfig
from pipeline.serving.errors import CODES
from pipeline.serving.limits import LimitsConfig

CONFIG = AppConfig(
    limits=LimitsConfig(max_body_bytes=2_000_000, max_pixels=400_000, max_waiting=4),
    canvas=CanvasConfig(sides_px=(32, 64, 128), least_crop_px=64),
)


def exchange(backend, *requests: dict, config: AppConfig = CONFIG) -> list[httpx.Response]:
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
    assert set(error) == {"code", "message", "request_id"}
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
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_known_pixels_come_back_as_sent_for_any_size(
    replica, make, height, width, hole, kind, channels
):
    [response] = exchange(replica, pair(make, height, width, *hole, channels=channels))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-infill-canvas"] == kind
    sent = make.photograph(height, width, channels)
    got = make.pixels(response.content).reshape(height, width, channels)
    missing = make.hole(height, width, *hole)
    np.testing.assert_array_equal(got[~missing], sent[~missing])
    assert (got[missing] != sent[missing]).any()


def test_json_answer_carries_picture_model_ratio_and_timings(replica, spn, make):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    json_request = {**request, "headers": {"accept": "application/json", "x-request-id": "mine-1"}}
    bare, answer = exchange(replica, request, json_request)
    body = answer.json()
    assert base64.b64decode(body["image"]) == bare.content
    assert body["hole_ratio"] == 0.25
    assert body["model"]["version"] == spn.version
    assert body["model"]["digest"] == spn.digest
    assert "location" not in body["model"]
    assert body["canvas"] == {"kind": "whole", "height_px": 64, "width_px": 64}
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


def cases(make) -> list[tuple[dict, int, str, str]]:
    image, mask = make.file(make.photograph(40, 50)), make.file(np.eye(40, 50) > 0)
    large = make.file(make.photograph(700, 600))
    return [
        ({"files": {"image": image}}, 400, "bad_request", "'mask'"),
        ({}, 400, "bad_request", "'image'"),
        ({"json": {"image": "x"}}, 400, "bad_request", "'image'"),
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
            "mask_polarity=black",
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
        ({"url": "/v2/nothing"}, 404, "unknown_route", ""),
        ({"method": "GET"}, 405, "unknown_route", ""),
        (
            {"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data"}},
            400,
            "bad_request",
            "",
        ),
    ]


@pytest.mark.parametrize("index", range(17))
def test_every_refusal_has_its_code_and_one_shape(replica, make, index):
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
    """A backend that takes its time, for what the real one is too fast for."""

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


def test_more_requests_than_may_wait_are_told_when_to_come_back(replica, make):
    request = pair(make, 40, 50, slice(0, 20), slice(0, 25))
    answers = exchange(Slow(replica, 0.3), *[request] * 7)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 3
    for answer in answers:
        if answer.status_code == 503:
            assert_refused(answer, 503, "busy")
            assert answer.headers["retry-after"] == "1"


def test_request_past_its_deadline_is_ended_and_its_work_cancelled(replica, make):
    slow = Slow(replica, 30)
    config = AppConfig(limits=LimitsConfig(request_timeout_s=0.3))
    [response] = exchange(slow, pair(make, 40, 50, slice(0, 20), slice(0, 25)), config=config)
    assert_refused(response, 503, "busy", "0.3 s")
    assert slow.cancelled == 1


def test_body_that_never_ends_is_a_slow_request(replica):
    async def stalling():
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n'
        await asyncio.sleep(30)

    config = AppConfig(limits=LimitsConfig(request_timeout_s=0.2))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    [response] = exchange(replica, {"content": stalling(), "headers": headers}, config=config)
    assert_refused(response, 408, "slow_request")


def test_defect_is_answered_without_its_details(replica, make):
    class Broken:
        async def fill(self, *arguments):
            raise KeyError("secret detail")

    [response] = exchange(Broken(), pair(make, 40, 50, slice(0, 20), slice(0, 25)))
    assert_refused(response, 500, "internal")
    assert "secret" not in response.text


def test_state_routes_tell_what_is_served(replica, spn):
    get = [{"method": "GET", "url": url} for url in ("/v1/models", "/healthz", "/readyz")]
    models, alive, ready = exchange(replica, *get)
    assert models.json() == {
        "models": [
            {
                "name": "spn",
                "version": "1",
                "reference": "spn@champion",
                "digest": spn.digest,
            }
        ]
    }
    assert alive.json() == {"status": "alive"}
    assert ready.json() == {"status": "ready", "models": [spn.label]}
    [not_ready] = exchange(Slow(replica, 0), {"method": "GET", "url": "/readyz"})
    assert_refused(not_ready, 503, "not_ready")


def test_openapi_documents_errors_and_the_form(replica):
    [response] = exchange(replica, {"method": "GET", "url": "/openapi.json"})
    operation = response.json()["paths"]["/v1/inpaint"]["post"]
    assert {"200", "400", "413", "415", "503"} <= set(operation["responses"])
    assert "422" not in operation["responses"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
