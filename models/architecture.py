"""The interface of a model: one batch type in, named losses out, the output called ``final``."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infill.models.config import ModelConfig as ModelConfig
from infill.models.config import names as names
from infill.models.config import require_known
from infill.models.masking import crop_to, pad_to_multiple
from infill.models.optimizers import OPTIMIZERS, SAME
from infill.models.tables import Table

__all__ = [
    "Architecture",
    "Batch",
    "Objective",
    "OtherMethod",
    "Prediction",
    "Prepare",
    "Released",
    "SamplingGenerator",
    "Updating",
    "Variant",
    "fill",
    "load",
    "unpublished",
]

Prepare = Callable[[nn.Module], nn.Module]
"""Spreads one trained network over devices: the identity in tests, DDP on a cluster."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples stacked for one step, on one worker."""

    image: Tensor
    """The originals, [B, 3, H, W] float32 in [-1, 1]."""
    mask: Tensor
    """The holes, [B, 1, H, W] float32: 1 in the hole, 0 where known."""
    keys: tuple[str, ...] = ()
    """Each sample's key in its shard."""
    mask_ids: tuple[str, ...] = ()
    """Each mask's id, from which it can be generated again."""
    labels: Tensor | None = None
    """Label maps of the whole images as colours, [B, 3, H, W] float32 in [-1, 1], for networks that
    take them (:attr:`ModelConfig.takes_labels`); None for all others."""
    step: int = 0
    """The global step; every schedule counts it, from 0."""
    seed: int = 0
    """Seed of random layers: a function of run seed, step and rank."""

    def __post_init__(self) -> None:
        """Refuse tensors whose shapes differ, which broadcasting could hide."""
        images = list(self.image.shape)
        tensors = {"image": (self.image, 3), "mask": (self.mask, 1), "labels": (self.labels, 3)}
        for name, (tensor, channels) in tensors.items():
            expected = [*images[:1], channels, *images[2:]]
            if tensor is not None and (len(expected) != 4 or list(tensor.shape) != expected):
                raise ValueError(
                    f"the {name} of a batch must be [B, {channels}, H, W], with one B, H and W for "
                    f"image, mask and labels: found {list(tensor.shape)} beside an image {images}"
                )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch with its tensors on ``device``."""
        return Batch(
            image=self.image.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            keys=self.keys,
            mask_ids=self.mask_ids,
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            step=self.step,
            seed=self.seed,
        )

    def cut(self, parts: int) -> "list[Batch]":
        """Return equal parts, in order.

        Raises:
            ValueError: if there are not as many samples in each.
        """
        count, rest = divmod(len(self.image), parts)
        if rest:
            raise ValueError(f"{len(self.image)} samples cannot be cut into {parts} equal parts")
        return [
            replace(
                self,
                image=self.image[first : first + count],
                mask=self.mask[first : first + count],
                keys=self.keys[first : first + count],
                mask_ids=self.mask_ids[first : first + count],
                labels=None if self.labels is None else self.labels[first : first + count],
            )
            for first in range(0, len(self.image), count)
        ]


class Prediction(Protocol):
    """A generator's output: a named tuple whose full-size image is called ``final``."""

    @property
    def final(self) -> Tensor:
        """The prediction over the whole frame, [B, 3, H, W] in [-1, 1]."""
        ...


@runtime_checkable
class SamplingGenerator(Protocol):
    """A generator that inpaints one hole in several ways, such as the probabilistic SPN."""

    def sample_noise(self, image: Tensor, samples: int, seed: int) -> Tensor:
        """Return the noise of several samples for each image [B, 3, H, W]: [samples, B, ...]."""
        ...

    def __call__(self, image: Tensor, mask: Tensor, noise: Tensor) -> Prediction:
        """Predict all images with the first noise, then with the second: [samples * B, 3, H, W]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Updating:
    """How losses become an update; the same for every network of a training."""

    parts: int = 1
    """Parts a batch is cut into, whose gradients are summed before the update: less memory. They
    are all taken at the weights before the step; where one network learns from another's
    update in the same step, only the last part meets it updated."""
    max_gradient_norm: float = 0.0
    """A network's gradients are scaled down to this L2 norm; 0 leaves them as they are."""


