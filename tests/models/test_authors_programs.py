"""Our networks and losses beside the authors' own programs: same weights, same images.

The numbers were recorded once, in float64, by running the programs that the authors published, with
the weights, images and masks of the rule below; nothing of these programs is kept here. They are
MADF's at commit 6fdbf44, LaMa's at 786f593, AOT-GAN's at 2cd1afd, MI-GAN's at ca4df2e, DeepGIN's at
cfcef5d, SPN's at 1165a93 and PEN-Net's at 8721a55.

Outputs: MADF ran with five levels and two refinements, LaMa with three blocks, AOT-GAN with two,
MI-GAN's network for serving at 64 px; all widths are the published ones. Each list is mean,
standard deviation and three values. PEN-Net, SPN, SPL and both DeepFills have such numbers in tests
of their own.

Losses: every term of a step as the authors weigh it, and the gradient that all of the generator's
together have at each image that it predicted. Networks in between, such as discriminators and
VGG, have weights by the same rule. SPN's and MI-GAN's programs ran at 64 px in place of 256, and
DeepGIN's VGG at 48 in place of 224. Both DeepFills need TensorFlow and have none.
"""

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from infill.models.aotgan.config import AOTGANConfig
from infill.models.aotgan.objective import AOTGANObjective
from infill.models.aotgan.weights import names as aotgan_names
from infill.models.architecture import Batch, Released, load
from infill.models.config import ModelConfig
from infill.models.deepgin import networks as deepgin
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.objective import DeepGINObjective
from infill.models.deepgin.weights import names as deepgin_names
from infill.models.lama import networks as lama
from infill.models.lama.config import LaMaConfig
from infill.models.lama.objective import LaMaObjective
from infill.models.lama.weights import names as lama_names
from infill.models.losses import hinge_discriminator
from infill.models.madf.config import MADFConfig
from infill.models.madf.objective import Graded, MADFObjective
from infill.models.masking import paste, whitened
from infill.models.migan import networks as migan
from infill.models.migan.config import MIGANConfig
from infill.models.migan.objective import MIGANObjective
from infill.models.migan.weights import names as migan_names
from infill.models.pennet import networks as pennet
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.objective import PENNetObjective
from infill.models.pennet.weights import names as pennet_names
from infill.models.spn import networks as spn
from infill.models.spn.config import SPNConfig
from infill.models.spn.objective import SPNObjective
from infill.models.spn.probabilistic_objective import ProbabilisticObjective
from infill.models.spn.weights import discriminator_names as spn_names


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


Losses = dict[str, Tensor]
SIDE = 64


def predicted(phase: float, side: int = SIDE) -> Tensor:
    """Return an image [2, 3, side, side] in [-0.9, 0.9] that a generator may have predicted."""
    sample, channel, row, column = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (2, 3, side, side)), indexing="ij"
    )
    return 0.9 * torch.cos(0.04 * (channel + 1) * column + 0.05 * row + sample + phase)


def features(side: int, channels: int, phase: float) -> Tensor:
    """Return maps [2, channels, side, side] that a teacher may have computed."""
    sample, channel, row, column = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (2, channels, side, side)),
        indexing="ij",
    )
    return torch.sin(0.07 * row * (channel + 1) + 0.05 * column + sample + phase)


def in_unit_range(image: Tensor) -> Tensor:
    """Turn [-1, 1] into [0, 1]."""
    return (image + 1.0) / 2.0


def by_rule(network: nn.Module | None, gain: float) -> None:
    """Fill a network whose names are the public ones."""
    assert network is not None
    network.double()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(filled(shapes, gain))


