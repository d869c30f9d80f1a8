"""Parameters and multiply-accumulates of a network, without allocating it."""

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

from infill.models import architecture
from infill.models.architecture import ModelConfig, Variant

SIDE_PX = 256
"""Side of the image for which multiply-accumulates are counted: the papers' training size."""
UNTRAINED = {
    "teacher": (("asl", "spn", "detection", "segmentation"), "random"),
    "teacher_weights": ((None,), "random"),
    "perceptual_weights": ((None,), "random"),
}
"""Frozen networks by field: values that need a file, and one that does not."""


def _attention_flops(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any
) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return flops


FUSED_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""PyTorch's counter knows the fused kernels of GPUs alone."""


class _Whole(ModuleTracker):
    """Tracks no modules, only their sum.

    PyTorch's own hooks the inputs of each module, and cannot where a penalty differentiates with
    respect to one of them, as LaMa's does with respect to the image.
    """

    def __enter__(self) -> "_Whole":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def flop_counter() -> FlopCounterMode:
    """Return a counter for the steps of any objective, with penalties on gradients too."""
    counter = FlopCounterMode(display=False, custom_mapping=FUSED_ATTENTION)
    counter.mod_tracker = _Whole()
    return counter


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a configuration's networks."""

    generator: int
    """Parameters of the generator, its heads for training included."""
    discriminators: int
    """Trained parameters of all discriminators; 0 without any."""
    macs: int
    """Multiply-accumulates of one image of 256 x 256 px: convolutions and matrix products.
    Fourier transforms, norms and activations are not counted."""


@lru_cache(maxsize=256)
def size_of(config: ModelConfig) -> Size:
    """Count a configuration's parameters and its arithmetic, on tensors without data."""
    paper = architecture.load(config.architecture)
    with torch.device("meta"):
        objective = paper.objective(without_files(config), lambda network: network)
    counts = {
        role: sum(p.numel() for p in network.parameters() if role == "generator" or p.requires_grad)
        for role, network in objective.networks.items()
    }
    with FakeTensorMode(), torch.no_grad():
        generator = paper.generator(config).eval()
        image, mask = torch.zeros(1, 3, SIDE_PX, SIDE_PX), torch.zeros(1, 1, SIDE_PX, SIDE_PX)
        with flop_counter() as counter:
            generator(*architecture.inputs_of(config, image, mask))
    return Size(
        generator=counts.pop("generator"),
        discriminators=sum(counts.values()),
        macs=counter.get_total_flops() // 2,
    )


@lru_cache(maxsize=256)
def step_flops(config: ModelConfig, side_px: int, samples: int = 2, step: int = 0) -> float:
    """Return the floating-point operations of a training step, per sample.

    A step is taken on tensors without data and counted: generator, discriminators and frozen
    networks, forward and backward. Convolutions and matrix products count, two operations for each
    multiply-accumulate.

    Args:
        config: of the model; frozen networks need no file.
        side_px: height and width of the images.
        samples: in the step.
        step: its number, as schedules may leave parts of it out.

    Raises:
        ValueError: if the objective does not take so many samples.
    """
    paper = architecture.load(config.architecture)
    with FakeTensorMode():
        objective = paper.objective(without_files(config), lambda network: network)
        image = torch.zeros(samples, 3, side_px, side_px)
        batch = architecture.Batch(
            image=image,
            mask=image[:, :1],
            labels=image if config.takes_labels else None,
            step=step,
        )
        with flop_counter() as counter:
            objective.step(batch)
    return float(counter.get_total_flops()) / samples


def without_files(config: ModelConfig) -> ModelConfig:
    """Return a configuration whose frozen networks need no file; none of them is counted."""
    names = {field.name for field in fields(config)}
    changes: dict[str, Any] = {
        name: untrained
        for name, (trained, untrained) in UNTRAINED.items()
        if name in names and getattr(config, name) in trained
    }
    return replace(config, **changes)


def difference(variant: Variant, size: Size) -> int | None:
    """Return our parameters minus the published ones, in units of the last digit printed.

    Returns:
        0 where both agree as far as the figure goes; None where nothing is published.
    """
    if not variant.published:
        return None
    printed = variant.published.replace(",", "")
    ours = size.generator + (size.discriminators if variant.counts == "everything" else 0)
    if not printed.endswith("M"):
        return ours - int(printed)
    digits = len(printed.removesuffix("M").partition(".")[2])
    unit = int(10 ** (6 - digits))
    figure: int = round(float(printed.removesuffix("M")) * 10**digits)
    return (ours + unit // 2) // unit - figure


def kept_for_backward(generator: nn.Module, *inputs: Tensor) -> tuple[Any, int]:
    """Run a generator forward with gradients, and count the maps that it keeps for them.

    Args:
        generator: weights and whatever shares their memory are not counted.
        inputs: image and mask, and a label map if the generator takes one.

    Returns:
        The prediction, with its graph, and the bytes.
    """
    # Held, as another storage could else take the place and the identity of one that is gone.
    own = [parameter.untyped_storage() for parameter in generator.parameters()]
    known, kept = {id(storage) for storage in own}, dict[int, torch.UntypedStorage]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            kept[id(storage)] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = generator(*inputs)
    return prediction, sum(storage.nbytes() for storage in kept.values())
