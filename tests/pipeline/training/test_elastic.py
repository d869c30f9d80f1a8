"""Elastic training skips numbers of workers that cannot share the batch."""

import asyncio
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.state import InitializingState

from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, train
from infill.pipeline.training.elastic import (
    SharingPolicy,
    SharingTrainer,
    TrainControllerBesideDriver,
)
from infill.pipeline.training.resource_requests import NAMESPACE


def test_numbers_that_do_not_divide_the_batch_are_left_out(config: TrainConfig) -> None:
    data = BatchConfig(batch_size=8, image_size_px=64)
    elastic = TrainConfig(model=SPNConfig.tiny(), data=data, num_workers=8, min_workers=3)
    assert elastic.worker_numbers == (4, 8)
    assert override(elastic, {"min_workers": 0}).worker_numbers == (8,)
    data = BatchConfig(batch_size=24, image_size_px=64)
    parted = TrainConfig(
        model=SPNConfig.tiny(), data=data, num_workers=8, min_workers=2, accumulate=3
    )
    assert parted.worker_numbers == (2, 4, 8)  # 6 workers have 4 samples each, not 3 parts.


@pytest.mark.parametrize(
    ("gpus", "expected"), [((8,), 8), ((4, 3), 4), ((2, 3), 4), ((7,), 4), ((3,), 0), ((), 0)]
)
def test_ray_s_own_policy_chooses_the_largest_that_divides(
    gpus: tuple[int, ...], expected: int
) -> None:
    scaling = ScalingConfig(num_workers=(4, 8), use_gpu=True)
    policy = SharingPolicy(scaling, (4, 8))
    nodes = {f"node-{i}": {"GPU": float(n), "CPU": 64.0} for i, n in enumerate(gpus)}
    assert policy._count_possible_workers(nodes) == expected


def test_a_controller_that_waits_for_resources_pauses_between_two_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray's own loop would keep a core busy."""
    controller, paused = object.__new__(TrainControllerBesideDriver), list[float]()

    async def look(self: TrainController) -> None:
        self._state = waiting if not paused else InitializingState()

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    controller._state = waiting = InitializingState()
    monkeypatch.setattr(TrainController, "_run_control_loop_iteration", look)
    monkeypatch.setattr(asyncio, "sleep", pause)
    for _ in range(2):
        asyncio.run(controller._run_control_loop_iteration())
    assert len(paused) == 1


def test_no_actor_starts_that_has_nothing_to_do() -> None:
    """Workers read shards themselves, so Ray Data has no part unless a set of its own is given.

    The driver frees the resources of a dead controller.
    """
    for sets, expected in (({}, False), ({"train": "a set"}, True)):
        trainer = SharingTrainer(
            print, sizes=(1,), monitor=None, failure_policy=None, datasets=sets
        )
        callbacks = trainer._create_default_callbacks()
        assert not any(isinstance(one, PlacementGroupCleanerCallback) for one in callbacks)
        assert any(isinstance(one, DatasetsCallback) for one in callbacks) == expected


def test_the_controller_receives_the_policy() -> None:
    elastic = ScalingConfig(num_workers=(2, 8))
    trainer = SharingTrainer(
        print, sizes=(2, 8), monitor=None, failure_policy=None, scaling_config=elastic
    )
    policy = pickle.loads(pickle.dumps(trainer._policies()["scaling_policy"]))
    assert policy.sizes == (2, 8)
    assert policy._count_possible_workers({"node": {"CPU": 7.0}}) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_starts_on_the_workers_that_share_its_batch(
    ray_local: Any, config: TrainConfig, tmp_path: Path
) -> None:
    """Three workers have room; two are started, because three cannot share four samples."""
    import ray

    cpus = ray.cluster_resources()["CPU"] / 3.5
    changes = {"num_workers": 4, "min_workers": 1, "cpus_per_worker": cpus, "steps": 2}
    lines: list[str] = []
    train(replace(config, **changes, storage=str(tmp_path / "elastic")), lines.append)
    assert checkpoints.steps(str(tmp_path / "elastic"))[-1] == 2
    assert any("training on 2 of up to 4 workers" in line for line in lines), lines


@pytest.fixture
def requests(ray_local: Any) -> Iterator[Callable[[], set[str]]]:
    """Give the requests that Ray's coordinator holds, one of which is of a program not ours."""
    import ray

    coordinator = get_or_create_autoscaling_coordinator()
    asked = {"requester_id": "train-other", "resources": [{"CPU": 0.25}], "expire_after_s": 900.0}
    ray.get(coordinator.request_resources.remote(**asked))
    yield lambda: set(
        ray.get(coordinator.__ray_call__.remote(lambda actor: list(actor._ongoing_reqs)))
    )
    ray.get(coordinator.cancel_request.remote("train-other"))


@pytest.mark.slow
def test_an_elastic_training_does_not_wait_for_what_a_killed_one_has_asked_for(
    requests: Callable[[], set[str]], config: TrainConfig, tmp_path: Path
) -> None:
    """Requests of trainings that live, and of other programs, stay."""
    import ray

    def requests_while_trained(run: TrainConfig) -> set[str]:
        """Train until the requests are known, and kill the controller."""
        found: list[set[str]] = []

        def kill(line: str) -> None:
            if "step 2/" in line and not found:
                found.append(requests())
                for name in found[0]:
                    with suppress(ValueError):  # It is not ours, or dead.
                        ray.kill(ray.get_actor(name, namespace=NAMESPACE))

        with pytest.raises(UserError, match="controller of this training died"):
            train(replace(run, steps=10**6, max_failures=0), kill)
        return found[0]

    before = requests()
    first = requests_while_trained(replace(config, num_workers=1)) - before
    assert len(first) == 1
    elastic = replace(config, num_workers=2, min_workers=1, storage=str(tmp_path / "elastic"))
    second = requests_while_trained(elastic)
    assert second.isdisjoint(first)
    assert len(second - before) == 1
    assert "train-other" in second