def discriminator_by_rule(
    network: nn.Module, released: Mapping[str, Sequence[str]], normed: str = "$."
) -> None:
    """Fill a discriminator in training mode by its released names.

    Args:
        network: ours.
        released: names of each of our tensors; the first counts.
        normed: what ends the names of spectrally normalised kernels. Their two vectors are the
            first singular ones, which further power iterations leave as they are.
    """
    state = network.double().train().state_dict()
    shapes = {theirs[0]: tuple(state[ours].shape) for ours, theirs in released.items()}
    weights = filled(shapes, gain=2)
    for name in [name for name in weights if name.endswith(normed)]:
        left, _, right = torch.linalg.svd(weights[name].flatten(1), full_matrices=False)
        vectors = name.removesuffix(normed)
        weights[f"{vectors}_u"], weights[f"{vectors}_v"] = left[:, 0], right[0]
    network.load_state_dict({ours: weights[theirs[0]] for ours, theirs in released.items()})


def one_each(table: Mapping[str, str]) -> dict[str, Sequence[str]]:
    return {ours: (theirs,) for ours, theirs in table.items()}


def pennet_losses() -> tuple[Losses, Losses, list[Tensor]]:
    objective = PENNetObjective(PENNetConfig())
    names = one_each(pennet_names("discriminator"))
    discriminator_by_rule(objective.networks["discriminator"], names, "_orig")
    image, mask = waves(SIDE)
    final = predicted(0.0).requires_grad_()
    pyramid = tuple(predicted(0.2 + 0.1 * at, 2 << at).requires_grad_() for at in range(5))
    batch, composite = Batch(image=image, mask=mask), paste(final, image, mask)
    losses = objective.generator_losses(batch, pennet.Prediction(final, pyramid), composite)
    scores = objective.discriminator_losses(image, composite.detach())
    return losses, scores, [final, *pyramid]


def madf_losses() -> tuple[Losses, Losses, list[Tensor]]:
    config = MADFConfig(levels=5, perceptual_weights="random", style_target="released")
    objective = MADFObjective(config)
    by_rule(objective.perceptual, gain=2)
    image, hole = waves(SIDE)
    outputs = tuple(predicted(phase).requires_grad_() for phase in (0.0, 0.5, 1.0))
    composites = tuple(paste(output, image, hole) for output in outputs)
    return objective.losses(Graded(image, hole, outputs, composites)), {}, list(outputs)


def aotgan_losses() -> tuple[Losses, Losses, list[Tensor]]:
    config = AOTGANConfig(num_blocks=2, perceptual_weights="random", adversarial_form="released")
    objective = AOTGANObjective(config, lambda network: network)
    by_rule(objective.perceptual, gain=2)
    names = one_each(aotgan_names("discriminator", config))
    discriminator_by_rule(objective.networks["discriminator"], names, "_orig")
    image, mask = waves(SIDE)
    final = predicted(0.0).requires_grad_()
    batch, composite = Batch(image=image, mask=mask), paste(final, image, mask)
    losses = objective.generator_losses(batch, final, composite)
    return losses, objective.discriminator_losses(batch, composite.detach()), [final]


def lama_losses() -> tuple[Losses, Losses, list[Tensor]]:
    objective = LaMaObjective(LaMaConfig(num_blocks=1, perceptual_weights="random"))
    by_rule(objective.perceptual, gain=1)
    names = lama_names("discriminator", objective.config)
    discriminator_by_rule(objective.networks["discriminator"], one_each(names))
    image, mask = waves(SIDE)
    image, final = in_unit_range(image), in_unit_range(predicted(0.0)).requires_grad_()
    losses = objective.generator_losses(final, image, mask)
    return losses, objective.discriminator_losses(final.detach(), image, mask), [final]


class TeacherByRule:
    """Stands for Co-Mod-GAN, whose weights are not at hand."""

    def random_latent(self, *_: Any) -> None:
        return None

    def __call__(self, *_: Any) -> tuple[Tensor, ...]:
        return tuple(predicted(1 + 0.1 * at, SIDE >> 3 - at) for at in range(4))


