"""Blind user studies of finished evaluations.

``questions`` chooses the questions and writes the images under names that do not reveal the method;
``votes`` saves and counts the answers; ``app`` and ``voting.html`` are the voting page; ``report``
shows the counts beside the printed figures.
"""

from infill.pipeline.user_study.app import make_app
from infill.pipeline.user_study.questions import StudyConfig, load_study, prepare
from infill.pipeline.user_study.report import terminal_tables, write_summary
from infill.pipeline.user_study.votes import count, read_votes

__all__ = [
    "StudyConfig",
    "count",
    "load_study",
    "make_app",
    "prepare",
    "read_votes",
    "terminal_tables",
    "write_summary",
]
