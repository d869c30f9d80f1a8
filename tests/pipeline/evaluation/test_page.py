"""The reports, as windows of common widths show them."""

from infill.pipeline.evaluation import EvaluationConfig, evaluate
from infill.pipeline.evaluation.comparison import CompareConfig, compare
from infill.pipeline.evaluation.comparison_page import write_comparison


def test_report_with_every_range_is_not_cut(checkpoint, test_set, tmp_path, require_fit):
    """Six ranges and all pairs are the widest tables: every method beside every range."""
    config = EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        out=str(tmp_path),
        num_images=4,
        baselines=("mean-fill", "telea", "navier-stokes"),
        num_actors=0,
        examples=2,
    )
    require_fit(evaluate(config, report=str).files["report"])


def test_comparison_is_not_cut(evaluations, tmp_path, require_fit):
    config = CompareConfig(
        evaluations=tuple(one.out for one in evaluations), baselines=("telea",), cases=2
    )
    require_fit(write_comparison(compare(config), str(tmp_path)))
