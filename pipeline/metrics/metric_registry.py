"""Every metric, declared once: its name, its format in tables, and its function.

To add one, write its function (or take one of ``image_metrics``) and give it a line in
``DECLARED``: validation, evaluation, comparison, model selection and every table read that list.

"L1" and "SSIM" mean different numbers in different papers; each form has its own name here, so no
column ever mixes two. The implementation is in ``metrics`` and, for MS-SSIM and VIF, in
torchmetrics.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from infill.lazy import LazyModule
from infill.pipeline.errors import UserError
from infill.pipeline.metrics.distribution_metrics import (
    Features,
    FeatureSet,
    discriminative_scores,
    frechet_distance,
    inception_score,
    kernel_distance,
)

if TYPE_CHECKING:
    from torch import Tensor

    from infill.pipeline.metrics import image_metrics
else:  # Names of metrics are checked before PyTorch is imported.
    image_metrics = LazyModule("infill.pipeline.metrics.image_metrics")

Measurement = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""``measure(composites, images, masks)``: uint8 [B, H, W, 3] twice and [B, 1, H, W]; returns
[B]."""
Classify = Callable[[Features], Features]
"""Features [N, D] to probabilities [N, classes]."""
SetMeasurement = Callable[[FeatureSet, FeatureSet, Classify, int], tuple[float, float | None]]
"""``compare(composites, images, classify, seed)`` of features [N, D] and [M, D], which may be
larger than memory; returns the figure and its spread over subsets, None if it has none."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of composites, and its format in tables."""

    name: str
    """Name of the metric's column in rows, records and tables."""
    title: str
    unit: str = ""
    better: Literal["higher", "lower"]
    decimals: int
    scale: float = 1.0
    """Factor from a value to its displayed unit."""
    least_side_px: int = 11
    """Minimum side of an image for which it is defined, in pixels."""
    measure: Measurement | None = None
    """Measures each composite; None for a metric of a set, or of LPIPS's network."""
    compare: SetMeasurement | None = None
    """Compares a set of composites with a set of images, by features of ``network``."""
    paired: bool = False
    """Whether ``compare`` takes the original of each composite, not every original once."""
    network: Literal["", "inception", "lpips", "places365"] = ""
    """The network that it needs; without that network's weights it is not computed."""
    validated: bool = True
    """Whether training measures it at each checkpoint."""
    evaluated: bool = True
    """Whether every evaluation measures it; otherwise only if a protocol or --metrics names it."""

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def of_each(self, composites: "Tensor", images: "Tensor", masks: "Tensor") -> "Tensor":
        """Return the metric of each composite, [B] float64.

        Raises:
            UserError: if ``measure`` returns anything but a finite number for each.
        """
        assert self.measure is not None
        found = self.measure(composites, images, masks)
        count = len(images)
        if getattr(found, "shape", None) != (count,) or not hasattr(found, "isfinite"):
            shown = f"a tensor of shape {list(found.shape)}" if hasattr(found, "shape") else found
            raise UserError(
                f"the metric {self.name!r} must return a tensor of {count} numbers, one for each "
                f"image, not {shown}"
            )
        if not found.isfinite().all():
            raise UserError(
                f"the metric {self.name!r} is {found[~found.isfinite()][0]} for an image; it must "
                "be finite"
            )
        return found.double()

    def shown(self, value: float) -> str:
        """Return a value in its unit, with its decimals."""
        return f"{value * self.scale:.{self.decimals}f}"

    def display(self) -> dict[str, Any]:
        """Return its format, as JSON values."""
        names = ("name", "title", "unit", "better", "decimals", "scale", "least_side_px")
        return {name: getattr(self, name) for name in names}


def _decibels(name: str, where: str, measure: Measurement, validated: bool = True) -> Metric:
    return Metric(
        name=name,
        title=f"PSNR {where}",
        unit="dB",
        better="higher",
        decimals=2,
        measure=measure,
        validated=validated,
    )


def _similarity(
    name: str, what: str, measure: Measurement, least_side_px: int = 11, evaluated: bool = True
) -> Metric:
    return Metric(
        name=name,
        title=what,
        better="higher",
        decimals=3,
        least_side_px=least_side_px,
        measure=measure,
        validated=False,
        evaluated=evaluated,
    )


def _percent(
    name: str, what: str, measure: Measurement, validated: bool = False, evaluated: bool = True
) -> Metric:
    return Metric(
        name=name,
        title=what,
        unit="%",
        better="lower",
        decimals=2,
        scale=100.0,
        measure=measure,
        validated=validated,
        evaluated=evaluated,
    )


