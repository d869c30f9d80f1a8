import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

Example = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """Return the slow forms in reference.py, which pytest does not import."""
    path = Path(__file__).with_name("reference.py")
    spec = importlib.util.spec_from_file_location("madf_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def example() -> Example:
    """Return a function that makes images in [-1, 1] and masks with one hole each."""

    def make(height: int, width: int, count: int = 2) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        image = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
        mask = torch.zeros(count, 1, height, width)
        for index in range(count):
            mask[index, :, 4 + 3 * index : height // 2, 7 : 20 + 5 * index] = 1
        return image, mask

    return make


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
