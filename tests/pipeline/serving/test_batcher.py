import asyncio

import pytest

from infill.pipeline.serving.replica.batcher import Batcher


class Network:
    """Notes its batches; on request, it works on the first until it is released."""

    def __init__(self, holds: bool = False, size: int = 4) -> None:
        self.batches: list[tuple[str, list]] = []
        self.started, self.released = asyncio.Event(), asyncio.Event()
        if not holds:
            self.released.set()
        self.batcher = Batcher(self.compute, lambda key: size, wait_s=0.005)

    async def compute(self, key, items):
        self.batches.append((key, list(items)))
        self.started.set()
        await self.released.wait()
        if "poison" in items:
            raise RuntimeError("poison")
        return [f"{key}{item}" for item in items]


def test_items_that_arrive_together_share_a_batch_of_their_key():
    async def main():
        network = Network()
        submit = network.batcher.submit
        answers = await asyncio.gather(*(submit("ab"[i % 2], i) for i in range(6)))
        return network.batches, answers

    batches, answers = asyncio.run(main())
    assert answers == ["a0", "b1", "a2", "b3", "a4", "b5"]
    assert batches == [("a", [0, 2, 4]), ("b", [1, 3, 5])]


def test_items_that_arrive_while_the_network_is_busy_form_one_batch():
    async def main():
        network = Network(holds=True)
        tasks = [asyncio.create_task(network.batcher.submit("k", 0))]
        await network.started.wait()
        for item in range(1, 5):
            tasks.append(asyncio.create_task(network.batcher.submit("k", item)))
            await asyncio.sleep(0.01)
        network.released.set()
        await asyncio.gather(*tasks)
        return network.batches

    assert asyncio.run(main()) == [("k", [0]), ("k", [1, 2, 3, 4])]


def test_full_batch_leaves_the_rest_for_the_next_and_the_longest_waiting_key_is_first():
    async def main():
        network = Network(size=2)
        submit = network.batcher.submit
        await asyncio.gather(*(submit("a", i) for i in range(3)), submit("b", 9))
        return network.batches

    assert asyncio.run(main()) == [("a", [0, 1]), ("a", [2]), ("b", [9])]


def test_cancelled_items_are_not_computed():
    async def main():
        network = Network(holds=True)
        submit = network.batcher.submit
        first = asyncio.create_task(submit("k", "first"))
        await network.started.wait()
        left = [asyncio.create_task(submit("gone", i)) for i in range(2)]
        stays = asyncio.create_task(submit("k", "stays"))
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        await asyncio.sleep(0)
        network.released.set()
        return await first, await stays, network.batches

    first, stays, batches = asyncio.run(main())
    assert (first, stays) == ("kfirst", "kstays")
    assert batches == [("k", ["first"]), ("k", ["stays"])]


def test_failure_belongs_to_its_batch_alone():
    async def main():
        submit = Network().batcher.submit
        failing = asyncio.create_task(submit("bad", "poison"))
        fine = asyncio.create_task(submit("good", 1))
        with pytest.raises(RuntimeError, match="poison"):
            await failing
        assert await fine == "good1"
        assert await submit("bad", 2) == "bad2"

    asyncio.run(main())


def test_so_many_batches_are_computed_beside_each_other_and_the_rest_waits():
    async def main():
        network = Network(holds=True)
        network.batcher = Batcher(network.compute, lambda key: 4, wait_s=0, at_once=2)
        tasks = []
        for item in range(7):
            tasks.append(asyncio.create_task(network.batcher.submit("k", item)))
            await asyncio.sleep(0.01)
        busy = list(network.batches)
        network.released.set()
        answers = await asyncio.gather(*tasks)
        later = await network.batcher.submit("k", 7)
        return busy, network.batches, [*answers, later]

    busy, batches, answers = asyncio.run(main())
    assert busy == [("k", [0]), ("k", [1])]
    assert batches == [*busy, ("k", [2, 3, 4, 5]), ("k", [6]), ("k", [7])]
    assert answers == [f"k{item}" for item in range(8)]


def test_interactive_items_go_before_background_ones_but_not_forever():
    async def main():
        network = Network(holds=True, size=2)
        submit = network.batcher.submit
        tasks = [asyncio.create_task(submit("k", "first"))]
        await network.started.wait()
        tasks += [asyncio.create_task(submit("old", f"b{i}", background=True)) for i in range(3)]
        tasks += [asyncio.create_task(submit("k", i, background=i == 0)) for i in range(15)]
        await asyncio.sleep(0)
        network.released.set()
        await asyncio.gather(*tasks)
        return network.batches

    _, *batches = asyncio.run(main())
    interactive = [("k", [1, 2]), ("k", [3, 4]), ("k", [5, 6]), ("k", [7, 8]), ("k", [9, 10])]
    assert batches[:6] == [*interactive, ("k", [11, 12])]
    assert batches[6] == ("old", ["b0", "b1"])  # the eighth batch goes by age
    assert batches[7:] == [("k", [13, 14]), ("old", ["b2"]), ("k", [0])]
