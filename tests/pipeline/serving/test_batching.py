import asyncio

import pytest

from pipeline.serving.batching import Batcher


def batcher(batches: list, busy_s: float = 0.02, wait_s: float = 0.005, size: int = 4) -> Batcher:
    async def compute(key, items):
        batches.append((key, list(items)))
        await asyncio.sleep(busy_s)
        if "poison" in items:
            raise RuntimeError("poison")
        return [f"{key}{item}" for item in items]

    return Batcher(compute, lambda key: size, wait_s)


def test_items_that_arrive_together_share_a_batch_of_their_key():
    batches = []

    async def main():
        one = batcher(batches)
        return await asyncio.gather(*(one.submit("ab"[i % 2], i) for i in range(6)))

    assert asyncio.run(main()) == ["a0", "b1", "a2", "b3", "a4", "b5"]
    assert batches == [("a", [0, 2, 4]), ("b", [1, 3, 5])]


def test_items_that_arrive_while_the_network_is_busy_form_one_batch():
    batches = []

    async def main():
        one = batcher(batches, busy_s=0.1)
        tasks = [asyncio.create_task(one.submit("k", 0))]
        for item in range(1, 5):
            await asyncio.sleep(0.015)
            tasks.append(asyncio.create_task(one.submit("k", item)))
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert batches == [("k", [0]), ("k", [1, 2, 3, 4])]


def test_full_batch_leaves_the_rest_for_the_next_and_the_longest_waiting_key_is_first():
    batches = []

    async def main():
        one = batcher(batches, size=2)
        await asyncio.gather(*(one.submit("a", i) for i in range(3)), one.submit("b", 9))

    asyncio.run(main())
    assert batches == [("a", [0, 1]), ("a", [2]), ("b", [9])]


def test_cancelled_items_are_not_computed():
    batches = []

    async def main():
        one = batcher(batches, busy_s=0.05)
        first = asyncio.create_task(one.submit("k", "first"))
        await asyncio.sleep(0.02)
        left = [asyncio.create_task(one.submit("gone", i)) for i in range(2)]
        stays = asyncio.create_task(one.submit("k", "stays"))
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        return await first, await stays

    assert asyncio.run(main()) == ("kfirst", "kstays")
    assert batches == [("k", ["first"]), ("k", ["stays"])]


def test_failure_belongs_to_its_batch_alone():
    async def main():
        one = batcher([])
        failing = asyncio.create_task(one.submit("bad", "poison"))
        fine = asyncio.create_task(one.submit("good", 1))
        with pytest.raises(RuntimeError, match="poison"):
            await failing
        assert await fine == "good1"
        assert await one.submit("bad", 2) == "bad2"

    asyncio.run(main())