class Objective(ABC):
    """The networks in training, their optimisers and losses, and one step of the algorithm.

    ``networks`` holds what is trained and saved, unwrapped and by role ("generator",
    "discriminator"); frozen teachers stay outside. ``optimizers`` has one entry per role that
    is updated. Both keep their order, so that a checkpoint can be restored entry by entry.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    updates_once: ClassVar[bool] = True
    """Whether a step updates each network at most once, so that its batch can come in parts."""
    updating: Updating = Updating()
    spread: tuple[DistributedDataParallel, ...] = ()
    """The networks as wrapped by DDP: while a batch comes in parts, they average gradients over
    the workers at its last part only."""
    total_steps: int = 0
    """The run's last step, to which a schedule may decay; 0 if unknown."""
    _part: int = 0
    _rates: ModelConfig | None = None

    @property
    def gradient_norms(self) -> dict[str, Tensor]:
        """The L2 norm of each network's gradients before its last update, by role."""
        if not hasattr(self, "_norms"):
            self._norms: dict[str, Tensor] = {}
        return self._norms

    @property
    def accuracies(self) -> dict[str, Tensor]:
        """The share of right verdicts in each discriminator's last update, by role."""
        if not hasattr(self, "_right"):
            self._right: dict[str, Tensor] = {}
        return self._right

    def log_accuracy(
        self,
        role: str,
        real: Tensor,
        fake: Tensor,
        between: Tensor | float = 0.0,
        counted: Tensor | None = None,
    ) -> None:
        """Remember how often a discriminator is right; for :meth:`step` to call.

        Args:
            role: under which the share is reported.
            real: its scores of originals, of any shape.
            fake: its scores of generated images.
            between: the threshold between both: 0 for logits; a critic's scores have no zero.
            counted: bool, of the shape of ``fake``: its scores that count; all if None.
        """
        with torch.no_grad():
            found = (fake < between).float()
            share = found.mean() if counted is None else (found * counted).sum() / counted.sum()
            right = (real > between).float().mean() + share
        self.accuracies[role] = right / 2

    @property
    def generator(self) -> nn.Module:
        """The unwrapped generator."""
        return self.networks["generator"]

    def build_optimizers(self, config: ModelConfig) -> None:
        """Build the configured optimizer of each network; for a constructor to call.

        From then on :meth:`step_with_accumulation` sets the learning rates by the schedules of the
        configuration.

        Raises:
            ValueError: if there are settings of a discriminator and no discriminator.
        """
        alone = set(self.networks) == {"generator"}
        for name in ("optimizer", "schedule") if alone else ():
            if getattr(config, f"discriminator_{name}").name != SAME:
                raise ValueError(
                    f"{config.architecture} has no discriminator: leave discriminator_{name} alone"
                )
        self._rates = config
        self.optimizers = {}
        for role, network in self.networks.items():
            weights = [weight for weight in network.parameters() if weight.requires_grad]
            chosen, rate = config.optimizer_of(role), config.base_learning_rate(role)
            build = OPTIMIZERS[chosen.name]
            self.optimizers[role] = build(chosen, weights, rate, (config.beta1, config.beta2))

    def set_learning_rates(self, step: int) -> None:
        """Give every optimizer the learning rate of a step."""
        if self._rates is None:
            return
        for role, optimizer in self.optimizers.items():
            rate = self._rates.learning_rate_at(role, step, self.total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update every network once by the paper's algorithm.

        Args:
            batch: this worker's share of the global batch, on the networks' device.

        Returns:
            Each loss term by name, already weighted: detached scalars.
        """

    def step_with_accumulation(self, batch: Batch) -> dict[str, Tensor]:
        """Take one :meth:`step` at its learning rates, in the parts of :attr:`updating`.

        Returns:
            The loss terms' means over the parts.

        Raises:
            ValueError: if the batch cannot be cut into equal parts.
        """
        self.set_learning_rates(batch.step)
        if self.updating.parts == 1:
            return self.step(batch)
        taken = []
        for index, part in enumerate(batch.cut(self.updating.parts)):
            self._part = index
            with self._averaged(last=index == self.updating.parts - 1):
                taken.append(self.step(replace(part, seed=(part.seed + index) % 2**63)))
        self._part = 0
        return {name: torch.stack([terms[name] for terms in taken]).mean() for name in taken[0]}

    @contextmanager
    def _averaged(self, *, last: bool) -> Iterator[None]:
        """Let workers average their gradients within the block, if it is the last part's."""
        with ExitStack() as stack:
            for network in () if last else self.spread:
                stack.enter_context(network.no_sync())
            yield

    def update(self, role: str, losses: Mapping[str, Tensor]) -> None:
        """Step down the sum of named, already weighted losses; for :meth:`step` to call.

        Args:
            role: of the network that is updated.
            losses: scalars with graphs.
        """
        optimizer, last = self.optimizers[role], self._part == self.updating.parts - 1
        if self._part == 0:
            optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(losses.values())).sum() / self.updating.parts
        with torch.autocast(total.device.type, enabled=False):
            total.backward()  # type: ignore[no-untyped-call]
        if not last:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.gradient_norms[role] = norm.detach()
        if self.updating.max_gradient_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.updating.max_gradient_norm, norm)
        optimizer.step()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a paper's tables, as a configuration."""

    name: str
    """Short and unique within the architecture: "full", "k0", "concat"."""
    config: ModelConfig
    """The settings of the row; all others as published."""
    published: str = ""
    """Parameters as printed, with the digits printed: "42.930M" or "38,898,995"; "" if nowhere."""
    counts: Literal["generator", "everything"] = "generator"
    """Whether the figure printed is the generator's or includes the discriminators."""
    source: str = ""
    """Where it is printed: a table and its row, or "released code"."""
    published_time: str = ""
    """Seconds for an image as printed, with its unit and device: "0.05 s, RTX 3090"; "" if
    nowhere."""


