import asyncio
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http import middleware
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.limits import REQUEST_BYTES_PER_PIXEL, LimitsConfig, PixelBudget
from infill.pipeline.serving.node_counts import CountsThread, NodeCounts

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}
"""Lets the GNU C library return freed memory to the system at once."""


def test_the_budget_knows_the_memory_of_a_pixel():
    """By formats, with and without alpha, small and large holes; a plain array is the control."""
    program = Path(__file__).with_name("one_memory.py")
    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | MALLOC,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["control"] == pytest.approx(1, abs=0.1)
    worst = max(found["requests"].values())
    assert worst < REQUEST_BYTES_PER_PIXEL < 1.3 * worst, found
    lossy = [taken for kind, taken in found["requests"].items() if kind.startswith("jpeg")]
    assert max(lossy) < REQUEST_BYTES_PER_PIXEL / 2, found
    assert f"at up to {REQUEST_BYTES_PER_PIXEL} bytes each" in inspect.getsource(LimitsConfig)


def test_a_full_service_refuses_many_for_one_count_and_admits_as_soon_as_one_leaves(monkeypatch):
    """A count is a transaction in another thread, the costliest part of a refusal."""
    monkeypatch.setattr(middleware, "_FULL_FOR_S", 3600.0)
    counted, usual = [], NodeCounts.requests
    monkeypatch.setattr(NodeCounts, "requests", lambda one: counted.append(1) or usual(one))

    async def main():
        counts = CountsThread(NodeCounts())
        door = middleware.AdmissionMiddleware(
            None, LimitsConfig(max_waiting=1), None, RequestMetrics(), counts
        )
        await door.refuse_if_full()
        await door.enter()
        for _ in range(5):
            with pytest.raises(RequestError, match="1 requests are waiting already"):
                await door.refuse_if_full()
        assert len(counted) == 2
        door.leave()
        await door.refuse_if_full()

    asyncio.run(main())


def test_pictures_wait_for_memory_in_the_order_they_came():
    order = []

    async def hold(budget, name, pixels, release):
        async with budget.spend(pixels):
            order.append(name)
            await release.wait()

    async def main():
        budget, release, others = PixelBudget(100), asyncio.Event(), asyncio.Event()
        others.set()
        first = asyncio.create_task(hold(budget, "first", 70, release))
        await asyncio.sleep(0)
        rest = [
            asyncio.create_task(hold(budget, name, pixels, others))
            for name, pixels in (("large", 60), ("small", 10))
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["first"]  # small would fit, but would starve large
        release.set()
        await asyncio.gather(first, *rest)

    asyncio.run(main())
    assert order == ["first", "large", "small"]


def test_picture_larger_than_the_budget_takes_all_of_it():
    async def main():
        budget = PixelBudget(100)
        async with budget.spend(1000):
            second = asyncio.create_task(budget.spend(1).__aenter__())
            await asyncio.sleep(0.01)
            assert not second.done()
        await asyncio.wait_for(second, 60)

    asyncio.run(main())


def test_callers_who_leave_free_their_share():
    async def main():
        budget = PixelBudget(100)

        async def hold(pixels):
            async with budget.spend(pixels):
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(hold(60)) for _ in range(4)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()  # waits
        tasks[0].cancel()  # holds
        await asyncio.sleep(0.01)
        for task in tasks[2:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(60), budget.spend(100):
            pass

    asyncio.run(main())


def test_limits_are_positive():
    with pytest.raises(ValueError, match="max_waiting must be positive, not 0"):
        LimitsConfig(max_waiting=0)


def test_share_of_an_ingress_suffices_for_the_largest_request_and_sums_to_the_limit():
    limits = LimitsConfig(max_pixels_inside=100, max_pixels=30, decode_processes=3)
    assert limits.of_one(1) == limits
    share = limits.of_one(2)
    assert (share.max_pixels_inside, share.decode_processes) == (50, 1)
    assert share.max_waiting == limits.max_waiting
    assert limits.of_one(16).max_pixels_inside == 30
    assert limits.of_one(16).max_body_bytes_inside == 2**26


def test_machine_of_four_cores_has_two_ingresses_unless_told_otherwise(monkeypatch):
    for cores, number in ((2, 1), (4, 2), (64, 2)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert ServeConfig().num_ingresses == number
    assert ServeConfig(ingress_replicas=3).num_ingresses == 3
    with pytest.raises(ValueError, match="ingress_replicas must be 0 to 16"):
        ServeConfig(ingress_replicas=17)


@pytest.mark.parametrize(
    "path", ["infill.pipeline.serving.replica.ingress", "infill.pipeline.job_runner.deployment"]
)
def test_serve_takes_the_builders_of_the_application(path):
    builder = importlib.import_module(path).application
    assert len(inspect.signature(builder).parameters) == 1  # Serve refuses all others.
