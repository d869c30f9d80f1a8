"""Both objectives over two processes; this file is also the program that each of them runs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.architecture import Batch, Objective
from models.spn import ARCHITECTURE
from models.spn.config import SPNConfig

WORLD = 2
TINY = replace(
    SPNConfig.tiny(), channels=4, prior_stop_step=1, learning_rate=1e-3, perceptual_weights="random"
)


def global_batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    image = torch.rand(4, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1
    mask = torch.zeros(4, 1, 32, 32, dtype=torch.float64)
    for index in range(4):
        mask[index, :, 4 * index : 15 + 2 * index, 5:25] = 1
    return Batch(image=image, mask=mask, step=step, seed=step)


def share(batch: Batch, rank: int, world: int) -> Batch:
    return replace(
        batch, image=batch.image[rank::world], mask=batch.mask[rank::world], seed=batch.seed + rank
    )


def trained(variant: str, rank: int, world: int, spread: bool) -> Objective:
    """Take two steps, the last without prior loss; float64 leaves only the order of sums."""

    def prepare(network: nn.Module) -> nn.Module:
        network = network.double()
        return DistributedDataParallel(network) if spread else network

    torch.manual_seed(7)
    objective = ARCHITECTURE.objective(replace(TINY, variant=variant), prepare)
    if variant == "probabilistic":
        objective.perceptual.double()
    for step in range(2):
        losses = objective.step(share(global_batch(step), rank, world))
        assert all(loss.isfinite() for loss in losses.values())
    return objective


def state_of(objective: Objective) -> dict[str, torch.Tensor]:
    return {
        f"{role}.{name}": tensor
        for role, network in objective.networks.items()
        for name, tensor in network.state_dict().items()
    }


def work(variant: str, rank: int, folder: Path) -> None:
    """Run as one of two processes and leave the weights in the folder."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), WORLD)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    torch.save(state_of(trained(variant, rank, WORLD, spread=True)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def weights_of_both(variant: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    command = [sys.executable, __file__, variant]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(WORLD)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_from_the_same_batches(tmp_path: Path) -> None:
    first, second = weights_of_both("deterministic", tmp_path)
    alone = state_of(trained("deterministic", 0, 1, spread=False))
    assert first.keys() == alone.keys()
    for key, tensor in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, rtol=0, atol=1e-7, msg=key)


@pytest.mark.slow
def test_processes_of_the_probabilistic_variant_stay_alike(tmp_path: Path) -> None:
    first, second = weights_of_both("probabilistic", tmp_path)
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
