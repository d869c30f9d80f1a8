"""The numbered weights and inputs with which the released networks were measured."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

Fill = Callable[[int, int], Tensor]


def fill(count: int, stream: int) -> Tensor:
    """Return ``count`` float64 numbers in [0, 1) that depend on their index and a stream."""
    index = torch.arange(count, dtype=torch.int64)
    value = ((index + 1) * 2654435761 + 40503 * stream) % 2**32
    high, low = value >> 16, value & 0xFFFF
    # (value^2 >> 16) mod 2^32, without leaving 64 bits
    mixed = ((high * high % 2**16) * 2**16 + 2 * high * low + (low * low >> 16)) % 2**32
    return mixed.double() / 2**32


STREAMS = {
    ".shift.weight": 1,
    ".shift.bias": 1,
    "hole_gain": 2,
    "hole_shift": 3,
    "known_gain": 4,
    "known_shift": 5,
    "latent_encoder.deviation.": 6,
}


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """Return ``reference.py``, which pytest's import mode leaves unreachable by name."""
    spec = importlib.util.spec_from_file_location(
        "spn_reference", Path(__file__).with_name("reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def numbers() -> Fill:
    return fill


@pytest.fixture(scope="session")
def numbered() -> Callable[[nn.Module], nn.Module]:
    """Return a function that makes a generator float64 and numbers its weights."""

    def number(generator: nn.Module) -> nn.Module:
        generator = generator.to_empty(device="cpu").double()
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                stream = next((s for part, s in STREAMS.items() if part in name), 0)
                predicted = fill(parameter.numel(), stream).view(parameter.shape) - 0.5
                if parameter.dim() > 1:
                    parameter.copy_(predicted * 2 / parameter[0].numel() ** 0.5)
                else:
                    parameter.copy_(predicted * 0.2)
        return generator

    return number


@pytest.fixture(scope="session")
def golden_input() -> tuple[Tensor, Tensor]:
    """Return colours [1, 3, 64, 64] in [0, 1] and a mask with a square hole, float64."""
    colours = fill(3 * 64 * 64, 7).view(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    mask[..., 16:48, 8:40] = 1
    return colours, mask


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
