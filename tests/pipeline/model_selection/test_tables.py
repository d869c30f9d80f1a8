"""A paper's ablation, row by row on test photographs."""

from dataclasses import replace

import pytest

from infill.models.tables import Row, Table
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig, evaluate
from infill.pipeline.masks import MaskConfig
from infill.pipeline.model_selection import (
    SelectionConfig,
    TableConfig,
    candidate_rows,
    evaluate_table,
    find_test_set,
    paper_rows,
    select_model,
)
from infill.pipeline.reporting.search import write_search
from infill.pipeline.tuning import TuneConfig, tune, written_down

TABLE = Table(
    title="SPN, Table 4",
    preset="paris",
    measured_on="Paris",
    protocol="spn-paris",
    rows=(
        Row(label="N = 2", changes={"num_blocks": 2}, published={"psnr": "29.40"}),
        Row(
            label="N = 1",
            changes={"num_blocks": 1},
            published={"psnr": "29.69", "grey_l1": "0.154", "fid": "36.82", "ms_ssim": "0.9"},
        ),
    ),
)


def quietly(line):
    """Say nothing."""


@pytest.fixture(scope="module")
def search(two_steps, shards, tmp_path_factory):
    """Return a search around two tiny steps, of two seeds."""
    training = override(two_steps, {"data.shards": shards})
    storage = str(tmp_path_factory.mktemp("table"))
    return TuneConfig(train=training, storage=storage, seeds=2, space="t")


@pytest.fixture(scope="module")
def result(search, ray_local):
    return tune(search, TABLE, quietly)


def test_rows_are_measured_on_the_same_test_pairs_beside_what_is_printed(
    search, result, shards, tmp_path
):
    config = TableConfig(num_actors=0)
    evaluated = evaluate_table(search, TABLE, result, config, False, quietly)
    assert {label: len(found) for label, found in evaluated.items()} == {"N = 2": 2, "N = 1": 2}
    everyone = [one for found in evaluated.values() for one in found]
    assert {one.data["location"] for one in everyone} == {f"{shards}/test"}
    assert len({str(one.data["hole_ratios"]) for one in everyone}) == 1
    header, rows = paper_rows(TABLE, evaluated)
    assert header == [
        "row",
        *("PSNR whole (dB), ours", "printed"),
        *("MAE of grey, SPN's (x 0.1), ours", "printed"),
        *("FID, ours", "printed"),
        *("MS-SSIM, ours", "printed"),
    ]
    assert [row[0] for row in rows] == ["N = 2", "N = 1"]
    assert [row[2::2] for row in rows] == [
        ["29.40", "-", "-", "-"],
        ["29.69", "0.154", "36.82", "0.9"],
    ]
    assert [row[5] for row in rows] == ["not computed: weights not given"] * 2
    assert [row[7] for row in rows] == ["not defined at this size"] * 2
    for row, found in zip(rows, evaluated.values(), strict=True):
        means = [one.scores[one.network]["all"]["psnr"].mean for one in found]
        assert row[1].startswith(f"{sum(means) / 2:.2f} (")
        assert row[1].endswith("2 seeds)")
    assert "29.69" in write_search(result, str(tmp_path / "page"), "SPN, Table 4", (header, rows))


def test_figures_are_those_of_an_evaluation_of_ones_own(search, result, shards, tmp_path):
    evaluated = evaluate_table(search, TABLE, result, TableConfig(num_actors=0), False, quietly)
    trial = next(trial for trial in result.trials if trial.label == "N = 1" and trial.seed == 0)
    own = evaluate(
        EvaluationConfig(
            checkpoint=trial.checkpoint,
            shards=f"{shards}/test",
            out=str(tmp_path / "own"),
            masks=replace(search.train.data.masks, curriculum_steps=0),
            buckets=(),
            metrics=("grey_l1",),
            baselines=(),
            num_actors=0,
        ),
        quietly,
    )
    theirs = next(
        one for one in evaluated["N = 1"] if one.checkpoint["location"] == trial.checkpoint
    )
    for name, score in own.scores["spn"]["all"].items():
        assert theirs.scores["spn"]["all"][name].mean == pytest.approx(score.mean, rel=1e-6)


def test_published_scale_takes_the_papers_protocol(search, result):
    one_row = replace(TABLE, rows=TABLE.rows[:1])
    one = replace(result, trials=[t for t in result.trials if t.label == "N = 2"][:1])
    evaluated = evaluate_table(search, one_row, one, TableConfig(num_actors=0), True, quietly)
    [evaluation] = evaluated["N = 2"]
    assert evaluation.groups == ["0-0.2", "0.2-0.4", "0.4-0.6", "all"]
    assert evaluation.settings["protocol"] == "spn-paris"
    assert evaluation.data["image_size_px"] == 256
    _, [row] = paper_rows(one_row, evaluated)
    assert " ± " in row[1]


def test_seeds_of_a_combination_stand_together(search, result, shards):
    choice = select_model(
        SelectionConfig(
            search=search.storage,
            shards=f"{shards}/test",
            masks=MaskConfig(recipe="box"),
            buckets=(),
            num_images=4,
            num_actors=0,
        ),
        quietly,
    )
    assert len(choice.candidates) == 2
    for one in choice.candidates:
        [other] = one.others
        means = [e.scores["spn"]["all"]["hole_psnr"].mean for e in (one.evaluation, other)]
        score = one.score("hole_psnr")
        assert score.mean == pytest.approx(sum(means) / 2)
        assert min(means) - 1e-9 <= score.low <= score.high <= max(means) + 1e-9
        trials = [
            t for t in written_down(search.storage).values() if t.changes == one.trial.changes
        ]
        assert one.trial.scores["hole_psnr"] == max(t.scores["hole_psnr"] for t in trials)
        assert one.evaluation.checkpoint["location"] == one.trial.checkpoint
    header, rows = candidate_rows(choice)
    assert [row[header.index("seeds")] for row in rows] == ["2", "2"]


def test_failed_row_is_reported(result):
    _, rows = paper_rows(TABLE, {"N = 2": [], "N = 1": []})
    assert [row[1] for row in rows] == ["failed", "failed"]


def test_a_table_without_test_photographs_is_refused_before_anything_trains(search, tmp_path):
    missing = override(search, {"train.data.shards": str(tmp_path)})
    with pytest.raises(UserError, match="is not a shard set; name one with --table.test-shards"):
        find_test_set(missing, TableConfig())
