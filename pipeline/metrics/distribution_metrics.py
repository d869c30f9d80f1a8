"""Metrics of a set of images, from features of each image: FID, KID, inception score.

FID compares two Gaussians whose 2048 x 2048 covariances need tens of thousands of images: on a few
hundred it is biased upwards, more so the fewer they are. KID has no such bias, and its spread over
subsets is its uncertainty. So the two are always given together, with N.
"""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]

SUBSETS, SUBSET_SIZE = 100, 1000
"""Subsets of KID and their size (Binkowski et al. 2018); smaller if there are fewer images."""


def frechet_distance(one: Features, other: Features) -> float:
    """Return FID (Heusel et al. 2017): the Frechet distance of two Gaussians.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). The last trace is the nuclear norm of A B^T, where
    S1 = A^T A and S2 = B^T B: exact, symmetric, and small for few images, unlike a square root of
    the 2048 x 2048 product.

    Args:
        one: [N, D].
        other: [M, D].

    Raises:
        ValueError: if a set has fewer than two images, so that it has no covariance.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"FID needs two pictures a set, found {len(one)} and {len(other)}")
    factors = [_factor(features) for features in (one, other)]
    traces = sum(float(np.square(factor).sum()) for factor in factors)
    cross = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    shift = np.square(one.mean(axis=0) - other.mean(axis=0)).sum()
    return max(0.0, float(shift + traces - 2 * cross))


def _factor(features: Features) -> Features:
    """Return A with A^T A the covariance, of at most D rows."""
    centred: Features = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred).R


def kernel_distance(one: Features, other: Features, seed: int) -> tuple[float, float]:
    """Return KID and its standard deviation over subsets (Binkowski et al. 2018).

    The unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, which may be
    slightly below zero for similar sets.

    Args:
        one: [N, D].
        other: [M, D].
        seed: seed of the subsets.

    Raises:
        ValueError: if a set has fewer than two images.
    """
    size = min(SUBSET_SIZE, len(one), len(other))
    if size < 2:
        raise ValueError(f"KID needs two pictures a set, found {len(one)} and {len(other)}")
    random = np.random.Generator(np.random.Philox(seed))
    whole = size == len(one) == len(other)
    values = []
    for _ in range(1 if whole else SUBSETS):
        x = one[random.choice(len(one), size, replace=False)]
        y = other[random.choice(len(other), size, replace=False)]
        values.append(_discrepancy(x, y))
    return float(np.mean(values)), float(np.std(values))


def _discrepancy(x: Features, y: Features) -> float:
    size = len(x)
    kernels = (_kernel(x, x), _kernel(y, y))
    within = [(kernel.sum() - np.trace(kernel)) / (size * (size - 1)) for kernel in kernels]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def _kernel(x: Features, y: Features) -> Features:
    kernel: Features = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def inception_score(probabilities: Features, splits: int = 10) -> tuple[float, float]:
    """Return the inception score (Salimans et al. 2016) and its deviation over splits.

    exp of the mean KL divergence of each image's classes from those of all, in each of ``splits``
    equal parts; in a single part for fewer than 1,000 images, as smaller parts cannot show a
    thousand classes.

    Args:
        probabilities: [N, classes], rows that sum to 1.
        splits: stretches.
    """
    if len(probabilities) < 1000:
        splits = 1
    values = []
    for part in np.array_split(probabilities, splits):
        clipped = np.clip(part, 1e-16, None)
        divergence = clipped * (np.log(clipped) - np.log(clipped.mean(axis=0)))
        values.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(values)), float(np.std(values))
