"""Every architecture over two processes, without Ray; this file is also their program."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm

from infill.models import architecture
from infill.models.architecture import Batch, Objective, Updating
from infill.pipeline.training.distributed import WorkerContext

WORLD = 2
STEPS = 2
DEADLINE_S = 500
TAUGHT = {"prior_stop_step": 1, "channels": 4, "learning_rate": 1e-3}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "deepfill": {"critic_batches": "fresh"},
    "deepfill, coarse network first": {"critic_batches": "fresh", "coarse_steps": 1},
    "deepfill2": {"discriminator_batches": "fresh"},
    "deepgin, L1 first": {"warm_up_epochs": 1, "perceptual_weight": 0.0, "style_weight": 0.0},
    "lama, generated once": {"generates_again": False},
    "spn": TAUGHT,
    "spn, probabilistic": {
        **TAUGHT,
        "variant": "probabilistic",
        "perceptual_weights": "random",
    },
}
"""Changes of an architecture's tiny configuration, whose steps update different networks."""
CASES = [*architecture.names(), *(case for case in CHANGES if "," in case)]
# The noise of a worker comes from its own seed, and the loss that two pictures be different is no
# mean over samples.
# LaMa's discriminator learns from the updated generator, which a batch in parts meets in its last
# part only: "generated once" has the rest.
NOT_OF_ONE = {"spn, probabilistic", "lama"}
every_case = pytest.mark.parametrize("case", CASES)
State = dict[str, Tensor]


def global_batch(step: int, count: int, side: int) -> Batch:
    """Return noise with holes at different positions, whose areas are alike on both workers."""
    generator = torch.Generator().manual_seed(step)
    image = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, side, side)
    for index in range(count):
        top, left, height = 4 + index, 4 + 6 * (index % 2), side // 3 + 4 * (index // 2)
        mask[index, :, top : top + height, left : left + side // 3] = 1
    keys = tuple(f"sample{index}" for index in range(count))
    return Batch(image=image, mask=mask, keys=keys, mask_ids=keys, step=step, seed=step)


def share(batch: Batch, rank: int) -> Batch:
    """Return the samples of one worker, as the sampler gives them."""
    return replace(
        batch,
        image=batch.image[rank::WORLD],
        mask=batch.mask[rank::WORLD],
        keys=batch.keys[rank::WORLD],
        mask_ids=batch.mask_ids[rank::WORLD],
        seed=batch.seed + rank,
    )


def one_after_the_other(batch: Batch) -> Batch:
    """Return the shares of all workers as one batch."""
    shares = [share(batch, rank) for rank in range(WORLD)]
    return replace(
        batch,
        image=torch.cat([one.image for one in shares]),
        mask=torch.cat([one.mask for one in shares]),
        keys=sum((one.keys for one in shares), ()),
        mask_ids=sum((one.mask_ids for one in shares), ()),
    )


def has_batch_norm(objective: Objective) -> bool:
    return any(
        isinstance(module, _BatchNorm)
        for network in objective.networks.values()
        for module in network.modules()
    )


def trained(case: str, place: WorkerContext) -> State:
    """Take two steps and return all that a checkpoint holds of the networks."""
    name = case.partition(",")[0]
    paper = architecture.load(name)
    config = replace(paper.config.tiny(), **CHANGES.get(case, {}))
    # Each worker begins with other weights: those of the first are sent to the others.
    torch.manual_seed(7 + place.rank)
    objective = paper.objective(config, place.prepare)
    in_parts = place.world_size == 1 and has_batch_norm(objective)
    if in_parts:
        # Batch norms take their statistics over a worker's share: so does a part of a batch.
        objective.updating = Updating(parts=WORLD)
    for step in range(STEPS):
        # DeepFill's critics are made for one size, and take two of three slices of a batch.
        count, side = (6, 64) if name == "deepfill" else (4, max(32, config.size_multiple))
        batch = global_batch(step, count, side)
        if place.world_size > 1:
            batch = share(batch, place.rank)
        elif in_parts:
            batch = one_after_the_other(batch)
        losses = objective.step_with_accumulation(batch)
        assert all(loss.isfinite() for loss in losses.values()), losses
    return {
        f"{role}.{key}": tensor
        for role, network in objective.networks.items()
        for key, tensor in network.state_dict().items()
    }


def work(rank: int, folder: Path, cases: list[str]) -> None:
    """Train with the other process, and every second case also alone."""
    torch.set_num_threads(1)
    # Only the order of sums is left to differ.
    torch.set_default_dtype(torch.float64)
    store = distributed.FileStore(str(folder / "store"), WORLD)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    states = {
        "alone": {case: trained(case, WorkerContext()) for case in cases[rank::WORLD]},
        "together": {
            case: trained(case, WorkerContext(rank=rank, world_size=WORLD)) for case in cases
        },
    }
    torch.save(states, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> list[dict[str, dict[str, State]]]:
    """Return the results of the two processes for the given cases."""
    folder = tmp_path_factory.mktemp("workers")
    here = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params["case"] for item in here}
    cases = [case for case in CASES if case in asked]
    root = str(Path(__file__).parents[2])
    processes = []
    for rank in range(WORLD):
        with (folder / f"{rank}.txt").open("w") as said:
            processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, str(rank), str(folder), *cases],
                    env={**os.environ, "PYTHONPATH": root},
                    stderr=said,
                )
            )
    try:
        codes = [process.wait(timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * WORLD, [
        (folder / f"{rank}.txt").read_text()[-3000:] for rank in range(WORLD)
    ]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.timeout(DEADLINE_S + 60)
@every_case
def test_both_processes_have_the_same_weights_to_the_bit(
    case: str, results: list[dict[str, dict[str, State]]]
) -> None:
    first, second = (result["together"][case] for result in results)
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        # Running statistics are those of a worker's own share.
        if ".running_" not in key:
            assert torch.equal(tensor, second[key]), key


@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_OF_ONE])
def test_two_processes_make_the_updates_of_one_on_the_whole_batch(
    case: str, results: list[dict[str, dict[str, State]]]
) -> None:
    first = results[0]["together"][case]
    alone = next(result["alone"][case] for result in results if case in result["alone"])
    assert first.keys() == alone.keys()
    for key, tensor in alone.items():
        if ".running_" not in key and "num_batches_tracked" not in key:
            torch.testing.assert_close(first[key], tensor, rtol=0, atol=1e-9, msg=key)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
