"""DeepFill v1 under data parallelism: the penalty's second backward pass, and equal updates."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = '''
"""Take two steps on this worker's share of a batch, in double precision."""

import sys
from dataclasses import replace

import torch
from torch.nn.parallel import DistributedDataParallel

from models.architecture import Batch
from models.deepfill.config import DeepFillConfig
from models.deepfill.objective import DeepFillObjective

rank, workers, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if workers > 1:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers
    )


def prepare(network):
    network.double()
    return DistributedDataParallel(network) if workers > 1 else network


torch.manual_seed(rank)  # the first worker's weights are sent to the others
config = replace(DeepFillConfig.tiny(), critic_batches="fresh")
objective = DeepFillObjective(config, prepare)
drawn = torch.Generator().manual_seed(5)
for step in range(2):
    image = torch.rand(6, 3, 64, 64, generator=drawn, dtype=torch.float64) * 2 - 1
    mask = torch.zeros(6, 1, 64, 64, dtype=torch.float64)
    for index in range(6):
        mask[index, :, 8 + index : 30 + index, 20 : 44 - 2 * index] = 1
    keys = tuple(f"photo{index}" for index in range(6))
    objective.step(
        Batch(
            image=image[rank::workers],
            mask=mask[rank::workers],
            keys=keys[rank::workers],
            step=step,
            seed=rank,
        )
    )
if rank == 0:
    torch.save({r: n.state_dict() for r, n in objective.networks.items()}, f"{folder}/{workers}.pt")
if workers > 1:
    torch.distributed.destroy_process_group()
'''


@pytest.mark.slow
def test_two_workers_make_the_updates_of_one(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    root = Path(__file__).parents[3]
    for workers in (1, 2):
        running = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(workers), str(tmp_path)],
                env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": ""},
            )
            for rank in range(workers)
        ]
        assert [process.wait(timeout=240) for process in running] == [0] * workers
    one, two = (torch.load(tmp_path / f"{workers}.pt") for workers in (1, 2))
    for role, state in one.items():
        for name, value in state.items():
            torch.testing.assert_close(
                two[role][name], value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
