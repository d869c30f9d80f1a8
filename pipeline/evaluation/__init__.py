"""Evaluate a checkpoint on test shards: scores by hole ratio.

``config`` is the configuration, ``protocols`` the protocols of the papers and ``published`` their
printed results. ``pairs`` assigns masks to images; ``metric_networks`` reads the networks of the
metrics that need one. ``scorer`` inpaints and measures pairs in an actor,
``scores`` averages them, ``result`` is the saved result, ``page`` its HTML page, and ``launch``
distributes the work over the cluster. ``comparison`` compares finished evaluations.

Every method, network or baseline, is measured in the same way: it predicts the whole frame, the
prediction is rounded to 8 bits, the known pixels are restored exactly, and that composite is
compared with the 8-bit original. Nothing is measured before rounding, because 8 bits are what
people see, save and publish.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.evaluation.config import EvaluationConfig
    from infill.pipeline.evaluation.launch import evaluate, prepare
    from infill.pipeline.evaluation.page import terminal_tables, verdict
    from infill.pipeline.evaluation.protocols import PROTOCOLS, Group, Protocol
    from infill.pipeline.evaluation.result import Evaluation, load_evaluation
    from infill.pipeline.evaluation.scores import Score

__all__ = [
    "PROTOCOLS",
    "Evaluation",
    "EvaluationConfig",
    "Group",
    "Protocol",
    "Score",
    "evaluate",
    "load_evaluation",
    "prepare",
    "terminal_tables",
    "verdict",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("EvaluationConfig",),
        "launch": ("evaluate", "prepare"),
        "page": ("terminal_tables", "verdict"),
        "protocols": ("PROTOCOLS", "Group", "Protocol"),
        "result": ("Evaluation", "load_evaluation"),
        "scores": ("Score",),
    },
)
