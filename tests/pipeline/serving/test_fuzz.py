"""Random requests, valid and invalid by the interface's own OpenAPI document."""

import io

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.replica import Replica

CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
V2 = "/v2/models/spn/infer"
CODES = {400, 401, 403, 404, 405, 406, 408, 411, 413, 415, 422, 429, 503}


@pytest.fixture(scope="module")
def url(spn, serving):
    replica = Replica(ReplicaConfig())
    replica.reconfigure({"models": [vars(spn)]})
    with serving(replica, HttpConfig(limits=LimitsConfig(max_pixels=100_000))) as url:
        yield url


def assert_sane(reply) -> None:
    """No defect of ours, and every refusal in the one shape there is."""
    text = reply.content.decode("utf-8", "replace")  # an answer may be an image
    assert reply.status_code < 500 or reply.status_code == 503, text
    assert "Traceback" not in text
    if reply.status_code >= 400:
        assert reply.status_code in CODES
        error = reply.json()["error"]
        if "/v2" in str(reply.request.url):  # this protocol's own shape
            assert isinstance(error, str)
            return
        assert set(error) >= {"code", "message", "request_id"}


def test_requests_made_from_the_description_meet_no_defect(url):
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) >= 8

    for operation in operations:

        @settings(max_examples=25, deadline=None, suppress_health_check=CALM, derandomize=True)
        @given(case=operation.as_strategy())
        def check(case):
            assert_sane(case.call())

        check()


def encoded(form: str, mode: str, width: int, height: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = random.integers(0, 256, (height, width, *channels), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form)
    return sink.getvalue()


files = st.builds(
    encoded,
    st.sampled_from(["png", "webp"]),
    st.sampled_from(["L", "RGB", "RGBA"]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
)


@st.composite
def damaged(draw) -> bytes:
    """A picture's file, or one with some bytes changed, or cut off."""
    data = bytearray(draw(files))
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(max_examples=120, deadline=None, suppress_health_check=CALM, derandomize=True)
@given(image=damaged(), mask=st.none() | damaged(), accept=st.sampled_from(["*/*", "image/webp"]))
def test_files_of_any_bytes_are_filled_or_refused(url, image, mask, accept):
    parts = {"image": image, **({"mask": mask} if mask is not None else {})}
    reply = httpx.post(f"{url}/v1/inpaint", files=parts, headers={"accept": accept}, timeout=60)
    assert_sane(reply)
    if reply.status_code == 200:
        sent, got = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(reply.content))
        assert got.size == sent.size


@settings(max_examples=60, deadline=None, suppress_health_check=CALM, derandomize=True)
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        ["application/json", "multipart/form-data; boundary=a", "multipart/form-data", "a/b", ""]
    ),
    path=st.sampled_from(["/v1/inpaint", "/v1/inpaint/batch", "/api/v1/inpaint", V2]),
)
def test_bodies_of_any_bytes_are_refused(url, body, kind, path):
    assert_sane(httpx.post(url + path, content=body, headers={"content-type": kind}, timeout=60))
