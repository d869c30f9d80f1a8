"""The endpoint on Ray Serve under floods, slow callers, kills and a store that is away."""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.registry import Lineage, register, rollback
from infill.pipeline.serving.client import AsyncInpaintClient, ClientConfig
from infill.pipeline.serving.replica.deployment import (
    refresh,
    resolve_models,
)
from infill.pipeline.serving.replica.listening import reuse_address

pytestmark = pytest.mark.slow
LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""


def metrics(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics", timeout=LONG_S).text.splitlines()
    named = (line.rpartition(" ") for line in lines if line.startswith("infill_"))
    return {name: float(value) for name, _, value in named}


def metric(url: str, name: str) -> float:
    return metrics(url).get(name, 0.0)


BUSY = 'infill_refusals_total{code="busy"}'


def test_flood_at_ten_times_the_capacity_is_refused_in_part_in_bounded_memory(
    url, config, request_of, wait_until
):
    sent = [request_of(600, 600, seed) for seed in range(8)]
    admitted = config.limits.max_waiting

    async def ask_at_once(callers: int):
        limits = httpx.Limits(max_connections=callers)
        async with httpx.AsyncClient(timeout=LONG_S, limits=limits) as client:
            requests = [
                client.post(f"{url}/v1/inpaint", **sent[number % 8]) for number in range(callers)
            ]
            return await asyncio.gather(*requests)

    def most_used(callers: int):
        """Return the most memory, the most requests inside, and the answers."""
        used, inside, done = [memory_bytes()], [], threading.Event()

        def watch():
            while not done.wait(0.1):
                used.append(memory_bytes())
                inside.append(metric(url, "infill_requests_inside"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            answers = asyncio.run(ask_at_once(callers))
        finally:
            done.set()
            watcher.join()
        return max(used), max(inside, default=0), answers

    within = 0
    for _ in range(12):  # Until what the allowed number of callers takes has ceased to grow.
        used, _, _ = most_used(admitted)
        if used <= within:
            break
        within = used
    refused_before = metric(url, BUSY)
    floods = [most_used(10 * admitted) for _ in range(2)]
    answers = [answer for _, _, some in floods for answer in some]
    pixels = 600 * 600
    allowed = admitted * pixels * (2 * 3 + 12)  # The body of each, twice, and what is decoded.
    allowed += 10 * admitted * pixels * 3  # The bodies of those that are refused.
    assert max(used for used, _, _ in floods) - within < allowed
    assert max(inside for _, inside, _ in floods) <= admitted
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    for answer in refused:
        assert answer.json()["error"]["code"] == "busy"
        assert int(answer.headers["retry-after"]) >= 1
    assert metric(url, BUSY) - refused_before == len(refused)
    assert httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request_of()).status_code == 200
    wait_until(lambda: metric(url, "infill_requests_inside") == 0)


def memory_bytes() -> int:
    """Return the memory of ingress and replica, without the pages of their libraries' files.

    Those come and go as the system likes.
    """
    total = 0
    for process in (*replica_processes("ingress"), *replica_processes()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def raw_request(url, request_of, height: int, width: int) -> bytes:
    request = httpx.Request("POST", f"{url}/v1/inpaint", **request_of(height, width))
    head = [f"POST /v1/inpaint HTTP/1.1\r\nHost: {request.url.netloc.decode()}"]
    head += [f"{name}: {request.headers[name]}" for name in ("content-type", "content-length")]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + request.read()


def test_those_who_send_slowly_get_an_error_and_block_nobody(url, config, request_of, wait_until):
    request = raw_request(url, request_of, 60, 60)
    host, port = url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=LONG_S) for _ in range(12)]
    started = time.monotonic()
    for caller in slow:
        caller.sendall(request[:1000])
    wait_until(lambda: metric(url, "infill_requests_receiving") == 12)
    at, statuses = 1000, []
    while metric(url, "infill_requests_receiving") > 0:
        assert time.monotonic() < started + LONG_S
        for caller in slow:
            with contextlib.suppress(OSError):  # Those that were answered are closed.
                caller.sendall(request[at : at + 1])
        at += 1
        answer = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request_of())
        statuses.append(answer.status_code)
        time.sleep(0.1)
    assert time.monotonic() - started >= config.limits.body_grace_s
    assert set(statuses) == {200}
    assert len(statuses) > 10
    for caller in slow:
        answer = caller.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"slow_request" in answer
        caller.close()


