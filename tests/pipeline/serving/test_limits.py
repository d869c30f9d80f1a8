import asyncio
import importlib
import inspect

import pytest

from infill.pipeline.serving.limits import LimitsConfig, PixelBudget


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


@pytest.mark.parametrize(
    "path", ["infill.pipeline.serving.replica.ingress", "infill.pipeline.job_runner.deployment"]
)
def test_serve_takes_the_builders_of_the_application(path):
    builder = importlib.import_module(path).application
    assert len(inspect.signature(builder).parameters) == 1  # Serve refuses all others.
