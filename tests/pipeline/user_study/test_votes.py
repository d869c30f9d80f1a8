import json
from pathlib import Path

import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.user_study.questions import REAL, Question, Study
from infill.pipeline.user_study.report import terminal_tables, write_summary
from infill.pipeline.user_study.votes import Vote, answered, count, read_votes, save_vote, voters


def paired_study(out: str) -> Study:
    """Twelve questions on four photographs: three methods, every two of them."""
    meetings = [("a", "b"), ("a", "c"), ("b", "c")]
    questions = tuple(
        Question(
            id=f"question{photograph}{''.join(two)}",
            pair=photograph,
            source=f"photograph{photograph}",
            group="0.1-0.2",
            pictures={method: f"picture{photograph}{method}" for method in two},
        )
        for photograph in range(4)
        for two in meetings
    )
    return Study(
        out=out,
        kind="paired",
        methods=("a", "b", "c"),
        groups=("0.1-0.2",),
        questions=questions,
        settings={},
        lineage={"a": "a of an evaluation"},
    )


def single_study(out: str) -> Study:
    cases = [(REAL, "small"), (REAL, "large"), ("a", "small"), ("a", "large")] * 2
    questions = tuple(
        Question(
            id=f"question{place}",
            pair=place,
            source=f"photograph{place}",
            group=group,
            pictures={method: f"picture{place}"},
        )
        for place, (method, group) in enumerate(cases)
    )
    return Study(
        out=out,
        kind="single",
        methods=("a",),
        groups=("small", "large"),
        questions=questions,
        settings={},
        lineage={},
    )


def vote(voter: str, question: str, choice: str, took_ms: int = 2000) -> Vote:
    return Vote(voter=voter, question=question, choice=choice, took_ms=took_ms)


def test_preferences_are_wins_over_appearances(tmp_path):
    study = paired_study(str(tmp_path))
    for person in range(3):
        for question in study.questions:
            # "a" wins always; "b" beats "c" for the first person only.
            methods = sorted(question.pictures)
            winner = methods[0] if "a" in methods or person == 0 else "c"
            save_vote(study, vote(f"voter{person:04d}", question.id, question.pictures[winner]))
    counted = count(study, read_votes(study), least_ms=300)
    assert (counted.votes, counted.voters, counted.hasty) == (36, 3, 0)
    shares = {method: share.value for method, share in counted.preferred.items()}
    assert shares == pytest.approx({"a": 1.0, "b": 4 / 24, "c": 8 / 24})
    assert counted.against["b"]["c"].value == pytest.approx(1 / 3)
    assert counted.against["b"]["a"].value == 0
    assert counted.against["c"]["b"].votes == 12
    assert counted.preferred["a"].votes == 24


def test_belief_is_counted_by_method_and_group(tmp_path):
    study = single_study(str(tmp_path))
    answers = {"question0": "real", "question1": "real", "question2": "made", "question3": "made"}
    answers |= {"question4": "real", "question5": "made", "question6": "real", "question7": "made"}
    for name, choice in answers.items():
        save_vote(study, vote("voter0001", name, choice))
    counted = count(study, read_votes(study), least_ms=300)
    believed = {m: {g: s.value for g, s in f.items()} for m, f in counted.believed.items()}
    assert believed == {
        REAL: {"small": 1.0, "large": 0.5, "all": 0.75},
        "a": {"small": 0.5, "large": 0.0, "all": 0.25},
    }


def test_interval_is_over_photographs_not_votes(tmp_path):
    study = paired_study(str(tmp_path))
    questions = [q for q in study.questions if set(q.pictures) == {"a", "b"}]
    votes = []
    for place, question in enumerate(questions):
        winner = question.pictures["a" if place % 2 else "b"]
        votes += [vote(f"voter{person:04d}", question.id, winner) for person in range(200)]
    share = count(study, votes, least_ms=300).against["a"]["b"]
    assert share.value == 0.5
    assert share.low == 0
    assert share.high == 1  # 800 votes, but four photographs.
    alone = count(study, votes[:200], least_ms=300).against["a"]["b"]
    assert (alone.value, alone.low, alone.high) == (0.0, None, None)


def test_hasty_answers_do_not_count_and_are_reported(tmp_path):
    study = paired_study(str(tmp_path))
    question = study.questions[0]
    picture = question.pictures["a"]
    votes = [vote("voter0001", question.id, picture, 299), vote("voter0002", question.id, picture)]
    counted = count(study, votes, least_ms=300)
    assert (counted.votes, counted.hasty) == (1, 1)
    assert "1 votes of 1 people; 1 given too soon to count" in terminal_tables(study, counted)


def test_answer_given_again_takes_the_place_of_the_first(tmp_path):
    study = paired_study(str(tmp_path))
    question = study.questions[0]
    for method in ("a", "b"):
        save_vote(study, vote("voter0001", question.id, question.pictures[method]))
    [kept] = read_votes(study)
    assert kept.choice == question.pictures["b"]
    assert answered(study, "voter0001") == {question.id}
    assert voters(study) == ["voter0001"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"voter": "../../etc"}, "voter must be"),
        ({"voter": "short"}, "voter must be"),
        ({"question": "../question0ab"}, "no question"),
        ({"choice": "picture1a"}, "choice must be one of picture0a, picture0b"),
        ({"choice": "real"}, "choice must be one of"),
    ],
)
def test_votes_that_answer_nothing_are_refused(tmp_path, changes, complaint):
    study = paired_study(str(tmp_path))
    values = {"voter": "voter0001", "question": "question0ab", "choice": "picture0a"} | changes
    with pytest.raises(UserError, match=complaint):
        save_vote(study, Vote(**values, took_ms=900))
    assert read_votes(study) == []


def test_a_damaged_vote_is_named(tmp_path):
    study = paired_study(str(tmp_path))
    save_vote(study, vote("voter0001", "question0ab", "picture0a"))
    path = Path(tmp_path, "votes", "voter0001", "question0ab.json")
    path.write_text(path.read_text()[:20])
    with pytest.raises(UserError, match=r"question0ab\.json is not a vote"):
        read_votes(study)


def test_summary_stands_beside_the_papers_and_has_no_number_without_votes(tmp_path):
    study = paired_study(str(tmp_path))
    page = Path(write_summary(study, count(study, [], least_ms=300)))
    assert json.loads((tmp_path / "summary.json").read_text())["preferred"]["a"] is None
    for question in study.questions:
        save_vote(study, vote("voter0001", question.id, sorted(question.pictures.values())[0]))
    write_summary(study, count(study, read_votes(study), least_ms=300))
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["preferred"]["a"]["value"] == 1
    assert found["votes"] == 12
    text = page.read_text()
    for expected in ("82.10", "PEN-Net, Table 4", "91.55", "<td>100.00 ± 0.00</td>", "12 votes"):
        assert expected in text
    quoted = [line for line in text.splitlines() if 'class="quoted"' in line]
    assert len(quoted) == 8


def test_votes_are_kept_in_an_object_store(bucket):
    study = single_study(bucket)
    save_vote(study, vote("voter0001", "question0", "real"))
    save_vote(study, vote("voter0002", "question0", "made"))
    counted = count(study, read_votes(study), least_ms=0)
    assert counted.voters == 2
    assert counted.believed[REAL]["small"].value == 0.5
