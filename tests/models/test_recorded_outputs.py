"""Our networks beside the authors' own programs: outputs of the same weights on the same images.

The numbers were recorded once, in float64, by running the programs that the authors published, with
the weights, images and masks of the rule below; nothing of these programs is kept here. They are
MADF's at commit 6fdbf44, LaMa's at 786f593, AOT-GAN's at 2cd1afd, MI-GAN's at ca4df2e (its network
for serving) and DeepGIN's at cfcef5d. MADF ran with five levels and two refinements, LaMa with
three blocks, AOT-GAN with two, MI-GAN at 64 px; all widths are the published ones. Each list is
mean, standard deviation and three values. PEN-Net, SPN, SPL and both DeepFills have such numbers in
tests of their own.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infill.models.aotgan.config import AOTGANConfig
from infill.models.architecture import Released, load
from infill.models.config import ModelConfig
from infill.models.deepgin.config import DeepGINConfig
from infill.models.lama import networks as lama
from infill.models.lama.config import LaMaConfig
from infill.models.lama.weights import names as lama_names
from infill.models.madf.config import MADFConfig
from infill.models.migan.config import MIGANConfig


def numbers(seed: int, count: int) -> np.ndarray:
    """Return ``count`` numbers in [0, 1), by integer arithmetic alone."""
    index = np.arange(1, count + 1, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(seed)) & np.uint64(2**32 - 1)
    return (((mixed * mixed) >> np.uint64(16)) & np.uint64(2**32 - 1)) / 2.0**32


def tensor_of(name: str, shape: Sequence[int], gain: float) -> Tensor:
    """Return the float64 tensor of a released name.

    Kernels have the variance ``gain`` / inputs, of which He's rule has 2; variances
    lie in [0.5, 1.5], gains in [0.9, 1.1], all else in [-0.1, 0.1].
    """
    count = int(np.prod(shape))
    flat = numbers(zlib.crc32(name.encode()), count)
    if len(shape) > 1:
        flat = (2 * flat - 1) * (3 * gain * shape[0] / count) ** 0.5
    elif name.endswith("running_var"):
        flat = flat + 0.5
    elif name.endswith("weight"):
        flat = 0.9 + 0.2 * flat
    else:
        flat = 0.2 * (flat - 0.5)
    return torch.from_numpy(np.ascontiguousarray(flat)).reshape(tuple(shape))


def filled(
    shapes: Mapping[str, Sequence[int]], gain: float, small: str = "$."
) -> dict[str, Tensor]:
    """Return a tensor for every name; counts of batches are 0.

    Args:
        shapes: by released name.
        gain: of the kernels.
        small: pattern of the names whose numbers are 20 times smaller.
    """
    found = {name: tensor_of(name, shape, gain) for name, shape in shapes.items()}
    for name in found:
        if re.search(small, name):
            found[name] /= 20
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(0)
    return found


def waves(side: int) -> tuple[Tensor, Tensor]:
    """Return two float64 images [2, 3, side, side] in [-1, 1] and their masks, 1 in the hole."""
    sample, channel, row, column = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (2, 3, side, side)), indexing="ij"
    )
    image = torch.sin(0.05 * (channel + 1) * row + 0.03 * column + sample)
    mask = torch.zeros(2, 1, side, side, dtype=torch.float64)
    mask[0, :, side // 4 : 3 * side // 4, side // 3 : 2 * side // 3] = 1
    mask[1, :, : side // 2, side // 2 :] = 1
    return image, mask


def summary(output: Tensor) -> list[float]:
    """Return mean, deviation (unbiased) and three values of an output [2, C, H, W]."""
    height, width = output.shape[-2:]
    points = [(0, 0, height // 2, width // 2), (1, -1, height // 4, width // 3), (1, 0, -1, 0)]
    return [output.mean().item(), output.std().item(), *(output[at].item() for at in points)]


CASES: dict[str, tuple[ModelConfig, dict[str, Any], dict[str, list[float]]]] = {
    "madf": (
        MADFConfig(levels=5, dead_norms=True),
        {"gain": 1, "small": r"filter_gen_\d+\.conv1"},
        {
            "outputs.0": [-0.05986729443425217, 1.0214006397795417]
            + [0.12348136867989895, -1.2823191769274005, 0.5764148147333634],
            "outputs.1": [-0.06807602816197593, 0.4633775698714347]
            + [-0.02748418806644245, 0.07174076384155001, -0.5955085841182736],
            "outputs.2": [0.15259628308112202, 0.4613324230490085]
            + [-0.12032979171068453, 0.5598291910331752, -0.4556058372855894],
        },
    ),
    "lama": (
        LaMaConfig(num_blocks=3),
        {"gain": 1.5},
        {
            "final": [-0.17574287981427292, 0.3427267058367725]
            + [-0.39703820162952197, -0.37681283897539064, 0.09992713484821292],
        },
    ),
    "aotgan": (
        AOTGANConfig(num_blocks=2),
        {"gain": 2},
        {
            "final": [0.09365121362866337, 0.5618716401749247]
            + [0.9986062659611769, 0.443233451527024, 0.19581617944103644],
        },
    ),
    "migan": (
        MIGANConfig(image_size_px=64, num_kernels=0),
        {"gain": 1},
        {
            "unclipped": [-1.0188197710531604, 2.038736676102684]
            + [-0.39955533570030755, -5.049655218623395, -0.5967690453316112],
        },
    ),
    "deepgin": (
        DeepGINConfig(),
        {"gain": 1},
        {
            "unclipped": [0.17447825664830754, 0.19195664925300013]
            + [-0.014098613473381136, -0.019621474470171235, 0.08401751323504231],
            "coarse": [0.09437220797044561, 0.17609054364216173]
            + [-0.050192491722366145, 0.35490933144734516, 0.030289583417456398],
            "small": [-0.048698531853483634, 0.09529641422363885]
            + [0.028854319698481547, -0.12183855779764098, 0.09020010012803353],
        },
    ),
}


TOLERANCE = {"madf": 1e-7}
"""In float64: MADF's mean and deviation of colours are float32 in our generator."""


