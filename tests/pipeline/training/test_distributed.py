"""Distributed training: gradients, buffers and batch statistics across workers."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infill.pipeline.training.distributed import buffers_sent_once

WORKER = '''
"""Wrap a network whose parameters and buffers differ on every worker; save them after a step."""

import sys

import torch
from torch import nn
from torch.nn import parallel

from infill.pipeline.training.distributed import WorkerContext

rank, folder, signature = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/{signature}", rank=rank, world_size=2
)
if signature == "former":
    Real = parallel.DistributedDataParallel

    class Former(Real):
        """DDP with the arguments of torch 2.12 and older, which leaves buffers out at the start."""

        def __init__(
            self, module, device_ids=None, broadcast_buffers=True, gradient_as_bucket_view=False
        ):
            super().__init__(
                module,
                device_ids=device_ids,
                forward_sync_buffers=broadcast_buffers,
                gradient_as_bucket_view=gradient_as_bucket_view,
                init_sync=False,
            )

    parallel.DistributedDataParallel = Former


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.register_buffer("iterated", torch.full((3,), 1.0 + rank))
        self.register_buffer("steps", torch.tensor(10 + rank))

    def forward(self, values):
        return self.linear(values).sum()


torch.manual_seed(0)
network = WorkerContext(rank=rank, world_size=2, channels_last=False).prepare(Network())
at_start = {name: value.clone() for name, value in network.module.named_buffers()}
network.module.iterated.fill_(5.0 + rank)  # as a path would that differs; must not be sent
network(torch.full((4, 2), 1.0 + rank)).backward()
torch.save(
    {
        "start": at_start,
        "later": network.module.iterated,
        "gradient": network.module.linear.weight.grad,
    },
    f"{folder}/{signature}-{rank}.pt",
)
torch.distributed.destroy_process_group()
'''


def test_buffers_argument_is_one_that_this_torch_knows():
    [name] = buffers_sent_once(nn.Linear(1, 1), DistributedDataParallel)
    assert name in inspect.signature(DistributedDataParallel).parameters


@pytest.mark.parametrize("signature", ["present", "former"])
def test_buffers_are_sent_at_the_start_and_never_again_under_either_signature(signature, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path), signature],
            env={"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", "PATH": ""},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in running] == [0, 0]
    one, other = (torch.load(tmp_path / f"{signature}-{rank}.pt") for rank in range(2))
    for saved in (one, other):
        assert saved["start"]["iterated"].tolist() == [1, 1, 1]
        assert saved["start"]["steps"].item() == 10
        # The mean of what four rows of ones and four of twos give.
        assert saved["gradient"].tolist() == [[6, 6]]
    assert (one["later"][0].item(), other["later"][0].item()) == (5, 6)
