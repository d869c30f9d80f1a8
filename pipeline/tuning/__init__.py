"""Hyperparameter search: many trials around one preset.

A search is a directory, like a run. Started again, it keeps the finished trials and resumes the
interrupted ones.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.tuning.config import Trial, TuneConfig, TuneResult
    from infill.pipeline.tuning.effects import require_effects
    from infill.pipeline.tuning.spaces import Range, Space, read_space, read_table
    from infill.pipeline.tuning.trials import num_trials, plan, share_batch, written_down
    from infill.pipeline.tuning.tuner import tune

__all__ = [
    "Range",
    "Space",
    "Trial",
    "TuneConfig",
    "TuneResult",
    "num_trials",
    "plan",
    "read_space",
    "read_table",
    "require_effects",
    "share_batch",
    "tune",
    "written_down",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("Trial", "TuneConfig", "TuneResult"),
        "effects": ("require_effects",),
        "spaces": ("Range", "Space", "read_space", "read_table"),
        "trials": ("num_trials", "plan", "share_batch", "written_down"),
        "tuner": ("tune",),
    },
)