DECLARED: tuple[Metric, ...] = (
    _decibels("hole_psnr", "hole", lambda *images: image_metrics.hole_psnr(*images)),
    _decibels("psnr", "whole", lambda ours, theirs, _: image_metrics.psnr(ours, theirs)),
    _similarity("hole_ssim", "SSIM hole", lambda *images: image_metrics.hole_ssim(*images)),
    _similarity("ssim", "SSIM whole", lambda ours, theirs, _: image_metrics.ssim(ours, theirs)),
    _percent("hole_l1", "L1 hole", lambda *images: image_metrics.hole_l1(*images), validated=True),
    _percent("l1", "L1 whole", lambda ours, theirs, _: image_metrics.l1(ours, theirs)),
    _decibels(
        "ring_psnr", "rim", lambda *images: image_metrics.ring_psnr(*images), validated=False
    ),
    _percent("ring_l1", "L1 rim", lambda *images: image_metrics.ring_l1(*images)),
    Metric(
        name="frame_rim_psnr",
        title="PSNR rim, 1/32 of the frame",
        unit="dB",
        better="higher",
        decimals=2,
        measure=lambda *images: image_metrics.frame_rim_psnr(*images),
        validated=False,
        evaluated=False,
    ),
    _percent(
        "frame_rim_l1",
        "L1 rim, 1/32 of the frame",
        lambda *images: image_metrics.frame_rim_l1(*images),
        evaluated=False,
    ),
    Metric(
        name="grey_l1",
        title="MAE of grey, SPN's",
        unit="x 0.1",
        better="lower",
        decimals=3,
        scale=10.0,
        measure=lambda ours, theirs, _: image_metrics.grey_l1(ours, theirs),
        validated=False,
        evaluated=False,
    ),
    _percent(
        "relative_l1",
        "L1 relative, PEN-Net's release",
        lambda ours, theirs, _: image_metrics.relative_l1(ours, theirs),
        evaluated=False,
    ),
    _percent(
        "l2", "L2 whole", lambda ours, theirs, _: image_metrics.l2(ours, theirs), evaluated=False
    ),
    _percent(
        "total_variation",
        "total variation",
        lambda ours, _theirs, _: image_metrics.total_variation(ours),
        evaluated=False,
    ),
    _similarity(
        "uniform_ssim_11",
        "SSIM uniform 11, SPN's",
        lambda ours, theirs, _: image_metrics.uniform_ssim(ours, theirs, 11),
        evaluated=False,
    ),
    _similarity(
        "uniform_ssim_51",
        "SSIM uniform 51, PEN-Net's release",
        lambda ours, theirs, _: image_metrics.uniform_ssim(ours, theirs, 51),
        least_side_px=51,
        evaluated=False,
    ),
    _similarity(
        "ms_ssim",
        "MS-SSIM",
        lambda ours, theirs, _: multiscale_ssim(ours, theirs),
        least_side_px=161,
        evaluated=False,
    ),
    _similarity(
        "vif",
        "VIF, pixel domain",
        lambda ours, theirs, _: visual_information(ours, theirs),
        least_side_px=41,
        evaluated=False,
    ),
    Metric(
        name="fid",
        title="FID",
        better="lower",
        decimals=2,
        network="inception",
        compare=lambda ours, theirs, _classify, _seed: (frechet_distance(ours, theirs), None),
    ),
    Metric(
        name="kid",
        title="KID x 1000",
        better="lower",
        decimals=2,
        scale=1000.0,
        network="inception",
        compare=lambda ours, theirs, _classify, seed: kernel_distance(ours, theirs, seed),
    ),
    Metric(
        name="inception_score",
        title="inception score",
        better="higher",
        decimals=2,
        network="inception",
        compare=lambda ours, _theirs, classify, _seed: inception_score(ours, classify),
    ),
    Metric(
        name="places_score",
        title="IS by Places365",
        better="higher",
        decimals=2,
        network="places365",
        compare=lambda ours, _theirs, classify, _seed: inception_score(ours, classify),
    ),
    Metric(
        name="p_ids",
        title="P-IDS",
        unit="%",
        better="higher",
        decimals=2,
        scale=100.0,
        network="inception",
        paired=True,
        compare=lambda ours, theirs, _classify, _seed: (
            discriminative_scores(ours, theirs)[0],
            None,
        ),
    ),
    Metric(
        name="u_ids",
        title="U-IDS",
        unit="%",
        better="higher",
        decimals=2,
        scale=100.0,
        network="inception",
        paired=True,
        compare=lambda ours, theirs, _classify, _seed: (
            discriminative_scores(ours, theirs)[1],
            None,
        ),
    ),
    Metric(
        name="lpips",
        title="LPIPS",
        better="lower",
        decimals=3,
        least_side_px=31,  # In smaller images the second pooling of its network has no window.
        network="lpips",
    ),
)
"""Every metric, in the order of the reports."""
_TWICE = [name for name, count in Counter(m.name for m in DECLARED).items() if count > 1]
assert not _TWICE, f"metrics are declared twice: {', '.join(_TWICE)}"

