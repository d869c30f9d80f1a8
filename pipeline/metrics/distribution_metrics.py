"""Metrics of a set of images, from features of each image: FID, KID, inception score.

FID compares two Gaussians whose 2048 x 2048 covariances need tens of thousands of images: on a few
hundred it is biased upwards, more so the fewer they are. KID has no such bias, and its spread over
subsets is its uncertainty. So the two are always given together, with N.

No metric holds more than ``CHUNK`` images' features at a time, or a few matrices [D, D]: features
of a large set stay in a file (:class:`FeatureSet`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]

SUBSETS, SUBSET_SIZE = 100, 1000
"""Subsets of KID and their size (Binkowski et al. 2018); smaller if there are fewer images."""
CHUNK = 2048
"""Rows of features in memory at a time."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images, which may be stored in a file larger than memory."""

    stored: NDArray[Any]
    """[K, D] of any floating type, such as a ``numpy.memmap``."""
    rows: NDArray[np.int64]
    """[N]: the row of ``stored`` of each image."""

    @classmethod
    def of(cls, features: "Features | FeatureSet") -> "FeatureSet":
        """Return the set of features [N, D] in memory; a set as it is."""
        if isinstance(features, FeatureSet):
            return features
        return cls(features, np.arange(len(features)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D, the number of features of an image."""
        return int(self.stored.shape[1])

    def __getitem__(self, chosen: "slice | NDArray[np.int64]") -> Features:
        """Read the features of some images: [n, D] float64."""
        read: Features = np.asarray(self.stored[self.rows[chosen]], dtype=np.float64)
        return read

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[Features]:
        """Read images from ``first`` to before ``last``, ``CHUNK`` of them at a time."""
        last = len(self) if last is None else last
        for start in range(first, last, CHUNK):
            yield self[start : min(start + CHUNK, last)]


def frechet_distance(one: Features | FeatureSet, other: Features | FeatureSet) -> float:
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
        raise ValueError(f"FID needs two images a set, found {len(one)} and {len(other)}")
    found = [mean_and_factor(FeatureSet.of(each)) for each in (one, other)]
    factors = [factor for _, factor in found]
    traces = sum(float(np.square(factor).sum()) for factor in factors)
    cross = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    shift = np.square(found[0][0] - found[1][0]).sum()
    return max(0.0, float(shift + traces - 2 * cross))


def mean_and_factor(features: FeatureSet) -> tuple[Features, Features]:
    """Return the mean [D] and A [at most D rows, D] with A^T A the covariance.

    Up to D images, A is their centred features. Of more images, mean and covariance are streamed
    in float64 (Chan et al. 1983), and A is the root of the covariance.
    """
    count, width = len(features), features.width
    if count <= width:
        held = features[:]
        mean = held.mean(axis=0)
        return mean, (held - mean) / np.sqrt(count - 1)
    mean, covariance = mean_and_covariance(features)
    values, vectors = np.linalg.eigh(covariance)
    return mean, np.sqrt(np.clip(values, 0.0, None))[:, None] * vectors.T


def mean_and_covariance(features: FeatureSet) -> tuple[Features, Features]:
    """Return the mean [D] and the covariance [D, D] of at least two images, read in chunks."""
    mean, scatter = np.zeros(features.width), np.zeros((features.width, features.width))
    count = 0
    for chunk in features.chunks():
        chunk_mean = chunk.mean(axis=0)
        centred = chunk - chunk_mean
        shift, total = chunk_mean - mean, count + len(chunk)
        scatter += centred.T @ centred
        scatter += np.outer(shift, shift) * (count * len(chunk) / total)
        mean += shift * (len(chunk) / total)
        count = total
    return mean, scatter / (count - 1)


def kernel_distance(
    one: Features | FeatureSet, other: Features | FeatureSet, seed: int
) -> tuple[float, float]:
    """Return KID and its standard deviation over subsets (Binkowski et al. 2018).

    The unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, which may be
    slightly below zero for similar sets. Only the images of one subset are read at a time.

    Args:
        one: [N, D].
        other: [M, D].
        seed: seed of the subsets.

    Raises:
        ValueError: if a set has fewer than two images.
    """
    size = min(SUBSET_SIZE, len(one), len(other))
    if size < 2:
        raise ValueError(f"KID needs two images a set, found {len(one)} and {len(other)}")
    one, other = FeatureSet.of(one), FeatureSet.of(other)
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


def inception_score(
    features: Features | FeatureSet,
    classify: Callable[[Features], Features] = lambda probabilities: probabilities,
    splits: int = 10,
) -> tuple[float, float]:
    """Return the inception score (Salimans et al. 2016) and its deviation over splits.

    exp of the mean KL divergence of each image's classes from those of all, in each of ``splits``
    equal parts; in a single part for fewer than 1,000 images, as smaller parts cannot show a
    thousand classes. The mean divergence is the classes' mean negative entropy minus the negative
    entropy of their mean, so that one pass over the images is enough.

    Args:
        features: [N, D].
        classify: features [n, D] -> probabilities [n, classes], rows that sum to 1.
        splits: number of parts.
    """
    features = FeatureSet.of(features)
    if len(features) < 1000:
        splits = 1
    values = []
    for first, last in _parts(len(features), splits):
        negative_entropy, total = 0.0, np.zeros(1)
        for chunk in features.chunks(first, last):
            clipped = np.clip(classify(chunk), 1e-16, None)
            negative_entropy += float((clipped * np.log(clipped)).sum())
            total = total + clipped.sum(axis=0)
        mean = total / (last - first)
        divergence = negative_entropy / (last - first) - float((mean * np.log(mean)).sum())
        values.append(np.exp(divergence))
    return float(np.mean(values)), float(np.std(values))


def discriminative_scores(composites: FeatureSet, originals: FeatureSet) -> tuple[float, float]:
    """Return P-IDS and U-IDS (Zhao et al. 2021), from 0 to 1; higher is better, U-IDS up to 0.5.

    A linear support vector machine separates the features of both sets. P-IDS is the share of
    composites that it takes for more original than their own original, U-IDS the share of all that
    it takes for the wrong kind.

    Args:
        composites: [N, D].
        originals: [N, D], the original of each composite.

    Raises:
        ValueError: if the sets are not of one size.
    """
    if len(composites) != len(originals):
        raise ValueError(f"P-IDS needs pairs, found {len(composites)} and {len(originals)} images")
    from sklearn.svm import LinearSVC  # a slow import of a second

    real, fake = originals[:], composites[:]
    kinds = np.repeat([1, 0], len(real))
    machine = LinearSVC(dual=False).fit(np.concatenate([real, fake]), kinds)
    of_real, of_fake = machine.decision_function(real), machine.decision_function(fake)
    wrong = (np.mean(of_real < 0) + np.mean(of_fake > 0)) / 2
    return float(np.mean(of_fake > of_real)), float(wrong)


def _parts(count: int, parts: int) -> Iterator[tuple[int, int]]:
    """Return first and last of each part, the larger ones (by one image) first."""
    least, larger = divmod(count, parts)
    first = 0
    for number in range(parts):
        last = first + least + (number < larger)
        yield first, last
        first = last