def migan_losses() -> tuple[Losses, Losses, list[Tensor]]:
    config = MIGANConfig(image_size_px=SIDE, distillation_weight=0)
    objective = MIGANObjective(config, lambda network: network)
    objective.config = replace(
        config, distillation_weight=2.0, distillation_start_px=16, teacher_weights="by rule"
    )
    objective.teacher = TeacherByRule()  # type: ignore[assignment]
    network = objective.networks["discriminator"].double()
    state = network.state_dict()
    for ours, theirs in migan_names("discriminator", config).items():
        parallel = ours.endswith("kernels")
        shape = tuple(state[ours].shape[1:] if parallel else state[ours].shape)
        # Kernels are divided by the root of their inputs when they are used.
        scale = math.sqrt(math.prod(shape) / shape[0]) if len(shape) > 1 else 1
        found = [scale * value for value in filled(dict.fromkeys(theirs, shape), 1).values()]
        state[ours] = torch.stack(found) if parallel else found[0]
    network.load_state_dict(state)
    image, mask = waves(SIDE)
    colours = tuple(predicted(0.1 * at, SIDE >> 3 - at).requires_grad_() for at in range(4))
    prediction = migan.Prediction(colours[-1].clamp(-1, 1), colours[-1], colours)
    batch = Batch(image=image, mask=mask)
    losses = objective.generator_losses(batch, prediction)
    return losses, objective.discriminator_losses(batch, colours[-1].detach()), list(colours[1:])


