"""From a finished search to the one checkpoint that is worth promoting.

Every trial fills the same holes of the same test photographs; what is too large, too slow or worse
than the champion where it must not be is left out, and says why.
"""

from pipeline.choosing.candidates import Candidate, Choice, choose
from pipeline.choosing.config import ChoiceConfig
from pipeline.choosing.page import candidate_rows, write_choice

__all__ = ["Candidate", "Choice", "ChoiceConfig", "candidate_rows", "choose", "write_choice"]
