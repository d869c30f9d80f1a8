"""From a finished search to one checkpoint, or a reason against each."""

from dataclasses import replace

import pytest

from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.masks import MaskConfig
from infill.pipeline.model_selection import (
    Candidate,
    SelectionConfig,
    SelectionResult,
    candidate_rows,
    select_model,
    write_selection,
)
from infill.pipeline.model_selection.candidates import sign_of
from infill.pipeline.model_selection.page import importance
from infill.pipeline.tuning import Trial, TuneConfig, tune

pytestmark = pytest.mark.slow


def quietly(line):
    """Say nothing."""


@pytest.fixture(scope="module")
def search(two_steps, ray_local, tmp_path_factory):
    """Return the folder of a search of four tiny trials."""
    config = TuneConfig(train=two_steps, storage=str(tmp_path_factory.mktemp("search")))
    tune(config, {"model.num_blocks": [1, 3], "model.learning_rate": [1e-4, 1e-2]}, quietly)
    return config.storage


@pytest.fixture(scope="module")
def config(search, shards):
    """Return the settings of the selection."""
    return SelectionConfig(
        search=search,
        shards=f"{shards}/test",
        masks=MaskConfig(recipe="box"),
        buckets=((0.1, 0.2), (0.2, 0.3)),
        num_actors=0,
    )


@pytest.fixture(scope="module")
def choice(config):
    """Judge them once."""
    return select_model(config, quietly)


def test_all_trials_meet_the_same_pairs_and_the_best_wins(choice):
    assert len(choice.candidates) == 4
    means = [one.score("hole_psnr").mean for one in choice.candidates]
    assert means == sorted(means, reverse=True)
    assert len({one.score("hole_psnr").n for one in choice.candidates}) == 1
    ratios = [one.evaluation.data["hole_ratios"] for one in choice.candidates]
    assert all(ratio == ratios[0] for ratio in ratios)
    assert choice.selected is choice.candidates[0]
    blocks = {one.trial.changes["model.num_blocks"]: one.parameters for one in choice.candidates}
    assert blocks[3] > blocks[1]
    assert all(one.latency_ms > 0 for one in choice.candidates)


def test_what_is_too_large_or_too_slow_is_left_out_and_says_why(config, choice):
    small = min(one.parameters for one in choice.candidates)
    bounded = select_model(override(config, {"max_parameters": small}), quietly)
    out = [one for one in bounded.candidates if one.against]
    assert len(out) == 2
    assert all(f"over {small:,}" in one.against for one in out)
    assert bounded.selected.trial.changes["model.num_blocks"] == 1
    nothing = select_model(override(config, {"max_latency_ms": 1e-6}), quietly)
    with pytest.raises(UserError, match=r"no trial can be selected.*ms, over"):
        _ = nothing.selected


def test_guards_compare_with_the_champion_on_the_same_pairs(config, choice, tmp_path):
    best = choice.candidates[0].trial.checkpoint
    changes = {"champion": best, "guards": ("psnr=0.0",), "out": str(tmp_path / "choice")}
    guarded = select_model(replace(config, **changes), quietly)
    assert guarded.champion.checkpoint["location"] == best
    theirs = guarded.champion.scores[guarded.champion.network]["all"]["psnr"].mean
    for one in guarded.candidates:
        worse = one.score("psnr").mean < theirs
        assert bool(one.against) == worse
        assert not worse or "psnr worse than the champion's by" in one.against
    loose = select_model(replace(config, **{**changes, "guards": ("psnr=100",)}), quietly)
    assert not any(one.against for one in loose.candidates)


def test_the_choice_is_written_as_tables_pictures_and_a_page(choice, tmp_path, require_fit):
    text = write_selection(choice, str(tmp_path), "A choice")
    assert choice.selected.trial.name in text
    for name in ("frontier.png", "parallel.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "A choice" in page
    assert "What matters" in page
    require_fit(str(tmp_path / "report.html"))


class Scored:
    """An evaluation of which only one mean is asked for."""

    def __init__(self, mean, ends=1.0):
        self.network = "spn"
        low, high = (None, None) if ends is None else (mean - ends, mean + ends)
        score = type("Score", (), {"mean": mean, "low": low, "high": high, "n": 9})
        self.scores = {"spn": {"all": {"hole_psnr": score, "hole_l1": score}}}


def candidate(mean, latency_ms, **changes):
    trial = Trial(name=f"t{mean}", changes=changes, scores={"hole_psnr": mean})
    return Candidate(trial=trial, evaluation=Scored(mean), parameters=1, latency_ms=latency_ms)


def test_the_frontier_has_what_is_better_than_all_that_is_faster():
    ones = [candidate(20.0, 5), candidate(22.0, 9), candidate(21.0, 7), candidate(19.0, 8)]
    found = SelectionResult(metric="hole_psnr", candidates=tuple(ones)).frontier
    assert [one.score("hole_psnr").mean for one in found] == [20.0, 21.0, 22.0]
    turned = SelectionResult(metric="hole_l1", candidates=tuple(ones)).frontier
    assert [one.score("hole_l1").mean for one in turned] == [20.0, 19.0]
    assert (sign_of("hole_psnr"), sign_of("hole_l1")) == (1, -1)


def test_importance_is_the_share_of_variance_that_a_field_explains_alone():
    ones = [
        candidate(10.0 * a + b, 1.0, **{"model.a": a, "model.b": b, "model.c": 7})
        for a in (0, 1)
        for b in (0, 1, 2)
    ]
    found = importance(SelectionResult(metric="hole_psnr", candidates=tuple(ones)))
    # By hand: the variance of 10 a is 25, of b 2/3, of their sum 25 + 2/3.
    assert list(found) == ["model.a", "model.b"]
    assert found["model.a"] == pytest.approx(25 / (25 + 2 / 3))
    assert found["model.b"] == pytest.approx((2 / 3) / (25 + 2 / 3))
    header, rows = candidate_rows(SelectionResult(metric="hole_psnr", candidates=tuple(ones)))
    assert header[:4] == ["trial", "seeds", "hole_psnr", "95 % interval"]
    assert len(rows) == 6
    assert rows[0][3] == "-1 to 1"
    alone = replace(ones[0], evaluation=Scored(10.0, None))  # One photograph has no interval.
    _, [row] = candidate_rows(SelectionResult(metric="hole_psnr", candidates=(alone,)))
    assert row[3] == "-"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metric": "beauty"}, "metric is one of"),
        ({"guards": ("psnr=1",)}, "name it with --champion"),
        ({"guards": ("psnr",), "champion": "spn"}, "write metric=number"),
        ({"guards": ("beauty=1",), "champion": "spn"}, "no metric 'beauty'"),
        ({"max_parameters": -1}, "must not be negative"),
    ],
)
def test_impossible_choices_are_refused(changes, expected):
    with pytest.raises(UserError, match=expected):
        select_model(SelectionConfig(search="a", shards="b", num_actors=0, **changes), quietly)


def test_a_search_without_trials_is_reported(tmp_path):
    with pytest.raises(UserError, match="no finished trial"):
        select_model(SelectionConfig(search=str(tmp_path), shards="b", num_actors=0), quietly)