METRICS = tuple(m for m in DECLARED if m.measure and m.evaluated and not m.network)
"""Metrics of every row of an evaluation, in the order of the report."""
VALIDATED = tuple(m for m in METRICS if m.validated)
"""Metrics of each validation in training."""
DECIDING = next(m for m in METRICS if m.name == "hole_psnr")
"""The metric that selects the best checkpoint, and that verdicts and tables by hole ratio show."""
FURTHER = {m.name: m for m in DECLARED if m.measure and not m.evaluated and not m.network}
"""Further metrics of papers, measured if a protocol or ``--metrics`` names them."""
OF_NETWORKS = {m.name: m for m in DECLARED if m.network}
"""Metrics that need a network, by their name in protocols and published tables."""
OF_SETS = {m.name: m for m in DECLARED if m.compare}
"""Metrics of a whole set of images, by the features of their network."""
PERCEIVED = OF_NETWORKS["lpips"]
"""Metrics of each composite by a network, if its weights are given."""


def multiscale_ssim(composite: "Tensor", image: "Tensor") -> "Tensor":
    """Return MS-SSIM (Wang et al. 2003), [B]: five scales, published weights, 11 x 11 Gaussian.

    As in torchmetrics, with negative terms clipped at 0.

    Raises:
        ValueError: if a side is shorter than 161 px, where the coarsest scale has no window.
    """
    if min(image.shape[1:3] if image.shape[-1] == 3 else image.shape[-2:]) < 161:
        raise ValueError(f"MS-SSIM needs images of at least 161 px a side: {image.shape}")
    from torchmetrics.functional.image import (  # a slow import of four seconds
        multiscale_structural_similarity_index_measure as measure,
    )

    found: Tensor = measure(
        image_metrics.unit(composite),
        image_metrics.unit(image),
        reduction="none",
        data_range=1.0,
        normalize="relu",
    )
    return found


def visual_information(composite: "Tensor", image: "Tensor") -> "Tensor":
    """Return visual information fidelity (Sheikh and Bovik 2006), [B]: pixel domain, RGB averaged.

    A perceptual measure without a network: the share of the information in the image's edges and
    textures, at four scales, that is left in the composite. Above 1 if contrast is added.

    Raises:
        ValueError: if a side is shorter than 41 px, where the coarsest scale has no window.
    """
    from torchmetrics.functional.image import visual_information_fidelity  # slow, as above

    scaled = (image_metrics.unit(one) * 255.0 for one in (composite, image))  # Noise of variance 2.
    found: Tensor = visual_information_fidelity(*scaled, reduction="none")
    return found


def chosen_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics to measure: always ``METRICS``, and the named further ones.

    Raises:
        UserError: if a name is unknown; the message lists the known names.
    """
    own = [metric.name for metric in METRICS]
    for name in names:
        if name not in (*own, *FURTHER, PERCEIVED.name):
            raise UserError(f"unknown metric {name!r}; there are: {', '.join([*own, *FURTHER])}")
    further = [FURTHER[name] for name in dict.fromkeys(names) if name in FURTHER]
    return (*METRICS, *further, *((PERCEIVED,) if PERCEIVED.name in names else ()))


def measure(
    composites: "Tensor", images: "Tensor", masks: "Tensor", chosen: Sequence[Metric]
) -> "dict[str, Tensor]":
    """Return every chosen metric of composites by name, each [B] float64.

    Args:
        composites: uint8 [B, H, W, 3].
        images: uint8 [B, H, W, 3].
        masks: float32 [B, 1, H, W], 1 in the hole.
        chosen: the result of :func:`chosen_metrics`; LPIPS is left to its network.

    Raises:
        UserError: as :meth:`Metric.of_each` does.
    """
    found = image_metrics.scores(composites, images, masks)
    for metric in chosen:
        if metric.name not in found and metric.measure is not None:
            found[metric.name] = metric.of_each(composites, images, masks)
    return {m.name: found[m.name].double() for m in chosen if m.name in found}