def test_those_who_do_not_read_their_answer_keep_nobody_out(url, make, request_of, wait_until):
    request = raw_request(url, request_of, 950, 1000)
    host, port = url.removeprefix("http://").split(":")
    slow = []
    for _ in range(3):
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(LONG_S)
        caller.connect((host, int(port)))
        caller.sendall(request)
        slow.append(caller)
    wait_until(lambda: metric(url, "infill_requests_inside") == 3)
    wait_until(lambda: metric(url, "infill_requests_inside") == 0)
    for _ in range(5):
        answer = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request_of())
        assert answer.status_code == 200
    for caller in slow:  # Their answers have waited for them.
        answer = http.client.HTTPResponse(caller)
        answer.begin()
        assert answer.status == 200
        assert make.pixels(answer.read()).shape == (950, 1000, 3)
        caller.close()


def test_caller_who_leaves_frees_its_share(url, wait_until):
    host, port = url.removeprefix("http://").split(":")
    callers = []
    for _ in range(3):
        caller = socket.create_connection((host, int(port)))
        caller.sendall(
            b"POST /v1/inpaint HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        callers.append(caller)
    wait_until(lambda: metric(url, "infill_requests_receiving") == 3)
    for caller in callers:
        caller.close()
    wait_until(lambda: metric(url, "infill_requests_receiving") == 0)


def test_store_that_is_away_is_reported_and_its_return_found_without_help(
    url, config, request_of, wait_until
):
    def ask() -> int:
        return httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request_of()).status_code

    def ready() -> httpx.Response:
        return httpx.get(f"{url}/readyz", timeout=LONG_S)

    place = Path(resolve_models(config)[0].location)
    away = place.with_name("away")
    place.rename(away)
    try:
        with pytest.raises(UserError):
            refresh(config, [])
        assert ask() == 200  # What is loaded goes on.
        for process in replica_processes():
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: ready().status_code == 503)
        for _ in range(2):
            assert ask() == 503
            not_ready = ready()
            assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (503, "not_ready")
            assert httpx.get(f"{url}/healthz", timeout=LONG_S).status_code == 200
    finally:
        away.rename(place)
    wait_until(lambda: ready().status_code == 200)
    assert ask() == 200


def test_replica_killed_under_load_is_replaced_and_costs_the_shipped_client_nothing(
    url, make, request_of
):
    async def plain_statuses() -> list[int]:
        """Return what a client that does not retry gets, up to its first success."""
        statuses: list[int] = []
        async with asyncio.timeout(LONG_S), httpx.AsyncClient(timeout=LONG_S) as client:
            while not statuses or statuses[-1] != 200:
                answer = await client.post(f"{url}/v1/inpaint", **request_of())
                statuses.append(answer.status_code)
        return statuses

    async def main():
        answered, killed, statuses = [], [], []
        async with AsyncInpaintClient(ClientConfig(url=url, retry_timeout_s=LONG_S), 4) as client:

            async def caller(number: int) -> None:
                for turn in range(15):
                    files = request_of(seed=number)["files"]
                    answer = await client.inpaint(files["image"], files["mask"])
                    answered.append((files, answer))
                    if turn == 4 and not killed:
                        killed.extend(replica_processes())
                        for process in killed:
                            os.kill(process, signal.SIGKILL)
                        statuses.extend(await plain_statuses())

            await asyncio.gather(*(caller(number) for number in range(4)))
        return answered, killed, statuses

    answered, killed, statuses = asyncio.run(main())
    assert killed
    assert set(statuses) <= {200, 503}
    assert set(replica_processes()).isdisjoint(killed)
    assert len(answered) == 60
    for files, answer in answered:
        known = make.pixels(files["mask"]) == 0
        sent, got = make.pixels(files["image"]), make.pixels(answer.data)
        np.testing.assert_array_equal(got[known], sent[known])


