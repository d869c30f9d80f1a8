"""Export a generator alone: the checkpoint to publish, half as large as the one to train from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from infill.pipeline import storage
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The checkpoint, and where its generator goes."""

    checkpoint: str = ""
    """Directory of a checkpoint, or of a run, whose newest checkpoint is taken."""
    out: str = ""
    """Folder or s3:// prefix of the exported checkpoint; an existing one is replaced."""
    precision: Precision = "float16"
    """Number format in which convolutions and matrices are stored. Biases and the parameters and
    statistics of norms stay in float32. Networks compute in float32 whatever is chosen."""

    def __post_init__(self) -> None:
        """Refuse an export of nothing, or to nowhere."""
        for name in ("checkpoint", "out"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty: give --{name} DIRECTORY")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export."""

    location: str
    """Directory of the checkpoint, absolute."""
    digest: str
    """Identity of the checkpoint: SHA-256 over its files' checksums."""
    size: int
    """Bytes of the weights' file."""


def export_weights(config: ExportConfig) -> Exported:
    """Write a checkpoint that has the generator alone, its averaged weights if there are any.

    Parallel kernels are merged (MI-GAN).

    Evaluation, serving and fine-tuning (``--init-from``) take it like another; no training can be
    resumed from it.

    Raises:
        UserError: if there is no checkpoint, it is damaged, or a weight exceeds the format's range.
    """
    from infill.models.architecture import load
    from infill.pipeline import checkpoints

    source = checkpoints.load_generator(config.checkpoint)
    location = storage.absolute(config.out)
    model, weights = load(source.config.architecture).for_serving(
        source.config, source.generator.state_dict()
    )
    states = {name: _stored(name, value, config.precision) for name, value in weights.items()}
    digest = checkpoints.export(
        location,
        {"generator": states},
        {"model": to_dict(model), "data": {"image_size_px": source.image_size_px}},
        {
            "step": source.step,
            "scores": {},
            "exported_from": source.digest,
            "precision": config.precision,
        },
    )
    size = len(storage.read(storage.join(location, "generator.safetensors")))
    return Exported(location=location, digest=digest, size=size)


def _stored(name: str, value: "Tensor", precision: Precision) -> "Tensor":
    import torch

    if value.ndim < 2 or not value.is_floating_point():
        return value
    stored = value.to(getattr(torch, precision))
    if not stored.isfinite().all():
        raise UserError(f"{name} exceeds the range of {precision}: export with another --precision")
    return stored
