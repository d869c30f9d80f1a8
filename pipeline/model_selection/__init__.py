"""Select the best checkpoint of a finished search.

Every trial inpaints the same pairs of the same test set. A trial that is too large, too slow, or
worse than the champion beyond a limit is excluded, with the reason. ``tables`` measures the
ablation of a paper instead, row by row beside the printed figures.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.model_selection.candidates import (
        Candidate,
        SelectionResult,
        evaluate_with_baselines,
        finished_trials,
        require_inputs,
        select_model,
    )
    from infill.pipeline.model_selection.config import SelectionConfig, TableConfig
    from infill.pipeline.model_selection.page import candidate_rows, write_selection
    from infill.pipeline.model_selection.tables import (
        evaluate_table,
        find_test_set,
        of_other_images,
        paper_rows,
    )

__all__ = [
    "Candidate",
    "SelectionResult",
    "SelectionConfig",
    "TableConfig",
    "candidate_rows",
    "evaluate_with_baselines",
    "finished_trials",
    "require_inputs",
    "select_model",
    "find_test_set",
    "of_other_images",
    "evaluate_table",
    "paper_rows",
    "write_selection",
]

__getattr__ = lazy_names(
    __name__,
    {
        "candidates": (
            "Candidate",
            "SelectionResult",
            "evaluate_with_baselines",
            "finished_trials",
            "require_inputs",
            "select_model",
        ),
        "config": ("SelectionConfig", "TableConfig"),
        "page": ("candidate_rows", "write_selection"),
        "tables": ("find_test_set", "of_other_images", "evaluate_table", "paper_rows"),
    },
)
