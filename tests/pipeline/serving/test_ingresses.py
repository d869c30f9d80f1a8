"""Two ingresses at one port on Ray Serve: one is killed, and limits and metrics are of both."""

import base64
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import requests
import socketio
from prometheus_client.parser import text_string_to_metric_families

from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.http.auth import add_key, new_key
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.replica import ingress

pytestmark = pytest.mark.slow
LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""
SECRETS = {}


@pytest.fixture(scope="module")
def config(config, tmp_path_factory) -> ServeConfig:
    place = str(tmp_path_factory.mktemp("keys") / "keys.jsonl")
    for name, per_minute in (("busy", 1e6), ("slow", 20), ("repeating", 6)):
        SECRETS[name], key = new_key(name, per_minute)
        add_key(place, key)
    folder = tmp_path_factory.mktemp("jobs")
    jobs = JobsConfig(folder=str(folder / "jobs"), prefixes=(str(folder),))
    return replace(config, ingress_replicas=2, keys=place, jobs=jobs)


def header(name: str) -> dict[str, str]:
    return {"x-api-key": SECRETS[name]}


def ingresses() -> set[int]:
    """Return the process ids of the ingresses of the Ray that this process started."""
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if b"ServeReplica:infill:ingress" not in Path(f"/proc/{entry}/cmdline").read_bytes():
                continue
            parent = Path(f"/proc/{entry}/status").read_text().split("PPid:")[1].split()[0]
            parent_of_raylet = Path(f"/proc/{parent}/status").read_text().split("PPid:")[1]
            if int(parent_of_raylet.split()[0]) == os.getpid():
                found.add(int(entry))
    return found


def counted(url: str, route: str) -> float:
    """Return the number of answers with status 200, as /metrics says."""
    text = httpx.get(f"{url}/metrics", timeout=LONG_S).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "infill_requests_total"
        and (sample.labels["route"], sample.labels["status"]) == (route, "200")
    )


def test_metrics_and_quotas_are_of_both(url, wait_until):
    wait_until(lambda: len(ingresses()) == 2)
    wait_until(lambda: httpx.get(f"{url}/readyz", timeout=LONG_S).status_code == 200)
    before, started = counted(url, "/v1/models"), time.monotonic()
    statuses = Counter(
        httpx.get(f"{url}/v1/models", headers=header("slow"), timeout=LONG_S).status_code
        for _ in range(60)
    )
    refilled = (time.monotonic() - started) * 20 / 60
    assert set(statuses) <= {200, 429}
    assert 20 <= statuses[200] <= 20 + refilled
    wait_until(lambda: counted(url, "/v1/models") - before == statuses[200])


def test_one_key_creates_one_job_in_whichever_ingress_and_repeats_are_free(url, config, wait_until):
    """Four callers repeat a request of one job; the key may ask for six images a minute."""
    wait_until(lambda: len(ingresses()) == 2)
    wait_until(lambda: httpx.get(f"{url}/readyz", timeout=LONG_S).status_code == 200)
    [folder] = config.jobs.prefixes  # Without images: the job fails, and nothing is computed.
    headers = {**header("repeating"), "idempotency-key": "one"}

    def send(number: int) -> httpx.Response:
        body = {"folder": f"{folder}/none"}
        return httpx.post(f"{url}/v1/jobs", json=body, headers=headers, timeout=LONG_S)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(60)))
    assert Counter(answer.status_code for answer in answers) == {202: 60}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    listed = httpx.get(f"{url}/v1/jobs", headers=header("repeating"), timeout=LONG_S)
    assert len(listed.json()["jobs"]) == 1
    logs = [ingress.log_folder() / f"infill-{process}.jsonl" for process in ingresses()]
    wait_until(lambda: all('"/v1/jobs"' in log.read_text() for log in logs))


def test_progress_reaches_a_client_whichever_ingress_it_polls(url, request_of, wait_until):
    wait_until(lambda: len(ingresses()) == 2)
    files = request_of()["files"]
    body = {name: base64.b64encode(data).decode() for name, data in files.items()}
    finished, begun = [], []
    with requests.Session() as session:
        session.headers.update({"Connection": "close", **header("busy")})  # One for each poll.
        client = socketio.Client(http_session=session, reconnection=False)
        client.on("diffusion_progress", begun.append)
        client.on("diffusion_finish", lambda: finished.append(1))
        client.connect(url, transports=["polling"], wait_timeout=LONG_S)
        for _ in range(8):
            post = {"json": body, "headers": header("busy"), "timeout": LONG_S}
            assert httpx.post(f"{url}/api/v1/inpaint", **post).status_code == 200
        wait_until(lambda: len(finished) == len(begun) == 8)
        client.disconnect()
        client.wait()
    assert begun == [{"step": 0}] * 8


def test_killed_ingress_refuses_nobody_and_comes_back(url, request_of, wait_until):
    wait_until(lambda: len(ingresses()) == 2)
    before, request = ingresses(), {**request_of(), "headers": header("busy")}
    statuses: Counter[int] = Counter()
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        """Send requests, each on a connection of its own; repeat those whose connection died."""
        while not done.is_set():
            for attempt in range(4):
                try:
                    answer = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request)
                except httpx.TransportError as error:
                    if attempt == 3:
                        failures.append(error)
                        return
                else:
                    statuses[answer.status_code] += 1
                    break

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: statuses[200] > 10)
        counted_before = counted(url, "/v1/inpaint")
        os.kill(victim := min(before), signal.SIGKILL)
        wait_until(lambda: len(ingresses() - before) == 1 and victim not in ingresses())
        so_far = statuses[200]
        wait_until(lambda: failures or statuses[200] > so_far + 10)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert set(statuses) == {200}
    assert counted(url, "/v1/inpaint") > counted_before

    [new] = ingresses() - before
    log = ingress.log_folder() / f"infill-{new}.jsonl"

    def new_one_answers() -> bool:
        httpx.get(f"{url}/healthz", timeout=LONG_S)
        return log.exists() and '"/healthz"' in log.read_text()

    wait_until(new_one_answers)
