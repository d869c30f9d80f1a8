"""Masks as a pure function of recipe, sample key, epoch and seed.

A mask is the same on every machine, with any number of workers, after any resume. Its id, which
logs, grids and evaluation rows show, is enough to generate it again with the same configuration.
This package needs neither Ray nor PyTorch.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.masks.config import HOLE_RATIO_BUCKETS, MaskConfig, Recipe
    from infill.pipeline.masks.generate import Mask, bucket_of, generate_mask, mask_from_id
    from infill.pipeline.masks.mask_files import check_mask_files
    from infill.pipeline.masks.rng import number_for, random_for

__all__ = [
    "HOLE_RATIO_BUCKETS",
    "Mask",
    "MaskConfig",
    "Recipe",
    "bucket_of",
    "check_mask_files",
    "generate_mask",
    "mask_from_id",
    "number_for",
    "random_for",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("HOLE_RATIO_BUCKETS", "MaskConfig", "Recipe"),
        "generate": ("Mask", "bucket_of", "generate_mask", "mask_from_id"),
        "mask_files": ("check_mask_files",),
        "rng": ("number_for", "random_for"),
    },
)
