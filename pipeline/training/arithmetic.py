"""How PyTorch computes in a training: TF32, cuDNN's choice of algorithms, deterministic ones."""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from infill.pipeline.training.config import TrainConfig

CUBLAS_WORKSPACE = ":4096:8"
"""The form of cuBLAS's memory, CUBLAS_WORKSPACE_CONFIG, with which its products repeat."""
NOT_DETERMINISTIC = r"(\S+) does not have a deterministic implementation"
"""How PyTorch names an operation that may give another result the next time."""


@contextmanager
def arithmetic(config: TrainConfig, note: Callable[[str], None]) -> Iterator[None]:
    """Let PyTorch compute as configured while the block runs. On every worker.

    Args:
        config: of the training.
        note: takes a sentence for each operation that has no deterministic form.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with ExitStack() as stack:
        stack.enter_context(_set(matmul, "allow_tf32", config.tf32 == "all"))
        stack.enter_context(_set(cudnn, "allow_tf32", config.tf32 != "off"))
        stack.enter_context(_set(cudnn, "benchmark", config.cudnn_benchmark))
        if config.deterministic:
            stack.enter_context(_set(cudnn, "deterministic", True))
            stack.enter_context(_deterministic(note))
        yield


@contextmanager
def _set(owner: Any, name: str, value: bool) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _deterministic(note: Callable[[str], None]) -> Iterator[None]:
    """Choose deterministic algorithms, and name operations that have none, once each."""
    named: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *location: Any, **more: Any) -> None:
        found = re.match(NOT_DETERMINISTIC, str(message))
        if found is None:
            before(message, category, *location, **more)
        elif found[1] not in named:
            named.add(found[1])
            note(
                f"{found[1]} has no deterministic form on this device: two runs of this training "
                "may differ"
            )

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    asked = torch.are_deterministic_algorithms_enabled()
    only = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", NOT_DETERMINISTIC)
        before = warnings.showwarning
        warnings.showwarning = show
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(asked, warn_only=only)