def test_ingress_that_is_killed_is_replaced_where_it_listened(url, request_of, wait_until):
    """Also while callers hold connections, and after another program took the port meanwhile."""
    victims = replica_processes("ingress")
    assert victims
    address = urlsplit(url)
    held = http.client.HTTPConnection(address.hostname, address.port, timeout=LONG_S)
    held.request("GET", "/healthz")
    assert held.getresponse().read()
    for process in victims:
        os.kill(process, signal.SIGKILL)

    def ingresses() -> set[int]:
        return set(replica_processes("ingress")) - set(victims)

    with socket.socket() as other:
        reuse_address(other)

        def taken() -> bool:
            with contextlib.suppress(OSError):
                other.bind((address.hostname, address.port))
                other.listen()
                return True
            return bool(ingresses())  # It was faster.

        wait_until(taken)
        wait_until(lambda: bool(ingresses()))
    held.close()

    def answered() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request_of())
            assert answer.status_code in (200, 503)
            return answer.status_code == 200
        return False

    wait_until(answered)
    assert ingresses()


def replica_processes(deployment: str = "replica") -> list[int]:
    """Return the process ids of a deployment's replicas in the Ray that this process started."""
    wanted = f"ServeReplica:infill:{deployment}".encode()
    names, parents = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            names[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes()
            status = Path(f"/proc/{entry}/status").read_text()
            parents[int(entry)] = int(status.split("PPid:")[1].split()[0])

    def ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and ours(parents[process]))

    return [p for p, name in names.items() if wanted in name and ours(p)]


@pytest.mark.cluster
def test_minute_of_load_after_a_kill_and_swaps_loses_no_request_and_keeps_its_memory(
    url, config, newer_spn, make, request_of, wait_until
):
    half_s = 30
    sent = [request_of(seed=seed)["files"] for seed in range(4)]
    answered, done = [0] * len(sent), threading.Event()

    async def load():
        async with AsyncInpaintClient(
            ClientConfig(url=url, retry_timeout_s=LONG_S), len(sent)
        ) as client:

            async def caller(number: int) -> None:
                image, mask = sent[number]["image"], sent[number]["mask"]
                known = make.pixels(mask) == 0
                while not done.is_set():
                    answer = await client.inpaint(image, mask)
                    got = make.pixels(answer.data)
                    np.testing.assert_array_equal(got[known], make.pixels(image)[known])
                    answered[number] += 1

            await asyncio.gather(*(caller(number) for number in range(len(sent))))

    def all_were_answered_again() -> None:
        before = list(answered)
        wait_until(
            lambda: loading.done() or all(a > b for a, b in zip(answered, before, strict=True))
        )
        assert not loading.done()  # It ends by itself only with an error.

    def memory_of_half() -> list[int]:
        """Return the memory of the processes in the last quarter of half a minute of load."""
        used, begin = [], time.monotonic()
        while time.monotonic() < begin + half_s:
            used.append(memory_bytes())
            all_were_answered_again()
        return used[-max(2, len(used) // 4) :]

    def swap(change: Callable[[], object]) -> None:
        change()
        refresh(config, [])
        all_were_answered_again()

    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(lambda: asyncio.run(load()))
        try:
            all_were_answered_again()
            victims = replica_processes()
            assert victims
            for process in victims:
                os.kill(process, signal.SIGKILL)
            wait_until(lambda: set(replica_processes()) - set(victims) != set())
            all_were_answered_again()
            lineage = Lineage(configuration={})
            swap(lambda: register(config.registry, newer_spn.location, "spn", lineage))
            swap(lambda: rollback(config.registry, "spn"))
            first = memory_of_half()
            second = memory_of_half()
        finally:
            done.set()
        loading.result(LONG_S)
    unrest = max(max(first) - min(first), min(first) // 50)
    assert min(second) - min(first) <= unrest  # A leak is four times what one quarter shows.
    wait_until(
        lambda: httpx.get(f"{url}/v1/models", timeout=LONG_S).json()["models"][0]["version"] == "1"
    )
