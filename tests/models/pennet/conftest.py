"""The slow reference beside these tests, numbered weights, and one thread for each test."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """Return ``reference.py``, which pytest's import mode leaves unreachable by name."""
    spec = importlib.util.spec_from_file_location(
        "pennet_reference", Path(__file__).with_name("reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def numbered() -> Callable[[list[nn.Conv2d], int, float], None]:
    """Return a function that fills convolutions, weight then bias, with the measured numbers."""

    def number(convs: list[nn.Conv2d], seed: int, gain: float) -> None:
        parameters = [p for conv in convs for p in (conv.weight, conv.bias) if p is not None]
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                predicted = np.random.RandomState(seed + index).standard_normal(
                    tuple(parameter.shape)
                )
                factor = 0.01 if parameter.dim() == 1 else (gain / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.from_numpy(predicted) * factor)

    return number


def grid(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    sizes = (batch, channels, height, width)
    return list(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in sizes), indexing="ij")
    )


@pytest.fixture(scope="session")
def golden_maps() -> tuple[Tensor, Tensor, Tensor]:
    """Return a shallow map [2, 4, 16, 16], a deeper one [2, 8, 8, 8] and a mask, in float64."""
    b, c, y, x = grid(2, 4, 16, 16)
    shallow = torch.sin(1 + 0.7 * b + 1.3 * c + 0.61 * y + 0.37 * x + 0.05 * x * y)
    b, c, y, x = grid(2, 8, 8, 8)
    deeper = 0.3 * torch.cos(0.5 + 0.9 * b + 1.7 * c + 0.83 * y + 0.59 * x + 0.07 * x * y)
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.float64)
    mask[0, :, 16:48, 16:48] = 1
    mask[1, :, 0:24, 30:64] = 1
    return shallow, deeper, mask
