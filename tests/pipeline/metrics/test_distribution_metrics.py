import numpy as np
import pytest
import scipy.linalg

from infill.pipeline.evaluation.scores import distribution_scores
from infill.pipeline.metrics.distribution_metrics import (
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
    with pytest.raises(ValueError, match="FID needs two pictures a set, found 1 and 5"):
        frechet_distance(one, other)
    with pytest.raises(ValueError, match="KID needs two pictures a set"):
        kernel_distance(one, other, seed=0)


def test_a_set_is_measured_three_ways_with_its_number():
    one, other = sets(20, 30)
    found = distribution_scores(
        one, other, lambda f: np.abs(f) / np.abs(f).sum(1, keepdims=True), seed=0
    )
    assert set(found) == {"fid", "kid", "inception_score"}
    assert {score.n for score in found.values()} == {20}
    assert found["fid"].value == frechet_distance(one, other)
