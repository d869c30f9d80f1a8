"""Select the best checkpoint of a finished search.

Every trial fills the same holes of the same test photographs; what is too large, too slow or worse
than the champion where it must not be is left out, and says why. ``tables`` measures a paper's
ablation instead, row by row beside the printed figures.
"""

from pipeline.model_selection.candidates import Candidate, Choice, choose
from pipeline.model_selection.config import ChoiceConfig
from pipeline.model_selection.page import candidate_rows, write_choice
from pipeline.model_selection.tables import TableConfig, find_test_set, judge_table, paper_rows

__all__ = [
    "Candidate",
    "Choice",
    "ChoiceConfig",
    "TableConfig",
    "candidate_rows",
    "choose",
    "find_test_set",
    "judge_table",
    "paper_rows",
    "write_choice",
]
