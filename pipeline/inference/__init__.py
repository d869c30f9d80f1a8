"""The one predictor: from a checkpoint, or a model's name, to composites; tiling, pairs of files.

    from infill.pipeline.inference import load
    inpaint = load("spn@champion")
    result = inpaint(image, mask)

``predictor`` runs a generator, ``inpainter`` inpaints images of any kind and size with it, and
``references`` loads it. Serving, batch inference, evaluation, validation and visualization predict
through the same code.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.inference.config import Mode, Precision, TilingConfig
    from infill.pipeline.inference.inpainter import Inpainter
    from infill.pipeline.inference.predictor import Predictor
    from infill.pipeline.inference.references import load

__all__ = ["Inpainter", "Mode", "Precision", "Predictor", "TilingConfig", "load"]

__getattr__ = lazy_names(
    __name__,
    {
        "inpainter": ("Inpainter",),
        "predictor": ("Predictor",),
        "references": ("load",),
        "config": ("Mode", "Precision", "TilingConfig"),
    },
)
