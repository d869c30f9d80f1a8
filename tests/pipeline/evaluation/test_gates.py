"""Bounds that a checkpoint must meet, without a registry."""

import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.gates import (
    Gate,
    parse_gate,
    require,
    require_about,
    require_better_than_baselines,
)
from infill.pipeline.evaluation.result import Evaluation
from infill.pipeline.evaluation.scores import Score


def score(mean: float) -> Score:
    return Score(mean=mean, low=None, high=None, n=4, photographs=2)


@pytest.fixture
def evaluation() -> Evaluation:
    """Return scores of a network and of a baseline that is better in all of them."""
    return Evaluation(
        out="runs/evaluation",
        digest="e" * 64,
        settings={},
        checkpoint={"location": "runs/other", "digest": "c" * 64},
        data={},
        scores={
            "network": {
                "0.1-0.2": {"hole_psnr": score(25.0), "hole_l1": score(0.02)},
                "all": {"hole_psnr": score(21.5), "hole_l1": score(0.04)},
            },
            "telea": {
                "0.1-0.2": {"hole_psnr": score(35.0), "hole_l1": score(0.01)},
                "all": {"hole_psnr": score(31.5), "hole_l1": score(0.01)},
            },
        },
        cost={},
    )


@pytest.mark.parametrize(
    ("text", "kind", "gate", "spelled"),
    [
        ("hole_psnr=21.5", "minimum", ("hole_psnr", "all", 21.5), "minimum hole_psnr=21.5"),
        ("hole_l1=0.05", "maximum", ("hole_l1", "all", 0.05), "maximum hole_l1=0.05"),
        ("hole_psnr:0.4-0.5=18", "minimum", ("hole_psnr", "0.4-0.5", 18.0), None),
        ("hole_psnr:all=1e1", "minimum", ("hole_psnr", "all", 10.0), "minimum hole_psnr=10"),
    ],
)
def test_gate_is_read_and_spelled_as_its_option(text, kind, gate, spelled):
    found = parse_gate(text, kind)
    assert (found.metric, found.group, found.bound, found.kind) == (*gate, kind)
    assert str(found) == (spelled or f"{kind} {text}")


@pytest.mark.parametrize("text", ["hole_psnr", "hole_psnr=", "hole_psnr=high", ""])
def test_gate_without_a_number_is_refused_with_an_example(text):
    with pytest.raises(UserError) as refused:
        parse_gate(text, "minimum")
    assert str(refused.value) == (
        f"--minimum {text!r} is not a gate: write metric=number or metric:group=number, "
        "such as hole_psnr=21.5 or hole_psnr:0.4-0.5=18"
    )
    assert isinstance(refused.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("text", "kind", "passes"),
    [
        ("hole_psnr=21.5", "minimum", True),  # A bound that is just met is met.
        ("hole_psnr=21.51", "minimum", False),
        ("hole_psnr=30", "minimum", False),  # The baseline's score is not the network's.
        ("hole_psnr:0.1-0.2=25", "minimum", True),
        ("hole_psnr:0.1-0.2=25.1", "minimum", False),
        ("hole_l1=0.04", "maximum", True),
        ("hole_l1=0.0399", "maximum", False),
        ("hole_l1=0.02", "maximum", False),
    ],
)
def test_bounds_hold_for_the_network_in_the_group_that_is_named(text, kind, passes, evaluation):
    gate = parse_gate(text, kind)
    if passes:
        require([gate], evaluation)
        return
    with pytest.raises(UserError, match="not promoted"):
        require([gate], evaluation)


def test_every_bound_that_fails_is_named_with_the_score_and_no_other(evaluation):
    gates = [
        parse_gate("hole_psnr=30", "minimum"),
        parse_gate("hole_l1=0.1", "maximum"),
        parse_gate("hole_psnr:0.1-0.2=27.25", "minimum"),
    ]
    with pytest.raises(UserError) as refused:
        require(gates, evaluation)
    assert str(refused.value) == (
        "not promoted, as it fails: minimum hole_psnr=30 (found 21.5), "
        "minimum hole_psnr:0.1-0.2=27.25 (found 25)"
    )
    require([], evaluation)


def test_score_that_is_not_a_number_meets_no_bound(evaluation):
    evaluation.scores["network"]["all"]["hole_psnr"] = score(float("nan"))
    for kind in ("minimum", "maximum"):
        with pytest.raises(UserError, match="found nan"):
            require([parse_gate("hole_psnr=0", kind)], evaluation)


def test_group_or_metric_that_was_not_measured_is_named_with_those_there_are(evaluation):
    with pytest.raises(UserError) as refused:
        require([parse_gate("hole_psnr:0.5-0.6=1", "minimum")], evaluation)
    assert str(refused.value) == (
        "minimum hole_psnr:0.5-0.6=1: there is no group '0.5-0.6'; there are 0.1-0.2, all"
    )
    with pytest.raises(UserError) as refused:
        require([Gate(metric="fid", group="all", bound=3, kind="maximum")], evaluation)
    assert str(refused.value) == (
        "maximum fid=3: 'fid' was not measured; there are hole_psnr, hole_l1"
    )


def test_scores_of_another_checkpoint_are_refused(evaluation):
    require_about(evaluation, "c" * 64)
    with pytest.raises(UserError) as refused:
        require_about(evaluation, "d" * 64)
    assert str(refused.value) == (
        "the scores at runs/evaluation are of another checkpoint, runs/other; "
        "evaluate this one first"
    )


def test_network_that_loses_to_a_classical_method_is_refused_with_both_scores(evaluation):
    with pytest.raises(UserError) as refused:
        require_better_than_baselines(evaluation)
    assert str(refused.value) == (
        "not promoted: network inpaints holes at 21.50 dB, and telea, which needs no training, at "
        "31.50 dB on the same pairs (runs/evaluation); train longer or start from better weights, "
        "or promote it anyway with --below-baselines"
    )


def test_network_passes_where_it_is_better_or_only_mean_fill_beats_it(evaluation):
    evaluation.scores["network"]["all"]["hole_psnr"] = score(31.5)
    require_better_than_baselines(evaluation)
    evaluation.scores["mean-fill"] = evaluation.scores.pop("telea")
    evaluation.scores["network"]["all"]["hole_psnr"] = score(10.0)
    require_better_than_baselines(evaluation)


@pytest.mark.parametrize(("lpips", "passes"), [(0.1, True), (0.2, False), (0.3, False)])
def test_network_that_looks_better_may_have_less_psnr(evaluation, lpips, passes):
    evaluation.scores["navier-stokes"] = evaluation.scores.pop("telea")
    evaluation.scores["network"]["all"]["lpips"] = score(lpips)
    evaluation.scores["navier-stokes"]["all"]["lpips"] = score(0.2)
    if passes:
        require_better_than_baselines(evaluation)
        return
    with pytest.raises(UserError, match="and navier-stokes, which needs no training, at 31.50 dB"):
        require_better_than_baselines(evaluation)


def test_score_that_is_not_a_number_does_not_pass_the_baselines(evaluation):
    evaluation.scores["network"]["all"]["hole_psnr"] = score(float("nan"))
    with pytest.raises(UserError, match="inpaints holes at nan dB"):
        require_better_than_baselines(evaluation)
