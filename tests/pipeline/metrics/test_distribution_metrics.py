import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from infill.pipeline.evaluation.scores import distribution_scores
from infill.pipeline.metrics.distribution_metrics import (
    FeatureSet,
    discriminative_scores,
    frechet_distance,
    inception_score,
    kernel_distance,
)


def sets(n: int, m: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    mixing = random.normal(size=(size, size))
    return random.normal(size=(n, size)) @ mixing, random.normal(0.3, 1.2, size=(m, size))


@pytest.mark.parametrize(("n", "m"), [(200, 150), (9, 7), (12, 300), (2, 2)])
def test_fid_is_the_textbook_formula(n, m):
    one, other = sets(n, m)
    covariances = [np.cov(features, rowvar=False) for features in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(12))
    expected = np.square(one.mean(0) - other.mean(0)).sum()
    expected += np.trace(covariances[0] + covariances[1] - 2 * root.real)
    # The textbook's square root of a matrix without full rank is itself good to a few digits.
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_fid_of_known_gaussians_is_their_distance():
    random = np.random.default_rng(1)
    one = random.normal(0, 1, (40_000, 3))
    other = random.normal(0, 1, (40_000, 3)) * [1, 2, 3] + [1, 0, 0]
    assert frechet_distance(one, other) == pytest.approx(1 + 0 + 1 + 4, rel=0.03)


def test_fid_of_a_set_with_itself_is_zero_and_it_is_symmetric():
    one, other = sets(50, 60)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))


def test_fid_misleads_with_few_pictures_where_kid_does_not():
    random = np.random.default_rng(5)
    few = [random.normal(size=(30, 64)) for _ in range(2)]
    many = [random.normal(size=(6000, 64)) for _ in range(2)]
    assert frechet_distance(*few) > 20 * frechet_distance(*many)
    assert abs(kernel_distance(*few, seed=0)[0]) < 0.1


def test_kid_is_the_unbiased_discrepancy_of_a_cubic_kernel():
    one, other = sets(14, 14)
    size = one.shape[1]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / size + 1) ** 3)

    expected = 0.0
    for i in range(14):
        for j in range(14):
            if i != j:
                expected += (kernel(one[i], one[j]) + kernel(other[i], other[j])) / (14 * 13)
            expected -= 2 * kernel(one[i], other[j]) / 14**2
    assert kernel_distance(one, other, seed=0)[0] == pytest.approx(expected)


def test_kid_over_subsets_is_near_that_of_the_whole_and_has_a_spread():
    random = np.random.default_rng(2)
    one, other = random.normal(size=(1500, 8)), random.normal(0.5, 1, size=(1400, 8))
    value, spread = kernel_distance(one, other, seed=3)
    size = min(len(one), len(other))
    whole, _ = kernel_distance(one[:1000], other[:1000], seed=0)
    assert size == 1400
    assert spread > 0
    assert value == pytest.approx(whole, rel=0.3)
    assert kernel_distance(one, other, seed=3) == (value, spread)


def test_inception_score_of_sure_and_varied_classes_is_their_number():
    sure = np.eye(5).repeat(20, axis=0)
    assert inception_score(sure)[0] == pytest.approx(5)
    assert inception_score(np.full((100, 5), 0.2))[0] == pytest.approx(1)


def test_inception_score_is_split_only_where_there_are_enough_pictures():
    random = np.random.default_rng(0)
    many = random.dirichlet(np.ones(6), 2000)
    assert inception_score(many)[1] > 0
    assert inception_score(many[:999])[1] == 0


def test_a_set_of_one_is_not_measured():
    one, other = sets(1, 5)
    assert distribution_scores(one, other, lambda features: features, seed=0) == {}
    with pytest.raises(ValueError, match="FID needs two images a set, found 1 and 5"):
        frechet_distance(one, other)
    with pytest.raises(ValueError, match="KID needs two images a set"):
        kernel_distance(one, other, seed=0)


