"""The metrics of each composite, by name; a name states which published form it is.

"L1" and "SSIM" mean different numbers in different papers; each form has a name of its own here,
so no column ever mixes two. The arithmetic is that of ``metrics`` and, for MS-SSIM, torchmetrics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from infill.pipeline.errors import UserError
from infill.pipeline.metrics import image_metrics
from infill.pipeline.metrics.lpips import LEAST_SIDE_PX

Measurement = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``measure(composites, images, masks)``: uint8 [B, H, W, 3] twice and [B, 1, H, W]; gives [B]."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number measured on one composite, and how tables show it."""

    name: str
    """Of the column in the rows."""
    title: str
    unit: str
    better: Literal["higher", "lower"]
    decimals: int
    scale: float = 1.0
    """What a value is multiplied by to be shown in its unit."""
    least_side_px: int = 11
    """It is not defined on smaller images."""

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def shown(self, value: float) -> str:
        """Return a value in its unit, with its decimals."""
        return f"{value * self.scale:.{self.decimals}f}"


def _decibels(name: str, where: str) -> Metric:
    return Metric(name=name, title=f"PSNR {where}", unit="dB", better="higher", decimals=2)


def _similarity(name: str, what: str, least_side_px: int = 11) -> Metric:
    return Metric(
        name=name, title=what, unit="", better="higher", decimals=3, least_side_px=least_side_px
    )


def _percent(name: str, what: str) -> Metric:
    return Metric(name=name, title=what, unit="%", better="lower", decimals=2, scale=100.0)


METRICS = (
    _decibels("hole_psnr", "hole"),
    _decibels("psnr", "whole"),
    _similarity("hole_ssim", "SSIM hole"),
    _similarity("ssim", "SSIM whole"),
    _percent("hole_l1", "L1 hole"),
    _percent("l1", "L1 whole"),
    _decibels("ring_psnr", "rim"),
    _percent("ring_l1", "L1 rim"),
)
"""What every row carries, in the order of the report; ``metrics.scores`` measures them."""

SPN_MAE = Metric(
    name="grey_l1",
    title="MAE of grey, SPN's",
    unit="x 0.1",
    better="lower",
    decimals=3,
    scale=10.0,
)

FURTHER: dict[str, tuple[Metric, Measurement]] = {
    metric.name: (metric, measurement)
    for metric, measurement in (
        (SPN_MAE, lambda ours, theirs, _: image_metrics.grey_l1(ours, theirs)),
        (
            _percent("relative_l1", "L1 relative, PEN-Net's release"),
            lambda ours, theirs, _: image_metrics.relative_l1(ours, theirs),
        ),
        (_percent("l2", "L2 whole"), lambda ours, theirs, _: image_metrics.l2(ours, theirs)),
        (
            _percent("total_variation", "total variation"),
            lambda ours, _theirs, _: image_metrics.total_variation(ours),
        ),
        (
            _similarity("uniform_ssim_11", "SSIM uniform 11, SPN's"),
            lambda ours, theirs, _: image_metrics.uniform_ssim(ours, theirs, 11),
        ),
        (
            _similarity("uniform_ssim_51", "SSIM uniform 51, PEN-Net's release", 51),
            lambda ours, theirs, _: image_metrics.uniform_ssim(ours, theirs, 51),
        ),
        (
            _similarity("ms_ssim", "MS-SSIM", 161),
            lambda ours, theirs, _: multiscale_ssim(ours, theirs),
        ),
    )
}
"""Further metrics of papers, measured where a protocol or ``--metrics`` asks for them."""


PERCEIVED = Metric(
    name="lpips", title="LPIPS", unit="", better="lower", decimals=3, least_side_px=LEAST_SIDE_PX
)
"""Measured where its network is given; see ``networks``."""


def multiscale_ssim(picture: Tensor, image: Tensor) -> Tensor:
    """Return MS-SSIM (Wang et al. 2003), [B]: five scales, published weights, 11 x 11 Gaussian.

    As torchmetrics has it, with negative terms cut at 0.

    Raises:
        ValueError: if a side is shorter than 161 px, where the coarsest scale has no window.
    """
    if min(image.shape[1:3] if image.shape[-1] == 3 else image.shape[-2:]) < 161:
        raise ValueError(f"MS-SSIM needs pictures of at least 161 px a side: {image.shape}")
    from torchmetrics.functional.image import (  # Four seconds, spent by those who measure it.
        multiscale_structural_similarity_index_measure as measure,
    )

    found: Tensor = measure(
        image_metrics.unit(picture),
        image_metrics.unit(image),
        reduction="none",
        data_range=1.0,
        normalize="relu",
    )
    return found


def chosen_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return what is measured: always ``METRICS``, and the further ones named.

    Raises:
        UserError: if there is none of a name; the message lists those there are.
    """
    own = [metric.name for metric in METRICS]
    for name in names:
        if name not in (*own, *FURTHER, PERCEIVED.name):
            raise UserError(f"unknown metric {name!r}; there are: {', '.join([*own, *FURTHER])}")
    further = [FURTHER[name][0] for name in dict.fromkeys(names) if name in FURTHER]
    return (*METRICS, *further, *((PERCEIVED,) if PERCEIVED.name in names else ()))


def measure(
    composites: Tensor, images: Tensor, masks: Tensor, chosen: Sequence[Metric]
) -> dict[str, Tensor]:
    """Return every chosen metric of composites by name, each [B] float64.

    Args:
        composites: uint8 [B, H, W, 3].
        images: uint8 [B, H, W, 3].
        masks: float32 [B, 1, H, W], 1 in the hole.
        chosen: as :func:`chosen_metrics` gives; LPIPS is left to its network.
    """
    found = image_metrics.scores(composites, images, masks)
    for metric in chosen:
        if metric.name in FURTHER:
            found[metric.name] = FURTHER[metric.name][1](composites, images, masks)
    return {m.name: found[m.name].double() for m in chosen if m.name in found}
