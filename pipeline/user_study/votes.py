"""Votes, one file each, and their counts.

There is a file per voter and question, written atomically from any number of processes; a repeated
answer replaces the first.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.scores import intervals
from infill.pipeline.user_study.questions import REAL, Question, Study

VOTES = "votes"
IS_REAL, IS_MADE = "real", "made"
"""Answers to the question whether a single image is a photograph."""
VOTER = re.compile(r"[a-z0-9]{8,40}")


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One person's answer to one question."""

    voter: str
    question: str
    choice: str
    """Name of the image that is more natural; or :data:`IS_REAL` or :data:`IS_MADE`."""
    took_ms: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of votes with its interval."""

    value: float
    low: float | None
    """Lower end of the 95 % interval over photographs; None with one photograph."""
    high: float | None
    votes: int


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The result of a study."""

    votes: int
    """Number of votes that count."""
    voters: int
    hasty: int
    """Number of votes that were too fast to count."""
    preferred: dict[str, Share]
    """Paired, by method: share of its appearances in which it was chosen."""
    against: dict[str, dict[str, Share]]
    """Paired: share of the duels of two methods in which the first was chosen."""
    believed: dict[str, dict[str, Share]]
    """Single, by method (``REAL`` of :mod:`infill.pipeline.user_study.questions` first) and group,
    "all" last: share of votes that took it for a photograph."""


def save_vote(study: Study, vote: Vote) -> None:
    """Store a vote.

    Raises:
        UserError: if it does not answer a question of the study.
    """
    if not VOTER.fullmatch(vote.voter):
        raise UserError("voter must be 8 to 40 lower-case letters and digits")
    question = study.question(vote.question)
    if question is None:
        raise UserError(f"there is no question {vote.question!r} in this study")
    allowed = choices(study, question)
    if vote.choice not in allowed:
        raise UserError(f"choice must be one of {', '.join(allowed)}, not {vote.choice!r}")
    location = storage.join(study.out, VOTES, vote.voter, f"{vote.question}.json")
    storage.write(location, (json.dumps(asdict(vote)) + "\n").encode())


def choices(study: Study, question: Question) -> list[str]:
    """Return the possible answers of a question."""
    if study.kind == "single":
        return [IS_REAL, IS_MADE]
    return sorted(question.pictures.values())


def voters(study: Study) -> list[str]:
    """Return all voters."""
    return [name for name in storage.names(storage.join(study.out, VOTES)) if VOTER.fullmatch(name)]


def answered(study: Study, voter: str) -> set[str]:
    """Return the ids of the questions that a voter has answered."""
    names = storage.names(storage.join(study.out, VOTES, voter))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def read_votes(study: Study) -> list[Vote]:
    """Read every vote.

    Raises:
        UserError: if a file is not a vote of this study, naming it.
    """
    found = []
    for voter in voters(study):
        for name in sorted(answered(study, voter)):
            location = storage.join(study.out, VOTES, voter, f"{name}.json")
            try:
                vote = Vote(**json.loads(storage.read(location)))
            except (ValueError, TypeError) as error:
                raise UserError(f"{location} is not a vote: {error}; remove it") from error
            if study.question(vote.question) is None:
                raise UserError(f"{location} does not answer a question of this study; remove it")
            found.append(vote)
    return found


def count(study: Study, votes: Iterable[Vote], least_ms: int, seed: int = 0) -> Counted:
    """Count votes as the papers' tables do.

    The intervals are a bootstrap over photographs, not over votes: those on one picture agree.

    Args:
        study: the study.
        votes: the result of :func:`read_votes`.
        least_ms: minimum time of an answer; faster ones are left out.
        seed: seed of the resampling.
    """
    votes = list(votes)
    valid = [vote for vote in votes if vote.took_ms >= least_ms]
    asked = {question.id: question for question in study.questions}
    shown: list[tuple[str, str, str, str, bool]] = []  # method, rival, group, photograph, chosen
    for vote in valid:
        question = asked[vote.question]
        for method, picture in question.pictures.items():
            chosen = vote.choice == (IS_REAL if study.kind == "single" else picture)
            rival = next((other for other in question.pictures if other != method), "")
            shown.append((method, rival, question.group, question.source, chosen))
    paired = study.kind == "paired"
    methods = study.methods if paired else (REAL, *study.methods)
    preferred, against, believed = {}, {}, {}
    for method in methods:
        own = [one for one in shown if one[0] == method]
        if paired:
            preferred[method] = _share(own, seed)
            rivals = [other for other in methods if other != method]
            against[method] = {r: _share([o for o in own if o[1] == r], seed) for r in rivals}
        else:
            believed[method] = {
                **{g: _share([o for o in own if o[2] == g], seed) for g in study.groups},
                "all": _share(own, seed),
            }
    return Counted(
        votes=len(valid),
        voters=len({vote.voter for vote in valid}),
        hasty=len(votes) - len(valid),
        preferred=preferred,
        against=against,
        believed=believed,
    )


def _share(shown: Sequence[tuple[str, str, str, str, bool]], seed: int) -> Share:
    if not shown:
        return Share(value=float("nan"), low=None, high=None, votes=0)
    chosen = np.array([one[4] for one in shown], np.float64)
    _, photographs = np.unique([one[3] for one in shown], return_inverse=True)
    one_alone = photographs.max() == 0
    low, high = intervals(chosen[:, None], photographs, seed)
    return Share(
        value=float(chosen.mean()),
        low=None if one_alone else float(low[0]),
        high=None if one_alone else float(high[0]),
        votes=len(shown),
    )