def test_a_set_is_measured_three_ways_with_its_number():
    one, other = sets(20, 30)
    found = distribution_scores(
        one, other, lambda f: np.abs(f) / np.abs(f).sum(1, keepdims=True), seed=0
    )
    assert set(found) == {"fid", "kid", "inception_score"}  # the others need pairs
    assert {score.n for score in found.values()} == {20}
    assert found["fid"].value == frechet_distance(one, other)


def stored_sets(folder, count, width):
    """Return two sets of correlated features far from zero, in files, and both as arrays."""
    random = np.random.default_rng(4)
    found = []
    for name in ("one", "other"):
        mixed = random.normal(size=(count, width)) @ random.normal(size=(width, width)) + 30
        values = mixed.astype(np.float32)
        values.tofile(folder / name)
        stored = np.memmap(folder / name, np.float32, "r", shape=(count, width))
        found.append((FeatureSet(stored, np.arange(count)), values.astype(np.float64)))
    return found


def test_a_streamed_fid_is_that_of_all_features_at_once(tmp_path):
    (one, one_held), (other, other_held) = stored_sets(tmp_path, 5001, 32)
    factors = [
        np.linalg.qr((held - held.mean(axis=0)) / np.sqrt(len(held) - 1)).R
        for held in (one_held, other_held)
    ]
    expected = (
        np.square(one_held.mean(axis=0) - other_held.mean(axis=0)).sum()
        + sum(np.square(factor).sum() for factor in factors)
        - 2 * np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    )
    assert expected > 10
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)


def test_sets_larger_than_memory_are_measured_in_a_part_of_it(tmp_path):
    (one, _), (other, _) = stored_sets(tmp_path, 60_000, 64)
    whole = len(one) * one.width * 8
    tracemalloc.start()
    try:
        frechet_distance(one, other)
        inception_score(one, lambda f: np.full((len(f), 9), 1 / 9))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < whole / 4, f"{peak / 2**20:.0f} MiB for a set of {whole / 2**20:.0f} MiB"


def test_a_set_reads_the_rows_it_names():
    stored = np.arange(12, dtype=np.float32).reshape(6, 2)
    chosen = FeatureSet(stored, np.array([5, 0, 3]))
    assert (len(chosen), chosen.width) == (3, 2)
    assert chosen[:].tolist() == [[10, 11], [0, 1], [6, 7]]
    assert chosen[np.array([2, 0])].tolist() == [[6, 7], [10, 11]]
    held = np.random.default_rng(0).normal(size=(40, 3))
    order = np.random.default_rng(1).permutation(40)[:30]
    distance = kernel_distance(FeatureSet(held, order), held[:25], seed=1)
    assert distance == kernel_distance(held[order], held[:25], seed=1)


def test_discriminative_scores_tell_separable_sets_from_equal_ones():
    random = np.random.default_rng(0)
    real = random.normal(size=(200, 8))
    far = FeatureSet.of(real + 10)
    assert discriminative_scores(far, FeatureSet.of(real)) == (0, 0)
    alike = FeatureSet.of(random.normal(size=(200, 8)))
    paired, unpaired = discriminative_scores(alike, FeatureSet.of(real))
    assert 0.3 < paired < 0.6
    assert 0.3 < unpaired <= 0.55
    with pytest.raises(ValueError, match="needs pairs, found 200 and 199"):
        discriminative_scores(alike, FeatureSet.of(real[:199]))


def test_metrics_of_pairs_compare_each_composite_with_its_own_original():
    random = np.random.default_rng(1)
    images = random.normal(size=(60, 4))
    own = np.repeat(images, 2, axis=0)
    better = own + np.array([3.0, 0, 0, 0])
    found = distribution_scores(better, images, lambda f: np.full((len(f), 2), 0.5), 0, own)
    assert set(found) == {"fid", "kid", "inception_score", "p_ids", "u_ids"}
    assert found["p_ids"].value == 0
    assert found["p_ids"].n == 120