def deepgin_losses() -> tuple[Losses, Losses, list[Tensor]]:
    objective = DeepGINObjective(DeepGINConfig(perceptual_weights="random", perceptual_size_px=48))
    by_rule(objective.perceptual, gain=2)
    names = one_each(deepgin_names("discriminator"))
    discriminator_by_rule(objective.networks["discriminator"], names, "_bar")
    image, mask = waves(SIDE)
    masked, image = whitened(image, mask), in_unit_range(image)
    coarse, final, small = (
        in_unit_range(predicted(phase, side)).requires_grad_()
        for phase, side in ((0.0, SIDE), (0.5, SIDE), (1.0, SIDE // 4))
    )
    prediction = deepgin.Prediction(final=final, unclipped=final, coarse=coarse, small=small)
    composite = paste(final, image, mask)
    losses = objective.picture_losses(prediction, image, mask)
    losses |= objective.appearance_losses(final, composite, image, masked)
    scores = objective.discriminator_losses(image, composite.detach(), masked)
    return losses, scores, [coarse, final, small]


def spn_parts(samples: int) -> tuple[list[Tensor], tuple[Tensor, ...], list[Tensor]]:
    """Return images, their semantic priors and the teacher's."""
    levels = ((SIDE, 4), (SIDE // 2, 3), (SIDE // 4, 2))
    priors = tuple(
        torch.cat([features(side, count, 1.0 + sample + at) for sample in range(samples)])
        for at, (side, count) in enumerate(levels)
    )
    of_teacher = ((SIDE // 2, 4, 0.0), (SIDE // 2, 3, 0.3), (SIDE // 4, 2, 0.6))
    finals = [predicted(0.5 * sample).requires_grad_() for sample in range(samples)]
    return finals, priors, [features(*level) for level in of_teacher]


def spn_losses() -> tuple[Losses, Losses, list[Tensor]]:
    objective = SPNObjective(SPNConfig(teacher="random"))
    names = spn_names(objective.config)
    named = {ours: [f"discriminator.{name}" for name in theirs] for ours, theirs in names.items()}
    discriminator_by_rule(objective.networks["discriminator"], named, "_orig")
    image, mask = waves(SIDE)
    [final], priors, of_teacher = spn_parts(1)
    objective.teacher = lambda _: of_teacher  # type: ignore[assignment]
    prediction = spn.Prediction(final=final, prior=priors)
    losses = objective.generator_losses(Batch(image=image, mask=mask), prediction)
    return losses, objective.discriminator_losses(image, final.detach()), [final]


def probabilistic_losses() -> tuple[Losses, Losses, list[Tensor]]:
    config = SPNConfig(variant="probabilistic", teacher="random", perceptual_weights="random")
    objective = ProbabilisticObjective(config)
    by_rule(objective.perceptual, gain=2)
    named = {
        ours: [f"discriminator.{name}" for name in theirs]
        for ours, theirs in spn_names(config).items()
    }
    discriminator_by_rule(objective.networks["discriminator"], named, "_orig")
    (image, mask), (finals, priors, of_teacher) = waves(SIDE), spn_parts(2)
    objective.teacher = lambda _: of_teacher  # type: ignore[assignment]
    batch, both = Batch(image=image, mask=mask), torch.cat(finals)
    mean = tensor_of("latent.mean", (2, 128, 1, 1), 1)
    deviation = tensor_of("latent.deviation.running_var", (2, 128, 1, 1), 1).abs() + 0.5
    real, fake = (objective.networks["discriminator"](one) for one in (image, both.detach()))
    losses = {
        **objective.prior_losses(batch, priors),
        **objective.image_losses(batch, both),
        **objective.adversarial_losses(both, [seen.detach() for seen in real.features]),
        **objective.perceptual_losses(batch, both),
        **objective.latent_losses(mean, deviation),
    }
    return losses, {"discriminator": hinge_discriminator(real.logits, fake.logits)}, finals


RECORDED_LOSSES: dict[str, tuple[Callable[[], Any], dict[str, float], list[list[float]]]] = {
    "pennet": (
        pennet_losses,
        {
            "pyramid": 0.5 * 3.2935168420402454,
            "hole": 6 * 0.9136137369765909,
            "known": 0.8222090242355531,
            "adversarial": 0.1 * -0.0024497244780232906,
            "discriminator": 0.9991198410573889,
        },
        [
            [2.1966186903140117e-06, 0.000538473348963924]
            + [-0.0011829182012236376, 5.1313628899835795e-05, 5.1313628899835795e-05],
            [0.0034722222222222216, 0.020983756466055624]
            + [0.020833333333333332, -0.020833333333333332, 0.020833333333333332],
            [0.0010850694444444445, 0.00512079208463633]
            + [0.005208333333333333, 0.005208333333333333, 0.005208333333333333],
            [0.0001152886284722222, 0.0012986614347936182]
            + [0.0013020833333333333, 0.0013020833333333333, 0.0013020833333333333],
            [-8.222791883680555e-05, 0.00031506667430394495]
            + [-0.0003255208333333333, 0.0003255208333333333, 0.0003255208333333333],
            [-3.629260592990451e-05, 7.284537557732549e-05]
            + [-8.138020833333333e-05, -8.138020833333333e-05, -8.138020833333333e-05],
        ],
    ),
    "madf": (
        madf_losses,
        {
            "known": 2.1587641167834453,
            "hole": 3.453184750510768,
            "perceptual": 0.11460173076626619,
            "style": 0.29688325532783455,
            "variation": 0.010073371801588231,
        },
        [
            [-4.407432344224719e-06, 0.0001167649757186671]
            + [-0.000244140625, 4.0690104166666664e-05, 4.0690104166666664e-05],
            [-4.4491491526168084e-09, 0.00012425966756871248]
            + [-0.00029373230988351305, 2.4150448073887612e-05, 3.9599359520841386e-05],
            [8.461882379684558e-06, 0.00011811642138865501]
            + [-0.0002448494406574132, 4.198554465095027e-05, 3.998958445889558e-05],
        ],
    ),
    "aotgan": (
        aotgan_losses,
        {
            "image": 0.8411326561702209,
            "style": 0.6344766860648835,
            "perceptual": 0.25572384298105993,
            "adversarial": 0.010841237218557889,
            "discriminator": 0.09326825197079867,
        },
        [
            [-2.15332686354909e-05, 8.622543517290338e-05]
            + [-7.904806726184997e-05, 2.847201804122075e-05, 4.364503365657277e-05],
        ],
    ),
    "lama": (
        lama_losses,
        {
            "known": 3.2599303109339304,
            "adversarial": 8.449541762210469,
            "matching": 58.69635086720374,
            "perceptual": 17.67239875821672,
            "discriminator": 1.8808658051220237 - 0.2306899015018471,
            "penalty": 0.2306899015018471,
        },
        [
            [-0.0007925961303603814, 0.024010404623731385]
            + [-0.018106376692588317, 0.02391360941666734, 0.016151438658657608],
        ],
    ),
    "migan": (
        migan_losses,
        {
            "adversarial": 1.3210463783223672 - 2 * 0.3307227436605188,
            "distillation": 2 * 0.3307227436605188,
            "discriminator": 1.3766089219578093,
            "penalty": 16 * 0.0009571165873584821,
        },
        [
            [0.00020684136284722222, 0.0005493591940726095, 0.0013020833333333333, 0.0, 0.0],
            [-9.536743164062498e-06, 0.0001464118814707208, 0.0003255208333333333, 0.0, 0.0],
            [-3.1279277365359796e-06, 3.547980138467297e-05, -2.1450260117177675e-05, 0.0, 0.0],
        ],
    ),
    "deepgin": (
        deepgin_losses,
        {
            "coarse": 0.7988595160519802,
            "output": 0.8504011916533275,
            "small": 1.454546720127307 - 0.8504011916533275,
            "adversarial": 1.2731504109605282e-05,
            "variation": 0.0016655289427862546,
            "perceptual": 0.0383495354442327,
            "style": 0.0007723233186214687,
            "discriminator": 2.0000872572543384,
        },
        [
            [-4.7716829511854385e-06, 9.929753051186822e-05]
            + [-0.00020345052083333334, 4.0690104166666664e-05, 4.0690104166666664e-05],
            [9.243962450593875e-07, 0.00010199452216243146]
            + [-0.00019464947544519894, 1.6962373321543117e-05, 4.411051611868585e-05],
            [-0.0005806816948784721, 0.001467774148814284]
            + [-0.0032552083333333335, -0.0006510416666666666, 0.0006510416666666666],
        ],
    ),
    "spn": (
        spn_losses,
        {
            "prior": 5.524414748427567,
            "image": 10 * 0.6097129220685453,
            "adversarial": 0.6820801071502687,
            "discriminator": 0.6945145854445463,
        },
        [
            [-2.7906249847339226e-05, 0.00033027005954107787]
            + [-0.0006007263707489825, 0.00020779703536754593, 0.00020280014009635],
        ],
    ),
    "spn probabilistic": (
        probabilistic_losses,
        {
            "prior": 5.450629865326304,
            "image": 10 * 0.6326460804775522,
            "adversarial": -0.38756348495390386,
            "feature_matching": 10 * 0.6662020840040168,
            "perceptual": 10 * 0.12158394775836923,
            "diversity": 4.125782226661269,
            "latent": 0.05 * 0.4801836244260616,
            "discriminator": 1.0695977458773283,
        },
        [
            [0.00022792189644446335, 0.0018270857838496432]
            + [0.0052753604363107685, 0.0035525785612750558, 0.0002329239115082195],
            [-0.000279355511045793, 0.0017620100722058076]
            + [-0.00032366554989121405, 0.0016207669560919355, 0.00013643950373064807],
        ],
    ),
}
"""For each program, a step's losses and the gradients at the predicted images."""


@pytest.mark.parametrize("name", RECORDED_LOSSES)
def test_the_authors_program_has_the_same_losses_and_gradients(name: str) -> None:
    ours, terms, gradients = RECORDED_LOSSES[name]
    of_generator, of_discriminator, images = ours()
    found = {term: loss.item() for term, loss in (of_generator | of_discriminator).items()}
    # AOT-GAN's program blurs masks by a kernel in float32.
    tolerance = 1e-6 if name == "aotgan" else 1e-9
    assert found == pytest.approx(terms, rel=tolerance)
    torch.stack(list(of_generator.values())).sum().backward()
    for image, expected in zip(images, gradients, strict=True):
        assert image.grad is not None
        assert summary(image.grad) == pytest.approx(expected, rel=tolerance)
