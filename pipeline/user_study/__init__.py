"""Blind user studies of finished evaluations.

``questions`` lays out who is asked what and writes the pictures under names that betray nothing;
``votes`` keeps and counts the answers; ``app`` and ``voting.html`` are the page people vote on;
``report`` sets the counts beside what the papers printed.
"""

from pipeline.user_study.app import make_app
from pipeline.user_study.questions import StudyConfig, load_study, prepare
from pipeline.user_study.report import terminal_tables, write_summary
from pipeline.user_study.votes import count, read_votes

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
