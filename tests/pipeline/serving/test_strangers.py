"""The endpoint on Ray Serve with its default limits, under what strangers send."""

import asyncio
import re
import socket

import httpx
import numpy as np
import pytest

from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.client import AsyncInpaintClient, ClientConfig
from infill.pipeline.serving.config import ServeConfig

pytestmark = pytest.mark.slow
LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""


@pytest.fixture(scope="module")
def config(tmp_path_factory, spn) -> ServeConfig:
    folder = tmp_path_factory.mktemp("registry")
    return ServeConfig(
        model=spn.location,
        port=0,
        registry=RegistryConfig(tracking_uri=f"sqlite:///{folder}/mlflow.db"),
        cpus_per_replica=0.5,
    )


async def post_all(url: str, requests: list[dict]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(requests))
    async with httpx.AsyncClient(timeout=LONG_S, limits=limits) as client:
        return await asyncio.gather(*(client.post(f"{url}/v1/inpaint", **r) for r in requests))


def test_many_callers_with_large_pictures_are_all_answered(url, request_of):
    answers = asyncio.run(post_all(url, [request_of(512, 512, seed) for seed in range(16)]))
    assert [answer.status_code for answer in answers] == [200] * 16
    assert len({answer.content for answer in answers}) == 16


def test_large_picture_is_filled_in_tiles(url, make, request_of):
    request = request_of(1500, 2000)
    [answer] = asyncio.run(post_all(url, [{**request, "data": {"mode": "tile"}}]))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-infill-canvas"] == "tile"
    known = make.pixels(request["files"]["mask"]) == 0
    got, sent = make.pixels(answer.content), make.pixels(request["files"]["image"])
    np.testing.assert_array_equal(got[known], sent[known])


def test_client_gets_every_picture_of_a_folder(url, request_of):
    files = [request_of(321, 481, seed)["files"] for seed in range(32)]

    async def ask():
        async with AsyncInpaintClient(ClientConfig(url=url, retry_timeout_s=LONG_S), 16) as client:
            return await asyncio.gather(*(client.inpaint(f["image"], f["mask"]) for f in files))

    assert len({answer.data for answer in asyncio.run(ask())}) == 32


def test_door_of_the_service_on_ray_is_bounded_and_gives_one_id(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as endless:
        endless.sendall(b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 32_800)
        assert endless.recv(100).startswith(b"HTTP/1.1 431 ")
    for given in ("bad id\t<script>", "ü" * 3, ""):
        headers = {"x-request-id": given.encode()}
        answer = httpx.get(f"{url}/v1/models", timeout=LONG_S, headers=headers)
        [found] = answer.headers.get_list("x-request-id")
        assert re.fullmatch("[0-9a-f]{32}", found)
    kept = httpx.head(f"{url}/healthz", timeout=LONG_S, headers={"x-request-id": "mine-1"})
    assert (kept.status_code, kept.headers.get_list("x-request-id")) == (200, ["mine-1"])
