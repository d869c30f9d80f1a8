"""The reports, as windows of common widths show them."""

from pathlib import Path

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


def test_report_of_one_range_shows_each_score_once(checkpoint, test_set, tmp_path):
    """The only range holds all pairs: its tables would repeat the first one."""
    found = {}
    for name, buckets in (("one", ((0.1, 0.5),)), ("two", ((0.1, 0.3), (0.3, 0.5)))):
        config = EvaluationConfig(
            checkpoint=checkpoint,
            shards=test_set,
            out=str(tmp_path / name),
            num_images=2,
            buckets=buckets,
            baselines=("telea",),
            num_actors=0,
            examples=1,
        )
        files = evaluate(config, report=str).files
        found[name] = [Path(files[kind]).read_text() for kind in ("report", "table")]
    for once, several in zip(found["one"], found["two"], strict=True):
        assert once.count("PSNR hole (dB)") == 1
        assert several.count("PSNR hole (dB)") > 1
        assert "0.1-0.5" not in once


def test_comparison_is_not_cut(evaluations, tmp_path, require_fit):
    config = CompareConfig(
        evaluations=tuple(one.out for one in evaluations), baselines=("telea",), cases=2
    )
    require_fit(write_comparison(compare(config), str(tmp_path)))
