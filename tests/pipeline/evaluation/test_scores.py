import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import Group
from infill.pipeline.evaluation.scores import average, distribution_scores, intervals
from infill.pipeline.masks import MaskConfig
from infill.pipeline.metrics.metric_registry import METRICS, OF_SETS

GROUPS = [
    Group(name="small", masks=MaskConfig()),
    Group(name="large", masks=MaskConfig()),
    Group(name="centre", masks=MaskConfig(), in_all=False),
]


def rows_of(groups: list[str], sources: list[str], values: list[float], method="spn") -> pa.Table:
    numbers = {metric.name: values for metric in METRICS}
    return pa.table(
        {"group": groups, "source": sources, "method": [method] * len(groups), **numbers}
    )


def test_a_figure_of_a_set_that_is_not_finite_is_refused(monkeypatch):
    fid = replace(OF_SETS["fid"], compare=lambda *_: (math.nan, None))
    monkeypatch.setitem(OF_SETS, "fid", fid)
    features = np.random.default_rng(0).normal(size=(4, 8))
    with pytest.raises(
        UserError, match="^the metric 'fid' is nan for 4 images; it must be finite$"
    ):
        distribution_scores(features, features, lambda found: found, seed=0)


def test_means_are_over_pairs_and_all_leaves_out_what_does_not_count():
    groups = ["small"] * 3 + ["large"] * 3 + ["centre"] * 3
    rows = rows_of(groups, ["a", "a", "b"] * 3, [1, 2, 6, 10, 20, 60, 700, 800, 900])
    found = average(rows, GROUPS, ["spn"], seed=0)["spn"]
    means = {group: scores["psnr"].mean for group, scores in found.items()}
    assert means == {"small": 3, "large": 30, "centre": 800, "all": 16.5}
    assert [found[g]["psnr"].n for g in means] == [3, 3, 3, 6]
    assert {scores["psnr"].photographs for scores in found.values()} == {2}


def test_methods_are_averaged_apart():
    groups, sources = ["small", "large", "centre"], ["a", "b", "c"]
    rows = pa.concat_tables(
        [rows_of(groups, sources, [1, 2, 3]), rows_of(groups, sources, [5, 6, 7], "telea")]
    )
    found = average(rows, GROUPS, ["telea", "spn"], seed=0)
    assert list(found) == ["telea", "spn"]
    assert found["telea"]["all"]["l1"].mean == 5.5
    assert found["spn"]["all"]["l1"].mean == 1.5


def test_one_photograph_has_no_interval():
    rows = rows_of(["small", "large", "centre"], ["a"] * 3, [1, 2, 3])
    score = average(rows, GROUPS, ["spn"], seed=0)["spn"]["all"]["ssim"]
    assert (score.low, score.high) == (None, None)


def test_intervals_equal_a_slow_resampling_of_photographs():
    random = np.random.default_rng(3)
    photographs = random.integers(0, 9, 40)
    photographs[:9] = range(9)
    values = random.normal(20, 5, (40, 2))
    random = np.random.Generator(np.random.Philox(11))
    means = []
    for _ in range(200):
        times = random.multinomial(9, [1 / 9] * 9)
        taken = [v for v, p in zip(values, photographs, strict=True) for _ in range(times[p])]
        means.append(np.mean(taken, axis=0))
    expected = np.percentile(means, [2.5, 97.5], axis=0)
    assert np.allclose(intervals(values, photographs, 11, resamples=200), expected)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        effects = random.normal(0, 1, 30)
        photographs = np.repeat(np.arange(30), 4)
        values = (effects[photographs] + random.normal(0, 0.2, 120))[:, None]
        low, high = intervals(values, photographs, trial, resamples=300)
        covered += bool(low[0] <= 0 <= high[0])
    assert 0.88 <= covered / 200 <= 0.98


def test_masks_over_one_photograph_do_not_narrow_the_interval():
    random = np.random.default_rng(1)
    per_photograph = random.normal(20, 3, 25)
    once = intervals(per_photograph[:, None], np.arange(25), 5)
    tenfold = intervals(per_photograph.repeat(10)[:, None], np.arange(25).repeat(10), 5)
    assert np.allclose(once, tenfold)


def test_metric_is_shown_in_its_unit():
    shown = {metric.name: metric.shown(0.12345) for metric in METRICS}
    assert shown["hole_l1"] == "12.35" or shown["hole_l1"] == "12.34"
    assert shown["ssim"] == "0.123"
    assert shown["psnr"] == "0.12"
