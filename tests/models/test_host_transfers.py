"""What a step of every architecture copies to a GPU, and how often it waits for one: on any device.

A tensor that no operation made, and that was not there before the step, comes from Python: on a
GPU it is a copy from the host. Operations whose result Python or an output's shape depends on make
the host wait for the GPU.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infill.models import architecture
from infill.models.architecture import Batch, Objective

WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::equal",
    "aten::_unique2",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
}
"""Operations after which the host waits for the device."""
INDEXING = {"aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"}
MADE = {"aten::lift_fresh", "aten::lift"}
"""What ``torch.tensor`` and ``torch.as_tensor`` end in."""


class HostTransfers(TorchDispatchMode):
    """Counts, by kind and line of the code: "wait" and "copy"."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.counts = True
        """Whether operations are counted now; an optimizer's own step counters stay on the host."""
        self._alive: list[Tensor] = []
        self._known: set[int] = set()

    def know(self, *tensors: Tensor) -> None:
        """Take tensors as present on the device; they are kept, so no memory is used twice."""
        self._alive += tensors
        self._known |= {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, inputs = func.name(), _tensors((args, kwargs))
        if self.counts and (kind := self._kind(name, inputs, args)):
            self.found[f"{kind} {name} at {_line()}"] += 1
        result = func(*args, **(kwargs or {}))
        self.know(*inputs, *_tensors(result))
        return result

    def _kind(self, name: str, inputs: list[Tensor], args: tuple[Any, ...]) -> str:
        masks = name in INDEXING and any(at.element_size() == 1 for at in _tensors(args[1:2]))
        if name in WAITING or masks:
            return "wait"
        strange = [
            one
            for one in inputs
            # A number without dimensions travels with the kernel's arguments.
            if one.dim() and one.numel() and one.untyped_storage().data_ptr() not in self._known
        ]
        return "copy" if name in MADE or strange else ""


def batch_of(config: Any, step: int) -> Batch:
    """Return four images of noise with a square hole."""
    side = max(64, config.size_multiple)
    mask = torch.zeros(4, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    names = tuple(str(index) for index in range(4))
    image = torch.rand(4, 3, side, side) * 2 - 1
    return Batch(image=image, mask=mask, keys=names, mask_ids=names, step=step, seed=step)


def host_transfers(objective: Objective, first: Batch, second: Batch) -> Mapping[str, int]:
    """Return the waits and copies of the second step, by kind and line.

    The first step may make what is kept: caches and the optimizers' states.
    """
    mode = HostTransfers()
    for optimizer in objective.optimizers.values():
        optimizer.register_step_pre_hook(lambda *_: setattr(mode, "counts", False))
        optimizer.register_step_post_hook(lambda *_: setattr(mode, "counts", True))
    with mode:
        objective.step(first)
        mode.found.clear()
        mode.know(second.image, second.mask)
        objective.step(second)
    return mode.found


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _line() -> str:
    frames = traceback.extract_stack()
    ours = [frame for frame in frames if "models" in frame.filename.split("/")]
    own = [frame for frame in ours if not frame.filename.endswith("test_host_transfers.py")]
    return " < ".join(f"{one.filename.split('models/')[-1]}:{one.lineno}" for one in own[:-4:-1])


CHANGES: Mapping[str, Mapping[str, Any]] = {
    "deepfill, shared batches": {"critic_batches": "shared"},
    "deepfill, hinge": {"gan": "hinge"},
    "spn, with its teacher": {"prior_stop_step": 2, "channels": 4},
    "spn, probabilistic": {"variant": "probabilistic", "perceptual_weights": "random"},
}
CASES = [*architecture.names(), *CHANGES]
COPIES = {"deepfill": 1, "deepfill, shared batches": 1}
"""The most copies from the host in a step; 0 for all others: DeepFill's blends are random numbers
that a sample's name decides, copied all at once."""


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_no_result_and_copies_nothing_from_the_host(case: str) -> None:
    torch.set_num_threads(1)
    paper = architecture.load(case.partition(",")[0])
    config = replace(paper.config.tiny(), **CHANGES.get(case, {}))
    objective = paper.objective(config, lambda network: network)
    found = host_transfers(objective, batch_of(config, 0), batch_of(config, 1))
    assert sum(found.values()) <= COPIES.get(case, 0), dict(found)


def by_mask(values: Tensor) -> None:
    values[values > 0]


def by_list(values: Tensor) -> None:
    values[[1, 0]]


def assigned(values: Tensor) -> None:
    values[:, ::2] = 0


def read(values: Tensor) -> None:
    values.mean().item()


def branched(values: Tensor) -> None:
    assert (values.sum() == 8).any()


def written(values: Tensor) -> None:
    values + torch.tensor([1.0, 2.0])


def from_numpy(values: Tensor) -> None:
    values + torch.from_numpy(values.numpy()[:1].copy())


@pytest.mark.parametrize("act", [by_mask, by_list, assigned, read, branched, written, from_numpy])
def test_the_counter_sees_every_way_of_copying_and_waiting(act: Callable[[Tensor], None]) -> None:
    mode, values = HostTransfers(), torch.ones(4, 2)
    mode.know(values)
    with mode:
        (values * 2.0 + 1.0)[1:].sum()
        assert not mode.found
        act(values)
    assert mode.found
