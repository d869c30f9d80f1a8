"""Evaluate a checkpoint on test shards: scores by hole ratio.

``config`` says what to evaluate, ``protocols`` how the papers did and ``published`` what they
found; ``pairs`` decides which images meet which masks; ``measures`` and ``networks`` (with
``inception``, ``lpips`` and ``sets``) are what is measured. ``scorer`` fills and measures pairs in
an actor, ``scores`` averages the rows, ``result`` is what is kept, ``page`` shows it to a person,
``launch`` spreads the work over the cluster. ``comparison`` holds finished evaluations against
each other.

Every method, network or baseline, goes one way: it predicts the whole frame, the prediction is
rounded to 8 bits, the known pixels are put back exactly, and that composite is measured against
the 8-bit original. Nothing is measured before rounding, as people see, save and publish 8 bits.
"""

from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.launch import evaluate, prepare
from pipeline.evaluation.metric_registry import METRICS, Metric
from pipeline.evaluation.page import terminal_tables, verdict
from pipeline.evaluation.protocols import PROTOCOLS, Group, Protocol
from pipeline.evaluation.result import Evaluation, load_evaluation
from pipeline.evaluation.scores import Score

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Evaluation",
    "EvaluationConfig",
    "Group",
    "Metric",
    "Protocol",
    "Score",
    "evaluate",
    "load_evaluation",
    "prepare",
    "terminal_tables",
    "verdict",
]
