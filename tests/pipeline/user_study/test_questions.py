import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.comparison import fill_again
from infill.pipeline.user_study import StudyConfig, load_study, prepare
from infill.pipeline.user_study.questions import REAL


@pytest.fixture
def paired(evaluations, tmp_path) -> StudyConfig:
    return StudyConfig(
        evaluations=tuple(one.out for one in evaluations),
        baselines=("telea",),
        num_pairs=6,
        out=str(tmp_path / "study"),
    )


@pytest.fixture
def single(paired) -> StudyConfig:
    return replace(
        paired, kind="single", evaluations=paired.evaluations[:1], baselines=(), num_pairs=8
    )


def test_every_two_methods_meet_on_every_chosen_pair(paired):
    study = prepare(paired)
    assert study.methods == ("spn, seven", "spn, eight", "telea")
    by_pair = Counter(question.pair for question in study.questions)
    assert list(by_pair.values()) == [3] * 6
    for pair in by_pair:
        meetings = {frozenset(q.pictures) for q in study.questions if q.pair == pair}
        assert meetings == {frozenset(two) for two in combinations(study.methods, 2)}


def test_as_many_photographs_as_there_are_come_first(paired, evaluations):
    sources = {q.pair: q.source for q in prepare(paired).questions}
    there = evaluations[0].data["photographs"]
    assert len(set(sources.values())) == there
    counts = Counter(sources.values()).values()
    assert max(counts) - min(counts) <= 1


def test_pictures_are_the_composites_that_were_scored(paired, evaluations):
    study = prepare(paired)
    question = study.questions[0]
    for evaluation, label in zip(evaluations, ("spn, seven", "spn, eight"), strict=True):
        [pasted] = fill_again(evaluation, [question.pair])
        for one in study.questions:
            if one.pair == question.pair and label in one.pictures:
                found = cv2.imread(study.picture(one.pictures[label]))[..., ::-1]
                np.testing.assert_array_equal(found, pasted.composites["spn"])


def test_one_picture_is_a_photograph_or_filled_in_turn(single, evaluations):
    study = prepare(single)
    counts = Counter(method for q in study.questions for method in q.pictures)
    assert counts == {REAL: 4, "spn": 4}
    untouched = next(q for q in study.questions if REAL in q.pictures)
    [pasted] = fill_again(evaluations[0], [untouched.pair])
    found = cv2.imread(study.picture(untouched.pictures[REAL]))[..., ::-1]
    np.testing.assert_array_equal(found, pasted.image)


def test_order_and_sides_are_a_voters_own_and_stay_so(paired):
    study = prepare(replace(paired, num_pairs=16))
    first, second = (study.asked(voter, 40) for voter in ("voter-aa", "voter-bb"))
    assert len(first) == len({q.id for q in first}) == 40
    assert [q.id for q in first] != [q.id for q in second]
    assert first == load_study(study.out).asked("voter-aa", 40)
    lefts = Counter(
        next(m for m, name in q.pictures.items() if name == study.shown("voter-aa", q)[0])
        for q in study.questions
        if set(q.pictures) == {"spn, seven", "telea"}
    )
    assert set(lefts) == {"spn, seven", "telea"}


def test_names_of_images_reveal_nothing(paired):
    study = prepare(paired)
    names = sorted(path.stem for path in Path(study.out, "pictures").iterdir())
    assert all(len(name) == 20 and set(name) <= set("0123456789abcdef") for name in names)
    assert len(names) == 6 * 3


def test_a_study_is_laid_out_once_and_taken_up_again(paired):
    study = prepare(paired)
    picture = Path(study.picture(next(iter(study.questions[0].pictures.values()))))
    before = picture.stat().st_mtime_ns
    assert prepare(replace(paired, port=9000, questions_per_voter=3)) == study
    assert picture.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a study of other settings"):
        prepare(replace(paired, seed=1))


def test_half_laid_study_is_not_taken_for_one(paired):
    study = prepare(paired)
    Path(study.out, "study.json").unlink()
    with pytest.raises(UserError, match="holds no study"):
        load_study(study.out)
    assert prepare(paired) == study


def test_study_of_another_version_is_refused(paired):
    study = prepare(paired)
    location = Path(study.out, "study.json")
    location.write_text(json.dumps({**json.loads(location.read_text()), "format": 0}))
    with pytest.raises(UserError, match="not of format 1"):
        load_study(study.out)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"evaluations": ()}, "needs at least one evaluation"),
        ({"evaluations": ("a",)}, "needs two evaluations, or one and a baseline"),
        ({"evaluations": ("a", "b"), "num_pairs": 0}, "num_pairs must be at least 1"),
        ({"evaluations": ("a", "b"), "questions_per_voter": 0}, "questions_per_voter must be"),
    ],
)
def test_what_leaves_nothing_to_ask_is_refused(values, complaint):
    with pytest.raises(UserError, match=complaint):
        StudyConfig(**values)
