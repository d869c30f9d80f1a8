"""Elastic training skips numbers of workers that cannot share the batch."""

import asyncio
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.state import InitializingState

from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints
from infill.pipeline.config import override
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, train
from infill.pipeline.training.elastic import (
    SharingPolicy,
    SharingTrainer,
    TrainControllerBesideDriver,
)


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
        trainer = SharingTrainer(print, sizes=(1,), watch=None, datasets=sets)
        callbacks = trainer._create_default_callbacks()
        assert not any(isinstance(one, PlacementGroupCleanerCallback) for one in callbacks)
        assert any(isinstance(one, DatasetsCallback) for one in callbacks) == expected


def test_the_controller_receives_the_policy() -> None:
    elastic = ScalingConfig(num_workers=(2, 8))
    trainer = SharingTrainer(print, sizes=(2, 8), watch=None, scaling_config=elastic)
    policy = pickle.loads(pickle.dumps(trainer._policy()["scaling_policy"]))
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
