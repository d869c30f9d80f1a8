"""Metrics of an image against the original: PSNR, SSIM, L1, over the frame, the hole and its rim.

Images are 8-bit RGB, [B, H, W, 3] uint8 as the predictor returns, or [B, 3, H, W] float in [0, 1].
Reported scores are of 8-bit images, which users receive and which the papers saved to files before
scoring. Every score is per image, [B] float32; means are taken over images.

Masks are [B, 1, H, W] with 1 in the hole. An empty hole has L1 0, SSIM 1, and the maximum PSNR
``MAX_PSNR_DB``.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

MAX_PSNR_DB = 100.0
"""PSNR of equal images. One level of error in one channel of one pixel of 256 x 256 is 101 dB:
beyond this cap, differences are meaningless, and means over images stay finite."""
RING_WIDTH_PX = 8
SSIM_SIGMA = 1.5  # Wang et al. 2004, with an 11 x 11 window
SSIM_LUMINANCE, SSIM_CONTRAST = 0.01**2, 0.03**2  # C1 and C2 for a data range of 1
RESAMPLES = 2000
_AT_ONCE_PX = 2**15


class Interval(NamedTuple):
    """A mean over images with its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def unit(images: Tensor) -> Tensor:
    """Return images as float32 [B, 3, H, W] in [0, 1].

    Raises:
        ValueError: if they are neither 8-bit [B, H, W, 3] nor float [B, 3, H, W].
    """
    channels = -1 if images.dtype == torch.uint8 else 1
    if images.ndim != 4 or images.shape[channels] != 3:
        raise ValueError(
            "images must be uint8 [B, H, W, 3] or float [B, 3, H, W], found "
            f"{images.dtype} {list(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return images.permute(0, 3, 1, 2).contiguous().float() / 255
    return images.float()


def region_mean(values: Tensor, region: Tensor) -> Tensor:
    """Return the mean of [B, C, H, W] values where [B, 1, H, W] ``region`` is 1: [B], or 0."""
    region = region.to(values.dtype)
    pixels = region.sum(dim=(1, 2, 3)) * values.shape[1]
    return (values * region).sum(dim=(1, 2, 3)) / pixels.clamp(min=1)


def ring(mask: Tensor, width_px: int = RING_WIDTH_PX) -> Tensor:
    """Return the rim of the hole, [B, 1, H, W]: its pixels within ``width_px`` of a known pixel.

    Distance counts diagonal steps as one. The edge of the image does not count as known.
    """
    near = functional.pad(1 - mask.float(), (width_px,) * 4)
    for axis in (2, 3):
        near = _largest(near, 2 * width_px + 1, axis)
    return near * mask


def _largest(values: Tensor, window: int, axis: int) -> Tensor:
    """Return the maximum in every window of a length inside the frame, by doubling its length."""
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        length = values.shape[axis] - step
        values = values.narrow(axis, 0, length).maximum(values.narrow(axis, step, length))
        covered += step
    return values


def _decibels(mean_square: Tensor) -> Tensor:
    return -10 * mean_square.clamp(min=10 ** (-MAX_PSNR_DB / 10)).log10()


def psnr(composite: Tensor, image: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio over the frame, [B] in dB, at most ``MAX_PSNR_DB``."""
    return _decibels((unit(composite) - unit(image)).square().mean(dim=(1, 2, 3)))


def hole_psnr(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR over the hole's pixels alone, [B] in dB, at most ``MAX_PSNR_DB``."""
    return _decibels(region_mean((unit(composite) - unit(image)).square(), mask))


def l1(composite: Tensor, image: Tensor) -> Tensor:
    """Return the mean absolute difference over pixels and channels, [B] in [0, 1]."""
    return (unit(composite) - unit(image)).abs().mean(dim=(1, 2, 3))


def hole_l1(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute difference over the hole's pixels and channels, [B] in [0, 1]."""
    return region_mean((unit(composite) - unit(image)).abs(), mask)


def ring_psnr(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR over the hole's rim alone, [B] in dB, at most ``MAX_PSNR_DB``."""
    return hole_psnr(composite, image, ring(mask))


def ring_l1(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute difference over the rim's pixels and channels, [B] in [0, 1]."""
    return hole_l1(composite, image, ring(mask))


def frame_rim_width_px(mask: Tensor) -> int:
    """Return the width of a rim in proportion to the frame: 1/32 of its shorter side, 8 of 256."""
    return max(1, min(mask.shape[-2:]) // 32)


def frame_rim_psnr(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR over a rim of 1/32 of the frame, [B] in dB, at most ``MAX_PSNR_DB``."""
    return hole_psnr(composite, image, ring(mask, frame_rim_width_px(mask)))


def frame_rim_l1(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute difference over a rim of 1/32 of the frame, [B] in [0, 1]."""
    return hole_l1(composite, image, ring(mask, frame_rim_width_px(mask)))


def grey_l1(composite: Tensor, image: Tensor) -> Tensor:
    """Return SPN's MAE: the absolute difference of the channels' means, [B] in [0, 1].

    Smaller than :func:`l1` wherever channels err in opposite directions.
    """
    return (unit(composite).mean(dim=1) - unit(image).mean(dim=1)).abs().mean(dim=(1, 2))


def relative_l1(composite: Tensor, image: Tensor) -> Tensor:
    """Return PEN-Net's "mae": sum of |a - b| over sum of a + b, [B] in [0, 1]; 0 if all black."""
    a, b = unit(composite), unit(image)
    total = (a + b).sum(dim=(1, 2, 3))
    return (a - b).abs().sum(dim=(1, 2, 3)) / total.clamp(min=1e-12)


def l2(composite: Tensor, image: Tensor) -> Tensor:
    """Return the mean squared difference over pixels and channels, [B] in [0, 1]."""
    return (unit(composite) - unit(image)).square().mean(dim=(1, 2, 3))


def total_variation(composite: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours, down plus across: [B] in [0, 2]."""
    values = unit(composite)
    down = (values[..., 1:, :] - values[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    across = (values[..., 1:] - values[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + across


def ssim(composite: Tensor, image: Tensor) -> Tensor:
    """Return the structural similarity, [B] in [-1, 1].

    Wang et al. 2004: an 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, population
    covariance; the mean over channels and over the windows around every pixel, the frame being
    reflected at its edges. That is torchmetrics' default. scikit-image (``gaussian_weights``) has
    the same map but leaves 5 px along the edges out of the mean.

    Raises:
        ValueError: if a side is shorter than the window.
    """
    return ssim_map(composite, image).mean(dim=(1, 2, 3))


def hole_ssim(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the SSIM windows centred in the hole, [B]; 1 where there are none."""
    return 1 - region_mean(1 - ssim_map(composite, image), mask)


def ssim_map(composite: Tensor, image: Tensor) -> Tensor:
    """Return SSIM in the window around every pixel: [B, 3, H, W]."""
    distance = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-((distance / SSIM_SIGMA) ** 2) / 2)
    weights = (weights / weights.sum()).float()
    a, b = unit(composite), unit(image)
    _require_window(a, len(weights))
    a, b = (functional.pad(x, (5, 5, 5, 5), mode="reflect") for x in (a, b))
    return _similarity(a, b, weights, unbias=1.0)


def uniform_ssim(composite: Tensor, image: Tensor, window_px: int) -> Tensor:
    """Return SSIM with a uniform window and sample covariance, [B]: 11 for SPN, 51 for PEN-Net.

    The mean over windows that lie inside the frame, as in scikit-image, which those papers call.

    Raises:
        ValueError: if a side is shorter than the window.
    """
    weights = torch.full((window_px,), 1 / window_px)
    pixels = window_px**2
    a, b = unit(composite), unit(image)
    _require_window(a, window_px)
    return _similarity(a, b, weights, unbias=pixels / (pixels - 1)).mean(dim=(1, 2, 3))


def _require_window(composite: Tensor, window_px: int) -> None:
    if min(composite.shape[-2:]) < window_px:
        raise ValueError(
            f"SSIM needs images of at least {window_px} px a side, found "
            f"{composite.shape[-1]}x{composite.shape[-2]}"
        )


def _similarity(a: Tensor, b: Tensor, weights: Tensor, unbias: float) -> Tensor:
    """Return the SSIM index of every window inside the frame; ``weights`` are of one axis.

    Memory is allocated once and written in place: on a CPU, allocation is the main cost.
    """
    moments = a.new_empty(4, *a.shape)
    # Around 1/2 the squares are small, so that float32 keeps the variance of flat windows.
    torch.sub(a, 0.5, out=moments[0])
    torch.sub(b, 0.5, out=moments[1])
    torch.mul(moments[0], moments[0], out=moments[2]).addcmul_(moments[1], moments[1])
    torch.mul(moments[0], moments[1], out=moments[3])
    mean_a, mean_b, squares, product = _blur(moments, weights)
    covariance: Tensor = product.addcmul_(mean_a, mean_b, value=-1).mul_(2 * unbias)
    variances = squares.addcmul_(mean_a, mean_a, value=-1).addcmul_(mean_b, mean_b, value=-1)
    variances.mul_(unbias)
    mean_a.add_(0.5)
    mean_b.add_(0.5)
    both: Tensor = (mean_a * mean_b).mul_(2).add_(SSIM_LUMINANCE)
    each = mean_a.square_().addcmul_(mean_b, mean_b).add_(SSIM_LUMINANCE)
    similarity = both.mul_(covariance.add_(SSIM_CONTRAST))
    return similarity.div_(each.mul_(variances.add_(SSIM_CONTRAST))).mT


def _blur(values: Tensor, weights: Tensor) -> Tensor:
    """Convolve [..., H, W] values with the same weights both ways, inside the frame.

    Returns:
        [..., W, H], so that memory is read in order.
    """
    down = _blur_down(values.flatten(0, -3), weights)
    turned = _blur_down(down.mT.contiguous(), weights)
    return turned.reshape(*values.shape[:-2], *turned.shape[1:])


def _blur_down(planes: Tensor, weights: Tensor) -> Tensor:
    """Convolve every column of [N, H, W] planes.

    The columns are passed as innermost channels, PyTorch's fastest convolution on a CPU; a single
    channel has no fast one.
    """
    width = planes.shape[2]
    kernel = weights.to(planes).repeat(width, 1, 1)[..., None]
    # TF32 on a GPU would lose three digits of every variance.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        blurred = functional.conv2d(planes[:, :, None].permute(0, 3, 1, 2), kernel, groups=width)
    return blurred[..., 0].mT


def scores(composite: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return every score of a table by name, each [B]: whole, hole and ring.

    Each equals the function of that name; shared terms are computed once.
    """
    a, b = unit(composite), unit(image)
    # On a CPU a few at a time: data that stays in its cache is measured three times as fast.
    at_once = max(1, _AT_ONCE_PX // a[0, 0].numel()) if a.device.type == "cpu" else len(a)
    found = [
        _scores(*(frames[start : start + at_once] for frames in (a, b, mask)))
        for start in range(0, len(a), at_once)
    ]
    return {name: torch.cat([few[name] for few in found]) for name in found[0]}


def _scores(a: Tensor, b: Tensor, mask: Tensor) -> dict[str, Tensor]:
    error, unlike = (a - b).abs_(), (1 - ssim_map(a, b)).mean(dim=1, keepdim=True)
    regions = torch.cat([torch.ones_like(mask), mask, ring(mask)], dim=1).flatten(2).mT
    pixels = regions.sum(dim=1).clamp(min=1)

    def means(values: Tensor) -> list[Tensor]:
        """Return the means over the whole, the hole and the rim, each [B]."""
        sums = (values.flatten(2) @ regions).sum(dim=1) / values.shape[1]
        return list((sums / pixels).unbind(dim=1))

    l1, hole_l1, ring_l1 = means(error)
    square, hole_square, ring_square = means(error.square_())
    whole, hole, _ = means(unlike)
    return {
        "psnr": _decibels(square),
        "ssim": 1 - whole,
        "l1": l1,
        "hole_psnr": _decibels(hole_square),
        "hole_ssim": 1 - hole,
        "hole_l1": hole_l1,
        "ring_psnr": _decibels(ring_square),
        "ring_l1": ring_l1,
    }


def mean_interval(values: ArrayLike, seed: int = 0) -> Interval:
    """Return the mean of per-image scores with its percentile bootstrap 95 % interval.

    Args:
        values: [N] finite scores.
        seed: seed of the resampling, so that a table is reproducible.

    Raises:
        ValueError: if there are no values or one is not finite.
    """
    found = np.asarray(values, np.float64).ravel()
    if not found.size or not np.isfinite(found).all():
        raise ValueError(f"a mean needs finite values, found {found.size} with some not finite")
    random = np.random.Generator(np.random.Philox(key=seed))
    means = np.array(
        [found[random.integers(0, found.size, found.size)].mean() for _ in range(RESAMPLES)]
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(found.mean()), float(low), float(high), int(found.size))
