"""The endpoint on Ray Serve as callers and operators use it: requests, versions, settings."""

import asyncio
import base64
import http.client
import json
import socket
import uuid
from dataclasses import replace

import httpx
import numpy as np
import pytest
import yaml

from infill.pipeline.errors import UserError
from infill.pipeline.registry import Lineage, register, rollback
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.replica import deployment as service
from infill.pipeline.serving.replica import ingress
from infill.pipeline.serving.replica.deployment import (
    choose_port,
    refresh,
    resolve_models,
    try_out,
)
from infill.pipeline.serving.replica.replica import ServedModel

pytestmark = pytest.mark.slow
LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""


def test_known_pixels_come_back_over_http_at_odd_and_large_sizes(url, make, request_of, spn):
    for height, width in ((61, 47), (401, 333)):
        sent = make.photograph(height, width)
        answer = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request_of(height, width))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-infill-model"] == f"spn@1 ({spn.digest[:12]})"
        rows, columns = slice(height // 3, height // 2), slice(width // 3, width // 2)
        known = ~make.hole(height, width, rows, columns)
        got = make.pixels(answer.content)
        np.testing.assert_array_equal(got[known], sent[known])
        assert (got[~known] != sent[~known]).any()


def test_concurrent_requests_share_passes(url, request_of):
    async def flood():
        async with httpx.AsyncClient(timeout=LONG_S) as client:
            return await asyncio.gather(
                *(
                    client.post(
                        f"{url}/v1/inpaint",
                        headers={"accept": "application/json"},
                        **request_of(seed=seed),
                    )
                    for seed in range(12)
                )
            )

    answers = asyncio.run(flood())
    assert [answer.status_code for answer in answers] == [200] * 12
    sizes = [answer.json()["timings"]["batch_size"] for answer in answers]
    assert max(sizes) > 1
    assert len({answer.json()["image"] for answer in answers}) == 12


def test_state_and_errors_have_their_shape_over_http(url, make, request_of):
    assert httpx.get(f"{url}/readyz", timeout=LONG_S).json()["status"] == "ready"
    assert httpx.get(f"{url}/v1/models", timeout=LONG_S).json()["models"][0]["version"] == "1"
    request = request_of()
    unknown = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, data={"model": "madf"}, **request)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
    request["files"]["mask"] = make.file(make.hole(5, 5, slice(0, 2), slice(0, 2)))
    different = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request)
    assert (different.status_code, different.json()["error"]["code"]) == (400, "different_sizes")


def test_log_of_a_request_is_on_disk(url, request_of, wait_until):
    mine = {"x-request-id": f"of-{uuid.uuid4().hex}"}
    request = request_of()
    request["files"]["image"] = b"no image"
    answer = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, headers=mine, **request)
    assert answer.status_code == 415

    def found() -> list[dict]:
        texts = [file.read_text() for file in ingress.log_folder().glob("infill-*.jsonl")]
        lines = [json.loads(line) for text in texts for line in text.splitlines()]
        return [line for line in lines if line.get("request_id") == mine["x-request-id"]]

    wait_until(lambda: bool(found()))
    assert [(one["status"], one["code"]) for one in found()] == [(415, "unsupported_image")]


def test_lines_are_answered_over_http_while_others_are_still_sent(url, request_of):
    def line(seed: int) -> bytes:
        files = request_of(seed=seed)["files"]
        values = {name: base64.b64encode(data).decode() for name, data in files.items()}
        return json.dumps({"id": seed, **values}).encode() + b"\n"

    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=LONG_S)
    connection.putrequest("POST", "/v1/inpaint/batch")
    connection.putheader("Content-Type", "application/x-ndjson")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()

    def send(body: bytes) -> None:
        connection.send(b"%x\r\n%s\r\n" % (len(body), body))

    send(line(0))
    answer = connection.getresponse()
    first = json.loads(answer.readline())
    send(line(1))
    send(b"")
    rest = [json.loads(text) for text in answer.read().splitlines()]
    connection.close()
    assert [one["id"] for one in (first, *rest)] == [0, 1]
    assert all("image" in one for one in (first, *rest))


def test_new_champion_and_rollback_are_served_without_a_failed_request(
    url, config, newer_spn, request_of, under_load, wait_until
):
    with under_load(url, request_of()) as answers:
        current = resolve_models(config)
        wait_until(lambda: answers)
        newer = register(config.registry, newer_spn.location, "spn", Lineage(configuration={}))
        current = refresh(config, current)
        assert current[0].version == str(newer.number)
        wait_until(lambda: answers[-1][1] == f"spn@{newer.number}")
        rollback(config.registry, "spn")
        assert refresh(config, current)[0].version == "1"
        wait_until(lambda: answers[-1][1] == "spn@1")
    assert {status for status, _ in answers} == {200}
    order = [
        label for at, (_, label) in enumerate(answers) if at == 0 or answers[at - 1][1] != label
    ]
    assert order == ["spn@1", f"spn@{newer.number}", "spn@1"]


def test_canary_answers_some_callers_then_all_or_none(
    url, config, spn, newer_spn, request_of, under_load, wait_until
):
    careful = replace(config, canary_share=0.5, canary_s=3.0)
    current = resolve_models(config)
    number = register(config.registry, newer_spn.location, "spn", Lineage(configuration={})).number
    renewed = resolve_models(config)
    with under_load(url, request_of()) as answers:
        wait_until(lambda: answers)
        assert try_out(careful, current, renewed) == ""
        tried = list(answers)
        assert refresh(careful, current) == renewed
        wait_until(lambda: answers[-1][1] == f"spn@{number}" and len(answers) > len(tried) + 20)
        assert {label for _, label in answers[-5:]} == {f"spn@{number}"}
        gone = [replace(spn, version="9", location=spn.location + "-gone", digest="0" * 64)]
        wrong = try_out(careful, renewed, gone)
        after = len(answers)
        wait_until(lambda: len(answers) > after)
    assert {status for status, _ in answers} == {200}
    assert {label for _, label in tried} == {"spn@1", f"spn@{number}"}
    assert "failed 1 of 1 times" in wrong
    assert answers[-1][1] == f"spn@{number}"
    rollback(config.registry, "spn")
    assert refresh(config, renewed)[0].version == "1"
    wait_until(
        lambda: httpx.get(f"{url}/v1/models", timeout=LONG_S).json()["models"][0]["version"] == "1"
    )


def test_port_in_use_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen at 127.0.0.1 port .*--port"):
            choose_port("127.0.0.1", taken.getsockname()[1])


def test_unknown_model_is_said_before_anything_starts(config):
    with pytest.raises(UserError, match="no model 'madf'.*spn"):
        resolve_models(ServeConfig(model="madf", registry=config.registry))


def test_printed_configuration_is_what_serve_deploys(config):
    from ray.serve.schema import ServeDeploySchema

    models = resolve_models(config)
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service.deploy_yaml(config, models)))
    [found] = schema.applications
    assert (schema.http_options.host, found.name) == ("127.0.0.1", "infill")
    replica = next(one for one in found.deployments if one.name == "replica")
    [served] = replica.user_config["models"]
    assert ServedModel(**served) == models[0]
    graph = ingress.application(found.args)
    assert graph._bound_deployment.name == "ingress"
