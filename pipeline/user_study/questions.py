"""The questions of a user study: pairs, methods, order.

Everything is a function of the evaluations and the seed. An image's name is a keyed digest, and the
order of two images is random for each voter, so neither reveals the method.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from infill.pipeline import storage
from infill.pipeline.config import from_dict, to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.comparison import (
    Contender,
    PastedMethod,
    fill_again,
    load_contenders,
)
from infill.pipeline.images import encode_png
from infill.pipeline.masks.rng import random_for
from infill.pipeline.user_study.config import Kind, StudyConfig

FORMAT = 1
STUDY = "study.json"
REAL = "photograph"
"""Name of the original photograph, in place of a method."""


NOT_ASKED = ("out", "host", "port", "summarise", "questions_per_voter", "least_ms")
"""Fields that do not change the questions."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Two images of one pair, or one image."""

    id: str
    pair: int
    source: str
    """The photograph: questions that share it are not independent."""
    group: str
    """Range of hole ratio of the pair."""
    pictures: dict[str, str]
    """Name of each image by its method; :data:`REAL` for the original photograph."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that people can vote in."""

    out: str
    kind: Kind
    methods: tuple[str, ...]
    groups: tuple[str, ...]
    questions: tuple[Question, ...]
    settings: dict[str, Any]
    lineage: dict[str, str]
    """Evaluation and digest of each method."""

    def question(self, name: str) -> Question | None:
        """Return a question by its id."""
        return next((one for one in self.questions if one.id == name), None)

    def picture(self, name: str) -> str:
        """Return the location of an image."""
        return storage.join(self.out, "pictures", f"{name}.png")

    def asked(self, voter: str, most: int) -> list[Question]:
        """Return a voter's questions, in the voter's own order; the same every time."""
        order = random_for("study-order", voter).permutation(len(self.questions))
        return [self.questions[index] for index in order[:most]]

    def shown(self, voter: str, question: Question) -> list[str]:
        """Return a question's images from left to right, in a voter's order."""
        names = sorted(question.pictures.values())
        if random_for("study-side", voter, question.id).integers(2):
            names.reverse()
        return names


def prepare(config: StudyConfig) -> Study:
    """Return the study of a configuration; create it if it does not exist yet.

    Raises:
        UserError: if an evaluation is missing, their pairs differ, a checkpoint has changed since,
            or the folder holds a study of other settings.
    """
    out = storage.absolute(config.out)
    settings = {k: v for k, v in to_dict(config).items() if k not in NOT_ASKED}
    if storage.exists(storage.join(out, STUDY)):
        study = load_study(out)
        if study.settings != settings:
            raise UserError(
                f"{out} holds a study of other settings; give another --out, or remove it with "
                "its votes"
            )
        return study
    contenders = load_contenders(config.evaluations, config.baselines)
    questions = lay_questions(config, contenders)
    study = Study(
        out=out,
        kind=config.kind,
        methods=tuple(one.name for one in contenders),
        groups=tuple(dict.fromkeys(q.group for q in questions)),
        questions=tuple(questions),
        settings=settings,
        lineage={
            one.name: f"{one.method} of {one.evaluation.out}, {one.evaluation.digest[:16]}"
            for one in contenders
        },
    )
    _write_images(study, contenders)
    values = {"format": FORMAT, **asdict(study)}
    del values["out"]
    # Written last, so that every image exists.
    storage.write(storage.join(out, STUDY), (json.dumps(values, indent=1) + "\n").encode())
    return study


def load_study(out: str) -> Study:
    """Read a study.

    Raises:
        UserError: if it does not exist, or another version of this program wrote it.
    """
    out = storage.absolute(out)
    try:
        values = json.loads(storage.read(storage.join(out, STUDY)))
    except FileNotFoundError as error:
        raise UserError(f"{out} holds no study; create one with `python jobs/study.py`") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f"{storage.join(out, STUDY)} is not of format {FORMAT}; lay it out again")
    return from_dict(Study, {"out": out, **values}, STUDY)


def lay_questions(config: StudyConfig, contenders: Sequence[Contender]) -> list[Question]:
    """Choose pairs and make the questions.

    Paired: every two methods are compared on every chosen pair. Single: each chosen pair is shown
    once, as the original or inpainted by one of the methods, in turn.
    """
    rows = contenders[0].rows.select(["source", "group"]).to_pylist()
    names = [one.name for one in contenders]
    questions = []
    for turn, pair in enumerate(_chosen(rows, config.num_pairs, config.seed)):
        if config.kind == "paired":
            asked = [list(two) for two in combinations(names, 2)]
        else:
            asked = [[[REAL, *names][turn % (len(names) + 1)]]]
        for methods in asked:
            pictures = {method: _name(config.seed, pair, method) for method in methods}
            questions.append(
                Question(
                    id=_name(config.seed, pair, *methods, "question"),
                    pair=pair,
                    source=rows[pair]["source"],
                    group=rows[pair]["group"],
                    pictures=pictures,
                )
            )
    return questions


def _chosen(rows: Sequence[dict[str, Any]], most: int, seed: int) -> list[int]:
    """Choose pairs at random; a second pair of a photograph only after one of each."""
    order = random_for("study-pairs", seed).permutation(len(rows)).tolist()
    turns: dict[str, int] = {}
    ranked = []
    for rank, pair in enumerate(order):
        source = rows[pair]["source"]
        ranked.append((turns.setdefault(source, 0), rank, pair))
        turns[source] += 1
    return [pair for _, _, pair in sorted(ranked)[:most]]


def _name(*parts: object) -> str:
    return storage.sha256(json.dumps(["study", *map(str, parts)]).encode())[:20]


def _write_images(study: Study, contenders: Sequence[Contender]) -> None:
    pairs = sorted({question.pair for question in study.questions})
    wanted: dict[tuple[int, str], str] = {
        (question.pair, method): name
        for question in study.questions
        for method, name in question.pictures.items()
    }
    for out in dict.fromkeys(one.evaluation.out for one in contenders):
        here = [one for one in contenders if one.evaluation.out == out]
        for pair, pasted in zip(pairs, fill_again(here[0].evaluation, pairs), strict=True):
            for name, picture in _pictures(here, pasted).items():
                if (pair, name) in wanted:
                    storage.write(study.picture(wanted[pair, name]), encode_png(picture))


def _pictures(contenders: Sequence[Contender], pasted: PastedMethod) -> dict[str, Any]:
    named = {one.name: pasted.composites[one.method] for one in contenders}
    return {REAL: pasted.image, **named}
