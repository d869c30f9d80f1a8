"""The context of a worker: rank, world size, device, DDP."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from infill.models.layers import channels_innermost
from infill.pipeline.interruption import requested
from infill.pipeline.tracking import Record, Report
from infill.pipeline.training.activity import Activity


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Rank, world size and device of a worker, and its collective operations."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    channels_last: bool = True
    sync_batch_norm: bool = False
    static_graph: bool = False
    activity: Activity = field(default_factory=Activity)
    notice: Callable[[], bool] = lambda: False
    """Returns whether the cluster will soon remove a node with workers; every worker calls it at
    the same steps and gets the same result."""

    def log(self, report: Report, step: int, text: str) -> None:
        """Log a sentence, on the first worker only."""
        if self.rank == 0:
            report(Record(kind="note", step=step, text=text))

    def prepare(self, network: nn.Module) -> nn.Module:
        """Return the network on this worker's device, gradients averaged over all workers."""
        network.to(self.device)
        if self.channels_last:
            channels_innermost(network)
        if self.world_size == 1:
            return network
        if self.sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            network,
            device_ids=ids,
            gradient_as_bucket_view=True,
            static_graph=self.static_graph,
            **buffers_sent_once(network, nn.parallel.DistributedDataParallel),
        )

    def asked(self) -> bool:
        """Return whether this worker is asked to save and stop."""
        return self.activity.stop or bool(requested())

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all workers."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def agree(self, value: Any) -> Any:
        """Return the first worker's value on every worker."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def buffers_sent_once(network: nn.Module, wrapper: type[nn.Module]) -> dict[str, Any]:
    """Return the argument that makes DDP send buffers at the start and not at every step.

    Power iterations follow the same path on every worker once they are equal; the statistics of
    batch norms are each worker's own, as in the releases. Up to torch 2.12 the argument has
    another name and leaves out the start too, so it is done here.
    """
    if "forward_sync_buffers" in inspect.signature(wrapper).parameters:
        return {"forward_sync_buffers": False}
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, src=0)
    return {"broadcast_buffers": False}
