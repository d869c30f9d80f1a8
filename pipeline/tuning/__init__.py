"""Hyperparameter search: many trials around one preset.

A search is a folder, as a run is: started again it keeps what it has finished and goes on with what
was interrupted.
"""

from pipeline.tuning.config import Trial, TuneConfig, TuneResult
from pipeline.tuning.spaces import Range, Space, read_space, read_table
from pipeline.tuning.trials import plan, written_down
from pipeline.tuning.tuner import tune

__all__ = [
    "Range",
    "Space",
    "Trial",
    "TuneConfig",
    "TuneResult",
    "plan",
    "read_space",
    "read_table",
    "tune",
    "written_down",
]
