"""Random values of frozen networks: the same on every device, and no other generator changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from infill.models import vgg
from infill.models.lama.perceptual import DilatedResNet, load_encoder
from infill.models.seeding import seeded
from infill.models.spn.config import SPNConfig
from infill.models.spn.probabilistic import ProbabilisticGenerator
from infill.models.spn.tresnet import random_network
from infill.models.vgg import load_features


class RefusesOtherGenerators(TorchDispatchMode):
    """Refuses what a GPU refuses: random values from the generator of another device."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        values = [*args, *(kwargs or {}).values()]
        devices = {value.device.type for value in values if isinstance(value, Tensor)}
        devices |= {value.type for value in values if isinstance(value, torch.device)}
        for value in values:
            if isinstance(value, torch.Generator) and devices - {value.device.type}:
                raise RuntimeError(f"{function}: a generator of {value.device} for {devices}")
        return function(*args, **(kwargs or {}))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg": lambda: load_features(16, ["relu1_2"], "random"),
    "tresnet": random_network,
    "lama": lambda: load_encoder("random", None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_random_networks_are_generated_by_the_cpu_for_any_device(name: str) -> None:
    with torch.device("meta"), RefusesOtherGenerators():
        network = NETWORKS[name]()
    tensors = [*network.parameters(), *network.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_random_features_built_without_data_leave_none_to_the_next_network() -> None:
    """The values are kept, and those of a count of FLOPs or of another device are none."""
    vgg._random_values.cache_clear()
    with FakeTensorMode():
        NETWORKS["vgg"]()
    with torch.device("meta"):
        NETWORKS["vgg"]()
    weights = [tensor for tensor in NETWORKS["vgg"]().parameters() if tensor.dim() > 1]
    assert all(0.5 < weight.std() / (2 / weight[0].numel()) ** 0.5 < 2 for weight in weights)


def test_noise_is_generated_by_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"), RefusesOtherGenerators():
        generator = ProbabilisticGenerator(SPNConfig(channels=8))
        image = torch.zeros(1, 3, 64, 64)
        noise = generator.sample_noise(image, 2, seed=5)
    assert noise.device.type == "meta"


def test_random_features_of_lama_leave_gpus_and_the_caller_s_generator_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    before = torch.random.get_rng_state()
    network = load_encoder("random", None)
    assert reseeded == []
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(0):
        expected = DilatedResNet()
    assert all(
        torch.equal(one, other)
        for one, other in zip(network.parameters(), expected.parameters(), strict=True)
    )


class EightGPUs:
    """Eight GPUs as far as their random numbers go: which states are read and restored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generators = tuple(torch.Generator().manual_seed(100 + gpu) for gpu in range(8))
        self.read: list[int] = []
        self.restored: list[int] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 6)
        monkeypatch.setattr(torch.cuda, "default_generators", self.generators)
        monkeypatch.setattr(torch.cuda, "get_rng_state", self._state)
        monkeypatch.setattr(torch.cuda, "set_rng_state", self._restore)

    def _state(self, gpu: int) -> Tensor:
        self.read.append(gpu)
        return self.generators[gpu].get_state()

    def _restore(self, state: Tensor, gpu: int) -> None:
        self.restored.append(gpu)
        self.generators[gpu].set_state(state)


@pytest.mark.parametrize(("device", "own"), [("cuda:5", [5]), ("cuda", [6]), ("cpu", [])])
def test_only_the_own_gpu_is_seeded_and_restored(
    monkeypatch: pytest.MonkeyPatch, device: str, own: list[int]
) -> None:
    gpus = EightGPUs(monkeypatch)
    states = [generator.get_state() for generator in gpus.generators]
    with seeded(3, device):
        seeds = [generator.initial_seed() for generator in gpus.generators]
        generated = torch.rand(2)
    assert seeds == [3 if gpu in own else 100 + gpu for gpu in range(8)]
    assert (gpus.read, gpus.restored) == (own, own)
    assert torch.equal(generated, torch.rand(2, generator=torch.Generator().manual_seed(3)))
    after = [generator.get_state() for generator in gpus.generators]
    assert all(torch.equal(*pair) for pair in zip(after, states, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_random_networks_are_the_same_on_a_gpu(name: str) -> None:
    with torch.device("cuda"):
        ours = NETWORKS[name]()
    for one, other in zip(ours.parameters(), NETWORKS[name]().parameters(), strict=True):
        assert one.is_cuda
        assert torch.equal(one.cpu(), other)
