"""Optimizers by name, with Adam as published the default.

To add one, write a function here and give it a line in ``OPTIMIZERS``. Configurations are read
without PyTorch, so each function imports its own optimizer.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

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
    implementation: Literal["auto", "fused", "foreach", "loop"] = "auto"
    """How PyTorch computes an update: in one kernel for many weights ("fused"), one operation at a
    time for all weights ("foreach") or weight after weight ("loop"). "auto" is "fused" on GPUs and
    CPUs if the optimizer has it; "radam" has "foreach" on GPUs and "loop" on CPUs. The results
    differ by rounding."""

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
        if self.implementation == "fused" and self.name not in FUSED:
            raise ValueError(
                f"optimizer.implementation: {self.name} has no fused form; choose auto or foreach"
            )


FUSED = ("adam", "adamw", "sgd")
"""Optimizers whose updates PyTorch has as one kernel."""
FUSED_ON = ("cuda", "cpu")
"""Types of devices where it is used: on a CPU an update of Adam takes a third of the time."""
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


def implementation_on(config: OptimizerConfig, device: str) -> str:
    """Return how an optimizer computes its updates on a type of device, such as "cuda"."""
    if config.implementation != "auto":
        return config.implementation
    if device in FUSED_ON and config.name in FUSED:
        return "fused"
    return "foreach" if device == "cuda" else "loop"


def form(config: OptimizerConfig, weights: "Collection[nn.Parameter]") -> dict[str, Any]:
    """Return PyTorch's arguments for the implementation, on the device of the weights."""
    device = next((weight.device.type for weight in weights), "meta")
    chosen = implementation_on(config, device)
    if device == "meta" or (config.implementation == "auto" and chosen != "fused"):
        return {}  # PyTorch's own choice is the same.
    return {"fused": True} if chosen == "fused" else {"foreach": chosen == "foreach"}


Weights = Collection["nn.Parameter"]
Betas = tuple[float, float]
Build = Callable[[OptimizerConfig, Weights, float, Betas], "Optimizer"]
"""Builds an optimizer for weights, from a learning rate and Adam's two decays."""


def adam(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return Adam (Kingma and Ba)."""
    from torch.optim import Adam

    settings = {"weight_decay": config.weight_decay, **form(config, weights)}
    return Adam(weights, lr=rate, betas=betas, eps=config.eps, **settings)


def adamw(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return Adam with decoupled weight decay (Loshchilov and Hutter)."""
    from torch.optim import AdamW

    settings = {"weight_decay": config.weight_decay, **form(config, weights)}
    return AdamW(weights, lr=rate, betas=betas, eps=config.eps, **settings)


def radam(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return rectified Adam (Liu et al.)."""
    from torch.optim import RAdam

    settings = {"weight_decay": config.weight_decay, **form(config, weights)}
    return RAdam(weights, lr=rate, betas=betas, eps=config.eps, **settings)


def sgd(config: OptimizerConfig, weights: Weights, rate: float, betas: Betas) -> "Optimizer":
    """Return stochastic gradient descent with momentum."""
    from torch.optim import SGD

    settings = {"weight_decay": config.weight_decay, **form(config, weights)}
    return SGD(weights, lr=rate, momentum=config.momentum, **settings)


OPTIMIZERS: dict[str, Build] = {
    "adam": adam,
    "adamw": adamw,
    "radam": radam,
    "sgd": sgd,
}
