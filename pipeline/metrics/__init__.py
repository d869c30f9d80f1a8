"""Image quality: per image (PSNR, SSIM, L1), by networks (LPIPS), and per set (FID, KID)."""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.metrics.distribution_metrics import (
        frechet_distance,
        inception_score,
        kernel_distance,
    )
    from infill.pipeline.metrics.image_metrics import hole_l1, hole_psnr, l1, psnr, ssim
    from infill.pipeline.metrics.metric_registry import (
        DECLARED,
        METRICS,
        Metric,
        chosen_metrics,
        measure,
    )

__all__ = [
    "DECLARED",
    "METRICS",
    "Metric",
    "chosen_metrics",
    "frechet_distance",
    "hole_l1",
    "hole_psnr",
    "inception_score",
    "kernel_distance",
    "l1",
    "measure",
    "psnr",
    "ssim",
]

__getattr__ = lazy_names(
    __name__,
    {
        "distribution_metrics": ("frechet_distance", "inception_score", "kernel_distance"),
        "image_metrics": ("hole_l1", "hole_psnr", "l1", "psnr", "ssim"),
        "metric_registry": ("DECLARED", "METRICS", "Metric", "chosen_metrics", "measure"),
    },
)