def released_weights(config: ModelConfig, rule: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file of the authors' generator, by their names.

    Fixed filters, which belong to the program, stay as they are.
    """
    architecture = load(config.architecture)
    empty = architecture.generator(config).state_dict()
    file = architecture.write_release(Released(config=config, states={"generator": empty}))
    fixed = {
        name: value
        for name, value in file.items()
        if name.endswith(("filter.weight", "filter_const"))
    }
    shapes = {name: tuple(value.shape) for name, value in file.items()}
    return {**filled(shapes, **rule), **fixed}


def of_path(prediction: Any, path: str) -> Tensor:
    name, _, index = path.partition(".")
    value = getattr(prediction, name)
    return value[int(index)] if index else value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_authors_program_predicts_the_same(name: str, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE.get(name, 1e-11) if dtype == torch.float64 else 1e-4
    config, rule, recorded = CASES[name]
    architecture = load(name)
    released = architecture.read_release(released_weights(config, rule))
    generator = architecture.generator(released.config).to(dtype).eval()
    generator.load_state_dict(released.states["generator"])
    prediction = generator(*(tensor.to(dtype) for tensor in waves(64)))
    for path, expected in recorded.items():
        found = summary(of_path(prediction, path).double())
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), path


@torch.no_grad()
def test_lama_s_discriminator_scores_as_the_authors_does() -> None:
    discriminator = lama.Discriminator(LaMaConfig().discriminator_channels).double().eval()
    table = lama_names("discriminator", LaMaConfig())
    state = discriminator.state_dict()
    weights = filled({theirs: state[ours].shape for ours, theirs in table.items()}, gain=2)
    discriminator.load_state_dict({ours: weights[theirs] for ours, theirs in table.items()})
    logits, seen = discriminator((waves(64)[0] + 1) / 2)
    score = [-0.05162880560675983, 0.3839786749429118]
    score += [-0.06901890908929714, -0.1012123654059903, -0.07077026237708765]
    features = [0.18142584972521386, 0.43544301269047647]
    features += [1.1822543124020142, 0.9887933959212, 0.19326154318931837]
    assert summary(logits) == pytest.approx(score, abs=1e-11)
    assert summary(seen[3]) == pytest.approx(features, abs=1e-11)
