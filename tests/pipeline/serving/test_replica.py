import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from infill.models.architecture import fill
from infill.models.spn.networks import Generator
from infill.pipeline.checkpoints import load_generator
from infill.pipeline.errors import UserError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.config import ReplicaConfig, ServeConfig
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.replica.deployment import deployment_schema
from infill.pipeline.serving.replica.model_cache import ModelCache
from infill.pipeline.serving.replica.replica import Replica


def tile(make, seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    hole = make.hole(side, side, slice(10, 30), slice(20, 40 + seed))
    return make.photograph(side, side, seed=seed), hole.astype(np.uint8)


def test_prediction_is_that_of_the_checkpoint_s_generator(replica, spn, make):
    image, mask = tile(make, 0)
    filled = asyncio.run(replica.fill("", image, mask))
    generator = load_generator(spn.location).generator
    values = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 127.5 - 1
    with torch.no_grad():
        expected = fill(generator.double(), values, torch.from_numpy(mask)[None, None].double(), 4)
    levels = ((expected[0].permute(1, 2, 0).double() + 1) * 127.5).clamp(0, 255).numpy()
    assert np.abs(filled.predictions[0] - levels).max() < 0.51
    assert filled.model == spn


def test_tiles_of_one_size_share_a_pass_and_get_their_own_pictures(replica, make):
    sides = [64, 64, 128, 64]
    tiles = [tile(make, seed, side) for seed, side in enumerate(sides)]

    async def together():
        return await asyncio.gather(*(replica.fill("spn", *one) for one in tiles))

    filled = asyncio.run(together())
    assert [one.batch_size for one in filled] == [3, 3, 1, 3]
    for one, answer in zip(tiles, filled, strict=True):
        alone = asyncio.run(replica.fill("spn", *one)).predictions[0]
        assert np.abs(answer.predictions[0].astype(int) - alone).max() <= 1
        assert answer.predictions[0].shape == one[0].shape


def test_batches_are_bounded_in_pixels_and_in_number(spn, make):
    replica = Replica(ReplicaConfig(max_batch_size=3, max_batch_px=2 * 128 * 128))
    replica.reconfigure({"models": [vars(spn)]})

    async def sizes(side):
        tiles = [tile(make, seed, side) for seed in range(4)]
        filled = await asyncio.gather(*(replica.fill("", *one) for one in tiles))
        return [one.batch_size for one in filled]

    assert asyncio.run(sizes(64)) == [3, 3, 3, 1]
    assert asyncio.run(sizes(128)) == [2, 2, 2, 2]
    assert asyncio.run(sizes(256)) == [1, 1, 1, 1]


def test_swap_changes_the_answer_and_waiting_requests_get_the_new_version(
    replica, spn, newer_spn, make
):
    image, mask = tile(make, 3)

    async def main():
        before = await replica.fill("spn", image, mask)
        waiting = [asyncio.create_task(replica.fill("spn", image, mask)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.to_thread(replica.reconfigure, {"models": [vars(newer_spn)]})
        return before, await asyncio.gather(*waiting), await replica.fill("spn", image, mask)

    before, waiting, after = asyncio.run(main())
    assert (before.model, after.model) == (spn, newer_spn)
    assert all(one.model in (spn, newer_spn) for one in waiting)
    assert (before.predictions != after.predictions).any()


def test_version_that_cannot_be_loaded_leaves_the_old_one_in_service(replica, spn, newer_spn, make):
    missing = {**vars(newer_spn), "location": newer_spn.location + "-gone"}
    with pytest.raises(UserError, match="gone"):
        replica.reconfigure({"models": [missing]})
    assert asyncio.run(replica.fill("spn", *tile(make, 0))).model == spn
    asyncio.run(replica.check_health())


def test_several_models_are_distinguished_by_name_and_version(spn, newer_spn, make):
    challenger = {**vars(newer_spn), "reference": "spn@challenger"}
    replica = Replica(ReplicaConfig())
    replica.reconfigure({"models": [vars(spn), challenger]})
    names = ["", "spn", "spn@champion", "spn@1", "spn@challenger", "spn@2"]
    versions = [asyncio.run(replica.fill(name, *tile(make, 0))).model.version for name in names]
    assert versions == ["1", "1", "1", "1", "2", "2"]
    with pytest.raises(RequestError, match="no model 'madf' is served; there is spn@1, spn@2"):
        asyncio.run(replica.fill("madf", *tile(make, 0)))


def test_replica_without_a_model_is_not_healthy():
    with pytest.raises(RuntimeError, match="no model"):
        asyncio.run(Replica(ReplicaConfig()).check_health())


def answered_by(replica, make, wanted: str = "", count: int = 1) -> set[str]:
    return {asyncio.run(replica.fill(wanted, *tile(make, 0))).model.version for _ in range(count)}


def test_canary_answers_its_share_of_what_names_no_version(replica, spn, newer_spn, make):
    models, canaries = [vars(spn)], [vars(newer_spn)]
    replica.reconfigure({"models": models, "canaries": canaries, "canary_share": 1.0})
    for wanted in ("", "spn", "spn@champion", "spn@2"):
        assert answered_by(replica, make, wanted) == {"2"}
    assert answered_by(replica, make, "spn@1") == {"1"}
    count = asyncio.run(replica.canary_count())
    assert (count.answers, count.failures) == (3, 0)
    replica.reconfigure({"models": models, "canaries": canaries, "canary_share": 0.3})
    versions = [answered_by(replica, make).pop() for _ in range(100)]
    assert 10 <= versions.count("2") <= 60
    replica.reconfigure({"models": models})
    assert answered_by(replica, make, count=9) == {"1"}


def test_failing_canary_costs_no_caller_anything(replica, spn, newer_spn, make, monkeypatch):
    canaries = {"canaries": [vars(newer_spn)], "canary_share": 1.0}
    replica.reconfigure({"models": [vars(spn)], **canaries})
    monkeypatch.setattr(replica._take(newer_spn).generator, "forward", lambda *_: 1 / 0)
    assert answered_by(replica, make, count=4) == {"1"}
    count = asyncio.run(replica.canary_count())
    assert (count.answers, count.failures) == (0, 4)


def test_canary_that_cannot_be_loaded_counts_as_failed(replica, spn, newer_spn, make):
    missing = {**vars(newer_spn), "location": newer_spn.location + "-gone"}
    replica.reconfigure({"models": [vars(spn)], "canaries": [missing], "canary_share": 1.0})
    assert answered_by(replica, make, count=3) == {"1"}
    assert asyncio.run(replica.canary_count()).failures == 1


def test_models_beyond_the_memory_are_let_go_and_loaded_again(spn, newer_spn, make, monkeypatch):
    newer = {**vars(newer_spn), "name": "madf", "reference": "madf@champion"}
    replica = Replica(ReplicaConfig(memory_gb=1e-9))  # One at a time.
    replica.reconfigure({"models": [vars(spn), newer]})
    assert replica._cache.names == [spn.digest]
    free = Replica(ReplicaConfig())
    free.reconfigure({"models": [vars(spn), newer]})
    assert len(free._cache.names) == 2
    for wanted, held in (("madf", newer_spn), ("spn", spn), ("madf", newer_spn)):
        one, other = (asyncio.run(r.fill(wanted, *tile(make, 0))) for r in (replica, free))
        np.testing.assert_array_equal(one.predictions, other.predictions)
        assert replica._cache.names == [held.digest]
    monkeypatch.setattr("infill.pipeline.serving.replica.replica.load_generator", lambda *_: 1 / 0)
    with pytest.raises(RequestError, match="cannot be loaded just now") as refused:
        asyncio.run(replica.fill("spn", *tile(make, 0)))
    assert refused.value.status_code == 503
    assert asyncio.run(replica.fill("madf", *tile(make, 0))).model.name == "madf"


def test_what_is_held_is_given_out_while_something_is_loaded():
    cache = ModelCache(len, 0)
    cache.take("a", lambda: "first")
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        loading.set()
        go_on.wait(10)
        return "second"

    waiting = threading.Thread(target=cache.take, args=("b", slow))
    waiting.start()
    loading.wait(10)
    assert cache.take("a", lambda: 1 / 0) == "first"
    go_on.set()
    waiting.join()
    assert cache.names == ["a", "b"]
    cache.keep({"b"})
    assert cache.names == ["b"]
    assert cache.size == len("second")


def test_version_has_predicted_every_configured_shape_before_it_answers(spn):
    sides = set()

    def note(module, arguments):
        if isinstance(module, Generator):
            sides.add(tuple(arguments[0].shape[-2:]))

    replica = Replica(ReplicaConfig(warm_sides_px=(32, 96)))
    with register_module_forward_pre_hook(note):
        replica.reconfigure({"models": [vars(spn)]})
    assert sides == {(32, 32), (64, 64), (96, 96)}


def test_version_has_predicted_the_batches_that_will_come(spn):
    shapes = []

    def note(module, arguments):
        if isinstance(module, Generator):
            shapes.append((len(arguments[0]), arguments[0].shape[-1]))

    config = ServeConfig(max_batch_size=6, max_batch_px=5 * 96 * 96, compile=True).replica
    assert config.warm_batch_sizes(64) == [1, 2, 4, 6]
    assert config.warm_batch_sizes(96) == [1, 2, 4, 5]
    assert config.warm_batch_sizes(512) == [1]
    replica = Replica(replace(config, compile=False, warm_sides_px=(96,)))
    with register_module_forward_pre_hook(note):
        replica.reconfigure({"models": [vars(spn)]})
    assert shapes == [(size, 64) for size in (1, 2, 4, 6)] + [(size, 96) for size in (1, 2, 4, 5)]


def test_bfloat16_and_compiled_replicas_answer_nearly_the_same(spn, make, monkeypatch):
    """A compiler that takes a second is not needed to see that the generator is compiled."""
    monkeypatch.setattr(torch, "compile", lambda call, *rest, **named: compiled.append(1) or call)
    compiled = []
    answers = []
    for precision, compile in (("float32", False), ("bfloat16", True)):
        replica = Replica(ServeConfig(precision=precision, compile=compile).replica)
        replica.reconfigure({"models": [vars(spn)]})
        filled = asyncio.run(replica.fill("", *tile(make, 0)))
        answers.append(filled.predictions.astype(int))
    difference = np.abs(answers[0] - answers[1])
    assert compiled == [1]
    assert 0 < difference.max() <= 16
    assert difference.mean() < 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"use_gpu": True, "gpus_per_replica": 2.0}, "at most 1, not 2"),
        ({"use_gpu": True, "gpus_per_replica": 0.0}, "above 0"),
        ({"gpus_per_replica": 0.5}, "needs use_gpu"),
        ({"max_batch_px": 0}, "max_batch_px must be at least 1"),
    ],
)
def test_impossible_shares_of_a_gpu_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        ServeConfig(**fields)


