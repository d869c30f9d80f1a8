"""Activation checkpointing: blocks that keep only their inputs for the backward pass.

A block's maps are computed again when its gradient is wanted: less memory for one more forward
pass of the block. Names and weights stay as they are, so checkpoints know nothing of it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Have blocks compute their maps again in the backward pass, in place of keeping them.

    Batch norms take the batch into their statistics once. Nothing random may happen in a block.

    Args:
        network: whose blocks are meant.
        kinds: kinds of blocks; a block inside another one is part of that one.
    """
    for child in network.children():
        if isinstance(child, kinds):
            # A partial of a bound method, which a copy of the block binds to itself.
            child.forward = partial(_lean, child.forward)
        else:
            recompute(child, kinds)


def _lean(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    block: nn.Module = forward.__self__  # type: ignore[attr-defined]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_at_rest(block)

    return checkpoint(
        forward, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


@contextmanager
def _statistics_at_rest(block: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms as they are."""
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
