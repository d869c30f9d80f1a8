"""Load a model by its reference: a checkpoint, a run, a version, or a file of its authors.

This package imports the registry, as ``load("spn@champion")`` needs it, while the registry needs no
prediction. The registry imports MLflow only to look up a version; :func:`load` imports PyTorch, so
that a notebook starts at once.
"""

import os
import re
from typing import TYPE_CHECKING, Literal

from infill.pipeline import storage
from infill.pipeline.cluster import require_device
from infill.pipeline.errors import UserError
from infill.pipeline.inference.config import Precision, TilingConfig
from infill.pipeline.pretrained import DEFAULT
from infill.pipeline.registry.config import RegistryConfig

if TYPE_CHECKING:
    import torch

    from infill.pipeline.inference.inpainter import Inpainter

BEST_BY = "hole_psnr"
"""The validation score that selects a run's best checkpoint."""


def load(
    reference: str | os.PathLike[str] = DEFAULT,
    device: "str | torch.device" = "cpu",
    precision: Precision = "float32",
    *,
    architecture: str | None = None,
    checkpoint: Literal["newest", "best"] = "newest",
    registry: RegistryConfig | None = None,
    tiling: "TilingConfig | None" = None,
) -> "Inpainter":
    """Load a model for inpainting.

    Args:
        reference: one of

            - ``infill-base``, the network that comes with the package and the default;
            - a version of the registry: ``spn`` (its champion), ``spn@champion``, ``spn@3`` or
              ``spn/3``;
            - the directory of a checkpoint, or of a run; a path or s3:// address;
            - a file of the authors' released weights (.pth, .npz, .safetensors ...).
        device: the device: "cpu", "cuda", "cuda:1" ...
        precision: "float32", or "bfloat16" or "float16" under autocast.
        architecture: architecture of an authors' file, such as ``"spn"``, if it is not recognized.
        checkpoint: the checkpoint of a run: its newest, or the best by hole PSNR on the val set.
        registry: the model registry; ``runs/mlflow.db`` by default.
        tiling: how images of any size are tiled; the service's tiling by default. The model's
            training size is one of the tiles in any case.

    Returns:
        The model, to be called with an image and a mask.

    Raises:
        UserError: if the model does not exist, its files are damaged, or they fit no known network.
    """
    from infill.pipeline.checkpoints import load_generator
    from infill.pipeline.inference.inpainter import Inpainter
    from infill.pipeline.inference.predictor import Predictor

    name = os.fspath(reference)
    if not name:
        raise UserError("the name of the model is empty; infill-base comes with the package")
    if checkpoint not in ("newest", "best"):
        raise UserError(f"checkpoint is newest or best, not {checkpoint!r}")
    if precision not in ("float32", "bfloat16", "float16"):
        raise UserError(f"precision is float32, bfloat16 or float16, not {precision!r}")
    if os.path.isfile(name):
        generator, multiple, image_size_px = _released(name, architecture, device)
        predictor = Predictor(
            generator=generator, size_multiple=multiple, device=device, precision=precision
        )
        tiling = (tiling or TilingConfig()).for_model(image_size_px)
        return Inpainter(predictor, os.path.basename(name), tiling)
    if architecture is not None:
        raise UserError(
            f"architecture goes with a file of released weights; there is no file {name}"
        )
    called, location = _located(name, checkpoint, registry or RegistryConfig())
    loaded = load_generator(location, device)
    tiling = (tiling or TilingConfig()).for_model(loaded.image_size_px)
    return Inpainter(Predictor.of(loaded, device, precision), called, tiling)


def _released(
    file: str, architecture: str | None, device: "str | torch.device"
) -> "tuple[torch.nn.Module, int, int]":
    """Return the generator of an authors' file, its ``size_multiple`` and its training size."""
    from infill.models.architecture import load as load_architecture
    from infill.models.layers import at_rest
    from infill.pipeline.inference.predictor import require_labels
    from infill.pipeline.weight_import import translate

    require_device(device)
    released = translate((file,), architecture)
    require_labels(released.config, labelled=False)
    generator = load_architecture(released.config.architecture).generator(released.config)
    generator.load_state_dict(released.states["generator"])
    multiple = released.config.size_multiple
    return at_rest(generator.to(device)), multiple, released.image_size_px


def _located(
    reference: str, which: Literal["newest", "best"], registry: RegistryConfig
) -> tuple[str, str]:
    """Return the name of a model, and the location of its checkpoint."""
    from infill.pipeline import checkpoints
    from infill.pipeline.registry import resolve

    version = re.fullmatch(r"([\w.-]+)/(\d+)", reference)
    if version and not storage.exists(reference):
        reference = f"{version.group(1)}@{version.group(2)}"
    elif which == "best" and checkpoints.steps(storage.absolute(reference)):
        reference = checkpoints.best(storage.absolute(reference), BEST_BY)[0]
    found = resolve(registry, reference)
    return f"{found.name}@{found.version}", found.location