def test_replicas_that_share_a_gpu_share_its_memory(monkeypatch):
    caps = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
    config = ServeConfig(use_gpu=True, gpus_per_replica=0.25)
    replica = next(
        d for d in deployment_schema(config, [])["deployments"] if d["name"] == "replica"
    )
    assert replica["ray_actor_options"]["num_gpus"] == 0.25
    Replica(config.replica)
    assert caps == [0.25]


def test_service_on_gpus_warms_every_tile():
    tile = TilingConfig(sides_px=(64, 128), least_crop_px=64)
    assert ServeConfig(tiling=tile, use_gpu=True).replica.warm_sides_px == (64, 128)
    assert ServeConfig(tiling=tile).replica.warm_sides_px == ()


def test_further_tiles_are_tried_before_a_version_has_requests():
    tile = TilingConfig(sides_px=(64, 512), extend_to_px=1024)
    assert ServeConfig(tiling=tile).replica.warm_sides_px == (768, 1024)
    assert ServeConfig(tiling=tile, use_gpu=True).replica.warm_sides_px == (64, 512, 768, 1024)


@pytest.mark.gpu
def test_two_batches_in_flight_on_a_gpu_answer_as_a_cpu_does(spn, make):
    tiles = [tile(make, seed, side) for seed in range(4) for side in (64, 128)]
    config = ServeConfig(use_gpu=True, gpus_per_replica=0.5, max_batch_size=2).replica
    answers = []
    for settings in (config, replace(config, device="cpu", gpu_memory_share=1.0)):
        replica = Replica(settings)
        replica.reconfigure({"models": [vars(spn)]})

        async def together(served: Replica = replica):
            return await asyncio.gather(*(served.fill("spn", *one) for one in tiles))

        answers.append([one.predictions.astype(int) for one in asyncio.run(together())])
    for on_gpu, on_cpu in zip(*answers, strict=True):
        assert np.abs(on_gpu - on_cpu).max() <= 1
