"""Blind user studies of finished evaluations.

``questions`` chooses the questions and writes the images under names that do not reveal the method;
``votes`` saves and counts the answers; ``app`` and ``voting.html`` are the voting page; ``report``
shows the counts beside the printed figures.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.user_study.app import make_app
    from infill.pipeline.user_study.config import StudyConfig
    from infill.pipeline.user_study.questions import load_study, prepare
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

__getattr__ = lazy_names(
    __name__,
    {
        "app": ("make_app",),
        "config": ("StudyConfig",),
        "questions": ("load_study", "prepare"),
        "report": ("terminal_tables", "write_summary"),
        "votes": ("count", "read_votes"),
    },
)
