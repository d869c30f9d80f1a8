import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import Evaluation, EvaluationConfig, evaluate
from infill.pipeline.evaluation.comparison import compare, inpaint_cases, save_figures
from infill.pipeline.evaluation.comparison_page import terminal_table, verdicts, write_comparison
from infill.pipeline.evaluation.config import CompareConfig


@pytest.fixture(scope="module")
def config(evaluations) -> CompareConfig:
    return CompareConfig(
        evaluations=tuple(one.out for one in evaluations), baselines=("telea",), cases=2
    )


@pytest.fixture(scope="module")
def comparison(config):
    return compare(config)


def rows_of(evaluation: Evaluation, method: str) -> list[dict]:
    rows = pq.read_table(evaluation.files["rows"]).to_pylist()
    return [row for row in rows if row["method"] == method]


def test_contenders_are_distinguished_by_their_folders(comparison):
    assert [one.name for one in comparison.contenders] == ["spn, seven", "spn, eight", "telea"]


def test_gains_are_means_of_paired_differences_with_better_above_zero(comparison, evaluations):
    first, other = rows_of(evaluations[0], "spn"), rows_of(evaluations[1], "spn")
    for metric, sign in (("hole_psnr", 1), ("hole_l1", -1)):
        for group in ("0.1-0.2", "all"):
            differences = [
                sign * (b[metric] - a[metric])
                for a, b in zip(first, other, strict=True)
                if group in (a["group"], "all")
            ]
            gain = comparison.gains["spn, eight"][group][metric]
            assert gain.mean == pytest.approx(np.mean(differences))
            assert gain.wins == pytest.approx(np.mean([d > 0 for d in differences]))
            assert gain.n == len(differences)
            assert gain.low <= gain.mean <= gain.high
    assert comparison.gains["telea"]["all"]["hole_l1"].mean > 0


def test_pairing_is_sharper_than_the_two_means_apart(comparison, evaluations):
    gain = comparison.gains["telea"]["all"]["hole_psnr"]
    scores = [evaluations[0].scores[m]["all"]["hole_psnr"] for m in ("spn", "telea")]
    assert gain.mean == pytest.approx(scores[1].mean - scores[0].mean)
    assert gain.high - gain.low < sum(score.high - score.low for score in scores)


def test_best_and_worst_cases_are_the_extremes(comparison, evaluations):
    first, other = rows_of(evaluations[0], "spn"), rows_of(evaluations[0], "telea")
    gained = {a["pair"]: b["hole_psnr"] - a["hole_psnr"] for a, b in zip(first, other, strict=True)}
    order = sorted(gained, key=lambda pair: gained[pair])
    assert comparison.worst["telea"] == order[:2]
    assert comparison.best["telea"] == order[::-1][:2]


def test_cases_are_predicted_again_as_they_were_scored(comparison):
    index = comparison.best["telea"][0]
    (case,) = inpaint_cases(comparison, [index])
    assert list(case.composites) == ["spn, seven", "spn, eight", "telea"]
    for name, predicted in case.composites.items():
        error = (predicted.astype(float) - case.image)[case.hole == 1] / 255
        psnr = -10 * np.log10(np.square(error).mean())
        assert psnr == pytest.approx(case.scores[name], abs=0.1)
        assert np.array_equal(predicted[case.hole == 0], case.image[case.hole == 0])


def test_page_shows_gains_cases_and_lineage(comparison, tmp_path):
    page = Path(write_comparison(comparison, str(tmp_path))).read_text()
    assert page.count('type="range"') == 2 * 2 * 2
    assert "Where telea gains most over spn, seven" in page
    for one in comparison.contenders:
        assert one.evaluation.checkpoint["digest"] in page
    assert "http" not in page.split("</style>")[1]


def test_figures_are_kept_as_json(comparison, tmp_path):
    values = json.loads(Path(save_figures(comparison, str(tmp_path))).read_text())
    gain = comparison.gains["telea"]["all"]["psnr"]
    assert values["gains"]["telea"]["all"]["psnr"]["mean"] == gain.mean
    assert values["first"] == "spn, seven"


def test_terminal_says_who_is_better_and_whether_it_may_be_chance(comparison):
    assert "gain over spn, seven" in terminal_table(comparison)
    telea = next(line for line in verdicts(comparison) if line.startswith("telea"))
    assert "dB above spn, seven in the hole, better on" in telea


def test_evaluations_over_other_pairs_are_refused(evaluations, checkpoint, test_set, tmp_path):
    other = EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        out=str(tmp_path / "other"),
        buckets=((0.1, 0.2),),
        baselines=(),
        num_images=1,
        num_actors=0,
    )
    evaluate(other, report=str)
    with pytest.raises(UserError, match="not over the same pairs; evaluate again with --pairs"):
        compare(CompareConfig(evaluations=(evaluations[0].out, other.out)))


def test_checkpoint_that_has_changed_since_is_refused(comparison, tmp_path):
    contender = comparison.contenders[1]
    changed = {**contender.evaluation.checkpoint, "digest": "0" * 64}
    evaluation = replace(contender.evaluation, checkpoint=changed)
    broken = replace(
        comparison, contenders=(comparison.first, replace(contender, evaluation=evaluation))
    )
    with pytest.raises(UserError, match="has changed since"):
        inpaint_cases(broken, [0])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"evaluations": ("a",)}, "needs two evaluations, or one and a baseline"),
        ({"evaluations": ("a", "b"), "cases": 0}, "cases must be at least 1"),
    ],
)
def test_what_leaves_nothing_to_compare_is_refused(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        CompareConfig(**changes)


def test_baseline_that_was_not_evaluated_is_refused(evaluations):
    with pytest.raises(UserError, match="has no scores of 'patchmatch'; it has: spn, mean-fill"):
        compare(CompareConfig(evaluations=(evaluations[0].out,), baselines=("patchmatch",)))