@dataclass(frozen=True, kw_only=True)
class OtherMethod:
    """Another method's figures in a paper's table, as printed there; nothing of it is run here."""

    name: str
    source: str
    """The table, and what it prints beside the next two."""
    published: str = ""
    """Parameters with the digits printed; "" if not printed."""
    published_time: str = ""
    """As of :class:`Variant`."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """A checkpoint of the authors, as our networks take it."""

    config: ModelConfig
    """The configuration under which our networks compute the same function."""
    states: dict[str, dict[str, Tensor]]
    """State dicts by the roles of :attr:`Objective.networks`; "generator" at least."""
    aside: dict[str, Tensor] = field(default_factory=dict)
    """Other tensors of the file, which no network here uses, by their released names."""
    image_size_px: int = 256
    """Side in pixels of the images that the released weights were trained on."""


def as_trained(config: Any, state: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return a configuration and a state dict unchanged."""
    return config, state


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One paper, as its folder presents it."""

    name: str
    paper: str
    config: type[ModelConfig]
    generator: Callable[[Any], nn.Module]
    """Builds the generator; ``forward(image, mask)`` returns a :class:`Prediction`. One whose
    configuration ``takes_labels`` has ``forward(image, mask, labels)``."""
    objective: Callable[[Any, Prepare], Objective]
    """Builds networks, optimisers and losses; ``prepare`` wraps each trained network."""
    variants: Callable[[], tuple[Variant, ...]]
    """Returns the rows of the paper's tables that the configuration expresses, "full" first."""
    read_release: Callable[[Mapping[str, Any]], Released]
    """Translates the contents of a released file, strictly: a ValueError names a tensor that is
    missing, misshapen or left over."""
    write_release: Callable[[Released], dict[str, Any]]
    """Reverses ``read_release``: returns the contents of a file for the authors' code."""
    blocks: tuple[type[nn.Module], ...]
    """Kinds of blocks that hold most of the generator's activations, for activation checkpointing
    (``models/activation_checkpointing.py``)."""
    spaces: Mapping[str, Mapping[str, tuple[Any, ...]]]
    """Search spaces by name: the values to try of each field of the configuration."""
    tables: Mapping[str, Table]
    """The paper's ablations, by the name of the table."""
    symbols: Mapping[str, str]
    """The paper's symbol of each loss term that :meth:`Objective.step` returns, without its weight;
    "released" in a name marks terms that the paper does not print. In ASCII, in TeX notation."""
    intermediate_results: Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
    """Visualizes intermediate results, as the paper does: ``intermediate_results(generator, image,
    mask)`` takes one image [1, 3, H, W] in [-1, 1] of a size that the generator accepts. It returns
    images by name, each [1, 3, h, w] float32 in [-1, 1], in the order of display; the last is
    "final"."""
    others: tuple[OtherMethod, ...] = ()
    """Figures of other methods that the paper prints beside its own, for ``python -m
    infill.models``."""
    for_serving: Callable[[Any, dict[str, Tensor]], tuple[ModelConfig, dict[str, Tensor]]] = (
        as_trained
    )
    """Turns the configuration and the state dict of a trained generator into those of a smaller one
    that predicts the same, for ``jobs/export_weights.py``; most networks have none."""
    static_graph: bool = False
    """Whether each step passes each network once and differentiates it once, in the same way, as
    DDP's ``static_graph`` needs. Gradient penalties and losses that end at a step do not."""

    @property
    def has_paper(self) -> bool:
        """Whether the network is a paper's; for any other, ``paper`` begins with "none"."""
        return not self.paper.startswith("none")


