"""Searchers and schedulers of Ray Tune that go on where an interrupted search ended."""

import re
from inspect import getsource as source
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from infill.pipeline.tuning import Range, config
from infill.pipeline.tuning.algorithms import ALGORITHMS
from infill.pipeline.tuning.asha import asha
from infill.pipeline.tuning.pbt import encode_values
from infill.pipeline.tuning.tpe import tpe

SPACE = {"weight": [1, 10, 10.0], "blocks": Range(low=1, high=3, whole=True), "kind": ["a", "b"]}
"""Twelve combinations."""


def test_the_help_names_every_algorithm():
    [text] = re.findall(r'algorithm: str = "grid"\n    """(.*?)"""', source(config), re.DOTALL)
    assert [name for name in ALGORITHMS if f'"{name}"' not in text] == []


def proposed(searcher, count):
    """Return so many proposals; each trial has the score 1."""
    found = []
    for number in range(count):
        values = searcher.suggest(f"trial-{number}")
        if values == Searcher.FINISHED:
            break
        found.append(tuple(values.values()))
        searcher.on_trial_result(f"trial-{number}", {"psnr": 1.0, "training_iteration": 1})
        searcher.on_trial_complete(f"trial-{number}", {"psnr": 1.0})
    return found


def test_optuna_proposes_every_combination_once_and_then_ends():
    found = proposed(tpe(SPACE, "psnr", 0, [], []), 50)
    assert len(found) == len(set(found)) == 12


def test_optuna_begins_with_what_was_interrupted_and_repeats_nothing_that_is_finished():
    """The values are as a training has them, whose field makes a number of 1."""
    over = [{"weight": 1.0, "blocks": blocks, "kind": "a"} for blocks in (1, 2, 3)]
    begun = {"weight": 10.0, "blocks": 2, "kind": "b"}
    encoded = [(encode_values(SPACE, one), 9.0) for one in over[:2]]
    encoded.append((encode_values(SPACE, over[2]), float("nan")))
    found = proposed(tpe(SPACE, "psnr", 0, [encode_values(SPACE, begun)], encoded), 50)
    assert found[0] == ("10", 2, '"b"')
    assert len(found) == len(set(found)) == 9
    assert not {("1", blocks, '"a"') for blocks in (1, 2, 3)} & set(found)


def test_optuna_knows_the_scores_of_finished_trials():
    """Ten good trials below 0.1 and ten bad ones above it: what follows lies below."""
    space = {"rate": Range(low=0.0, high=1.0)}
    points = [({"rate": n / 100}, 30.0) for n in range(10)]
    points += [({"rate": n / 10}, 10.0) for n in range(1, 11)]
    informed = proposed(tpe(space, "psnr", 0, [], points), 20)
    unaware = proposed(tpe(space, "psnr", 0, [], []), 20)
    assert sum(rate < 0.2 for (rate,) in informed) > 2 * sum(rate < 0.2 for (rate,) in unaware)


@pytest.mark.parametrize(
    ("finished", "decided"),
    [([], TrialScheduler.CONTINUE), ([{1: 20.0, 2: 21.0}], TrialScheduler.STOP)],
)
def test_asha_compares_with_the_trials_that_an_interrupted_search_has_finished(finished, decided):
    scheduler, trial = asha(8, finished), SimpleNamespace(trial_id="one")
    assert scheduler.set_search_properties("psnr", "max")
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"step": 1, "psnr": 15.0}) == decided
