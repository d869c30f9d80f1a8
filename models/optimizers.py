"""Optimizers by name, with Adam as published the default.

To add one, write a function here and give it a line in ``OPTIMIZERS``. Configurations are read
without PyTorch, so each function imports its own optimizer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer of a network; its learning rate and betas are fields of the model."""

    name: str = "adam"
    """The optimizer: "adam" (as published), "adamw", "radam" or "sgd"."""
    weight_decay: float = 0.0
    """L2 penalty on the weights; decoupled from the gradient for "adamw"."""
    eps: float = 1e-8
    """Term that "adam", "adamw" and "radam" add to the denominator."""
    momentum: float = 0.9
    """Momentum of "sgd"; the others use the model's beta1 and beta2."""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer {self.name!r} is unknown; there are: {known}")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay must be 0 or more, not {self.weight_decay}")
        if self.eps <= 0:
            raise ValueError(f"optimizer.eps must be positive, not {self.eps}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum must be in [0, 1), not {self.momentum}")


SAME = "same"
"""The discriminators' default: the generator's optimizer."""


def require_defaults(config: "DataclassInstance", name: str) -> None:
    """Refuse settings of a discriminator's configuration that is the generator's by its name.

    Raises:
        ValueError: naming the field to set.
    """
    if any(getattr(config, field.name) != field.default for field in fields(config)):
        raise ValueError(f"settings of {name} need {name}.name; {SAME!r} takes the generator's")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorOptimizerConfig(OptimizerConfig):
    """The optimizer of the discriminators; "same" uses the generator's, with its settings."""

    name: str = SAME
    """The optimizer: "same" uses the generator's; or "adam", "adamw", "radam", "sgd"."""

    def __post_init__(self) -> None:
        if self.name != SAME:
            super().__post_init__()
        else:
            require_defaults(self, "discriminator_optimizer")


Weights = Iterable["nn.Parameter"]
Betas = tuple[float, float]
Build = Callable[[OptimizerConfig, Weights, float, Betas], "Optimizer"]
"""Builds an optimizer for weights, from a learning rate and Adam's two decays."""


def adam(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return Adam (Kingma and Ba)."""
    from torch.optim import Adam

    decay = config.weight_decay
    return Adam(weights, lr=rate, betas=betas, eps=config.eps, weight_decay=decay)


def adamw(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return Adam with decoupled weight decay (Loshchilov and Hutter)."""
    from torch.optim import AdamW

    decay = config.weight_decay
    return AdamW(weights, lr=rate, betas=betas, eps=config.eps, weight_decay=decay)


def radam(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return rectified Adam (Liu et al.)."""
    from torch.optim import RAdam

    decay = config.weight_decay
    return RAdam(weights, lr=rate, betas=betas, eps=config.eps, weight_decay=decay)


def sgd(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return stochastic gradient descent with momentum."""
    from torch.optim import SGD

    decay = config.weight_decay
    return SGD(weights, lr=rate, momentum=config.momentum, weight_decay=decay)


OPTIMIZERS: dict[str, Build] = {
    "adam": adam,
    "adamw": adamw,
    "radam": radam,
    "sgd": sgd,
}
