"""A metric that is declared once appears wherever metrics are measured, compared or shown."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
DECLARATION = (
    '    Metric(name="largest", title="Largest error", better="lower", decimals=3, '
    "measure=lambda ours, theirs, _: (image_metrics.unit(ours) - image_metrics.unit(theirs))"
    ".abs().amax(dim=(1, 2, 3))),\n"
)
PROGRAM = """
import json, sys
from dataclasses import replace

import infill.pipeline.metrics.metric_registry as registry
from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints, storage
from infill.pipeline.evaluation import EvaluationConfig, evaluate, terminal_tables, verdict
from infill.pipeline.evaluation.comparison import CompareConfig, compare
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.model_selection import SelectionConfig, candidate_rows, select_model
from infill.pipeline.reporting.search import trial_rows
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import TrainConfig, train
from infill.pipeline.tuning import Trial, TuneConfig, TuneResult
from infill.pipeline.tuning.trials import write_down

shards, out = sys.argv[1:]
assert registry.__file__.startswith(out), registry.__file__
quiet = lambda line: None
data = BatchConfig(shards=shards, batch_size=2, image_size_px=32)
training = TrainConfig(
    model=SPNConfig.tiny(), data=data, storage=out + "/run", steps=1, num_workers=0,
    validation_samples=2, tracking=TrackingConfig(tracking_uri=""),
)
records = []
result = train(training, quiet, records.append)
[scores] = [record.values for record in records if record.kind == "scores"]
box = {"masks": MaskConfig(recipe="box"), "buckets": ((0.1, 0.2), (0.2, 0.3)), "num_images": 2}
common = EvaluationConfig(
    checkpoint=result.checkpoint, shards=shards + "/test", out=out + "/one", num_actors=0,
    baselines=("mean-fill",), **box,
)
one = evaluate(common, quiet)
compared = compare(
    CompareConfig(evaluations=(one.out,), baselines=("mean-fill",), out=out + "/compared")
)
search = TuneConfig(train=training, storage=out + "/search")
trial = Trial(name="only", changes={}, scores=result.scores, checkpoint=result.checkpoint, steps=1)
write_down(search, trial)
selected = select_model(
    SelectionConfig(search=search.storage, shards=shards + "/test", metric="largest", num_actors=0,
                    **box),
    quiet,
)
print(json.dumps({
    "validation": "largest" in scores,
    "checkpoint": "largest" in checkpoints.read_state(result.checkpoint)["scores"],
    "search": trial_rows(TuneResult(trials=(trial,), seconds=1.0))[0],
    "summary": one.summary["largest"],
    "terminal": terminal_tables(one),
    "verdict": verdict(one),
    "psnr": one.summary["hole_psnr"],
    "page": storage.read(one.files["report"]).decode().count("Largest error"),
    "csv": ",largest," in storage.read(one.files["spreadsheet"]).decode(),
    "comparison": [metric.name for metric in compared.metrics],
    "selection": candidate_rows(selected)[0],
    "selected": selected.selected.score("largest").mean,
    "goodness": selected.goodness(selected.selected),
}))
"""


def test_one_declared_line_reaches_validation_evaluation_comparison_selection_and_tables(
    shards, tmp_path
):
    for name in ("infill", "pipeline", "models", "jobs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignore)
    file = tmp_path / "pipeline/metrics/metric_registry.py"
    declared = "DECLARED: tuple[Metric, ...] = (\n"
    before, after = file.read_text().split(declared)
    file.write_text(before + declared + DECLARATION + after)  # The first place decides nothing.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, shards, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["validation"]
    assert found["checkpoint"]
    assert "largest" in found["search"]
    assert 0 < found["summary"] <= 1
    assert "Largest error" in found["terminal"]
    assert "PSNR hole (dB) | 0.1-0.2" in " ".join(found["terminal"].split())
    assert f"{found['psnr']:.2f} dB PSNR" in found["verdict"]
    assert found["page"] >= 2
    assert found["csv"]
    assert "largest" in found["comparison"]
    assert "largest" in found["selection"]
    assert found["goodness"] == -found["selected"] < 0
