"""Distributed training: gradients, buffers and batch statistics across workers."""

import inspect
import os
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
            self,
            module,
            device_ids=None,
            broadcast_buffers=True,
            gradient_as_bucket_view=False,
            static_graph=False,
        ):
            super().__init__(
                module,
                device_ids=device_ids,
                forward_sync_buffers=broadcast_buffers,
                gradient_as_bucket_view=gradient_as_bucket_view,
                static_graph=static_graph,
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


PARTS = '''
"""Take a step in three parts, with and without averaging every part; count the averages."""

import sys

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from infill.models.architecture import Batch
from infill.models.spn.config import SPNConfig
from infill.models.unet.config import UNetConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/parts", rank=rank, world_size=2
)
data = BatchConfig(batch_size=12, image_size_px=32)
config = TrainConfig(model=SPNConfig.tiny(), data=data, accumulate=3)
keys = tuple("abcdef")
image = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(rank)) * 2 - 1
mask = torch.zeros(6, 1, 32, 32)
mask[..., 8:20, 6:22] = 1
batch = Batch(image=image, mask=mask, keys=keys, mask_ids=keys)
def networks_of(static):
    """Return a U-Net after two steps, with or without a static graph."""
    unet = TrainConfig(model=UNetConfig.tiny(), data=data, static_graph=static)
    worker = WorkerContext(rank=rank, world_size=2, static_graph=static)
    objective = build_objective(unet, worker)
    for step in range(2):
        objective.step_with_accumulation(batch)
    return [value.detach() for value in objective.generator.parameters()]


found = {"static": networks_of(True), "dynamic": networks_of(False)}
for title in ("every part", "last part"):
    objective = build_objective(config, WorkerContext(rank=rank, world_size=2))
    averages = []

    def counted(state, bucket):
        averages.append(bucket.index())
        return allreduce_hook(None, bucket)

    for network in objective.spread:
        network.register_comm_hook(None, counted)
    networks = len(objective.spread)
    if title == "every part":
        objective.spread = ()
    objective.step_with_accumulation(batch)
    gradients = [p.grad for n in objective.networks.values() for p in n.parameters()]
    found[title] = {"averages": len(averages), "networks": networks, "gradients": gradients}
torch.save(found, f"{folder}/parts-{rank}.pt")
torch.distributed.destroy_process_group()
'''


TOGETHER = '''
"""Take a step on half of a batch with the other process, and on all of it alone; one GPU."""

import sys
from dataclasses import replace

import torch

from infill.models.architecture import Batch
from infill.models.unet.config import UNetConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.backends.cudnn.allow_tf32 = False
# NCCL refuses two processes on one GPU; gloo takes tensors that lie there.
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/together", rank=rank, world_size=2
)
config = TrainConfig(model=UNetConfig.tiny(), data=BatchConfig(batch_size=4, image_size_px=64))
image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
mask = torch.zeros(4, 1, 64, 64)
mask[..., 16:40, 12:44] = 1
keys = tuple("abcd")
whole = Batch(image=image, mask=mask, keys=keys, mask_ids=keys).to("cuda")
own = slice(2 * rank, 2 * rank + 2)
half = Batch(
    image=whole.image[own], mask=whole.mask[own], keys=keys[own], mask_ids=keys[own]
)
found = {}
for title, synced, batch in (("alone", False, whole), ("synced", True, half), ("own", False, half)):
    worker = WorkerContext(
        rank=rank,
        world_size=1 if title == "alone" else 2,
        device=torch.device("cuda"),
        sync_batch_norm=synced,
        static_graph=title != "alone",
    )
    objective = build_objective(replace(config, static_graph=worker.static_graph), worker)
    objective.step_with_accumulation(batch)
    found[title] = {
        name: value.cpu()
        for name, value in objective.generator.state_dict().items()
        if "running" in name
    }
torch.save(found, f"{folder}/together-{rank}.pt")
torch.distributed.destroy_process_group()
'''


def on_two(program, folder, *words):
    """Run a program in two processes, which take their rank and a folder."""
    script = folder / "worker.py"
    script.write_text(program)
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in running] == [0, 0]


def test_parts_of_a_batch_are_averaged_once_and_a_static_graph_changes_nothing(tmp_path):
    on_two(PARTS, tmp_path)
    one, other = (torch.load(tmp_path / f"parts-{rank}.pt") for rank in range(2))
    assert all(map(torch.equal, one["static"], one["dynamic"]))
    assert one["last part"]["networks"] == 2
    assert one["last part"]["averages"] >= 2
    assert one["every part"]["averages"] == 3 * one["last part"]["averages"]
    torch.testing.assert_close(
        one["last part"]["gradients"], one["every part"]["gradients"], rtol=1e-4, atol=1e-5
    )
    for ours, theirs in zip(
        one["last part"]["gradients"], other["last part"]["gradients"], strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
def test_statistics_of_two_workers_on_a_gpu_are_those_of_one_with_both_shares(tmp_path):
    """With a static graph as well."""
    on_two(TOGETHER, tmp_path)
    one, other = (torch.load(tmp_path / f"together-{rank}.pt") for rank in range(2))
    assert one["alone"]
    for found in (one, other):
        torch.testing.assert_close(found["synced"], one["alone"], rtol=1e-3, atol=1e-4)
    assert not any(torch.equal(one["own"][name], other["own"][name]) for name in one["own"])


def test_buffers_argument_is_one_that_this_torch_knows():
    [name] = buffers_sent_once(nn.Linear(1, 1), DistributedDataParallel)
    assert name in inspect.signature(DistributedDataParallel).parameters


@pytest.mark.parametrize("signature", ["present", "former"])
def test_buffers_are_sent_at_the_start_and_never_again_under_either_signature(signature, tmp_path):
    on_two(WORKER, tmp_path, signature)
    one, other = (torch.load(tmp_path / f"{signature}-{rank}.pt") for rank in range(2))
    for saved in (one, other):
        assert saved["start"]["iterated"].tolist() == [1, 1, 1]
        assert saved["start"]["steps"].item() == 10
        # The mean of what four rows of ones and four of twos give.
        assert saved["gradient"].tolist() == [[6, 6]]
    assert (one["later"][0].item(), other["later"][0].item()) == (5, 6)