def unpublished(
    *,
    config: type[ModelConfig],
    generator: Callable[[Any], nn.Module],
    objective: Callable[[Any, Prepare], Objective],
    blocks: tuple[type[nn.Module], ...],
    symbols: Mapping[str, str],
) -> Architecture:
    """Return an architecture that no paper has: without released weights, tables and spaces.

    Its weights are those of the default configuration. The arguments are the fields of
    :class:`Architecture`.
    """

    def read(file: Mapping[str, Any]) -> Released:
        wanted = generator(config()).state_dict()
        for name in sorted(wanted.keys() ^ file.keys()):
            found = "missing" if name in wanted else "left over"
            raise ValueError(f"{name} is {found} in weights of the default {config.__name__}")
        for name, value in wanted.items():
            if value.shape != file[name].shape:
                shapes = tuple(file[name].shape), tuple(value.shape)
                raise ValueError(
                    f"{name} is {shapes[0]}, and {shapes[1]} in the default {config.__name__}"
                )
        return Released(config=config(), states={"generator": dict(file)})

    return Architecture(
        name=config.architecture,
        paper="none",
        config=config,
        generator=generator,
        objective=objective,
        variants=lambda: (Variant(name="full", config=config()),),
        read_release=read,
        write_release=lambda released: dict(released.states["generator"]),
        blocks=blocks,
        spaces={},
        tables={},
        symbols=symbols,
        intermediate_results=lambda network, image, mask: {
            "final": network(image, mask).final.detach().float()
        },
    )


def papers() -> list[str]:
    """Return the architectures of papers, by name."""
    return [name for name in names() if load(name).has_paper]


def load(name: str) -> Architecture:
    """Import ``models/NAME/architecture.py`` and return its ``ARCHITECTURE``.

    Raises:
        ValueError: if there is no such folder; the message lists those there are.
    """
    require_known(name)
    module = importlib.import_module(f"infill.models.{name}.architecture")
    architecture: Architecture = module.ARCHITECTURE
    return architecture


def inputs_of(config: ModelConfig, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Return what a generator takes where only shapes matter: a black label map if it needs one."""
    return (image, mask, torch.zeros_like(image) - 1) if config.takes_labels else (image, mask)


def fill(
    generator: nn.Module,
    image: Tensor,
    mask: Tensor,
    size_multiple: int,
    labels: Tensor | None = None,
) -> Tensor:
    """Predict the whole frame for an image of any size.

    The frame is padded by reflection to a multiple of ``size_multiple`` and cropped back, and both
    tensors are converted to the type of the generator's weights.

    Args:
        generator: as built by :attr:`Architecture.generator`.
        image: [B, 3, H, W] in [-1, 1], of any floating type; pixels inside the hole are ignored.
        mask: [B, 1, H, W], 1 in the hole, of any type.
        size_multiple: the configuration's :attr:`ModelConfig.size_multiple`.
        labels: label maps like ``image``, for a generator that takes them.

    Returns:
        The prediction, [B, 3, H, W] float32 in [-1, 1].
    """
    height, width = image.shape[-2:]
    dtype = next(generator.parameters()).dtype
    padded_image, padded_mask = pad_to_multiple(image.to(dtype), mask.to(dtype), size_multiple)
    guides: tuple[Tensor, ...] = ()
    if labels is not None:
        guides = pad_to_multiple(labels.to(dtype), mask.to(dtype), size_multiple)[:1]
    prediction: Prediction = generator(padded_image, padded_mask, *guides)
    return crop_to(prediction.final, height, width).float()
