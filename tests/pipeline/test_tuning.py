import json

import pytest

from models.spn.config import SPNConfig
from pipeline import checkpoints
from pipeline.batches import BatchConfig
from pipeline.config import UserError
from pipeline.masks import MaskConfig
from pipeline.report.search import trial_rows, write_search
from pipeline.tracking import TrackingConfig
from pipeline.training import TrainConfig
from pipeline.tuning import Trial, TuneConfig, TuneResult, plan, read_space, tune

SPACE = {"model.image_weight": [1.0, 10.0], "model.num_blocks": [1, 2]}


@pytest.fixture(scope="module")
def config(shards, tmp_path_factory):
    """Return a search around two tiny steps."""
    return TuneConfig(
        train=TrainConfig(
            model=SPNConfig.tiny(),
            data=BatchConfig(
                shards=shards, batch_size=2, image_size_px=32, masks=MaskConfig(max_hole_ratio=0.5)
            ),
            steps=2,
            num_workers=2,
            validation_samples=4,
            tracking=TrackingConfig(tracking_uri=""),
        ),
        storage=str(tmp_path_factory.mktemp("sweep")),
    )


@pytest.fixture(scope="module")
def result(config, ray_local):
    """Run the search once."""
    return tune(config, SPACE, log=lambda line: None)


def test_every_combination_is_a_trial_with_its_own_run(config):
    planned = plan(config, SPACE)
    assert [trial.changes for trial, _ in planned] == [
        {"model.image_weight": weight, "model.num_blocks": blocks}
        for weight in (1.0, 10.0)
        for blocks in (1, 2)
    ]
    assert len({training.storage for _, training in planned}) == 4
    assert all(
        training.model.num_blocks == t.changes["model.num_blocks"] for t, training in planned
    )


def test_names_and_values_that_cannot_be_are_refused_before_anything_starts(config):
    with pytest.raises(UserError, match=r"did you mean 'model.image_weight'"):
        plan(config, {"model.image_wieght": [1.0]})
    with pytest.raises(ValueError, match="num_blocks must be at least 1"):
        plan(config, {"model.num_blocks": [0]})
    with pytest.raises(UserError, match="without values"):
        plan(config, {"model.num_blocks": []})


def test_a_space_comes_by_name_or_from_a_file(tmp_path):
    assert read_space("both", {"both": SPACE}) == SPACE
    path = tmp_path / "space.json"
    path.write_text(json.dumps(SPACE))
    assert read_space(str(path), {}) == SPACE
    with pytest.raises(UserError, match="there are: both"):
        read_space("neither", {"both": SPACE})
    path.write_text("[1]")
    with pytest.raises(UserError, match="must map dotted names"):
        read_space(str(path), {})


@pytest.mark.slow
def test_trials_train_and_come_back_best_first(result):
    scores = [trial.scores["hole_psnr"] for trial in result.trials]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    for trial in result.trials:
        model = checkpoints.read_config(trial.checkpoint)["model"]
        assert model["num_blocks"] == trial.changes["model.num_blocks"]
        assert model["image_weight"] == trial.changes["model.image_weight"]
    assert result.best.checkpoint == result.trials[0].checkpoint


@pytest.mark.slow
def test_a_search_started_again_runs_nothing_twice(config, result):
    again = tune(config, SPACE, log=lambda line: None)
    assert all(trial.reused for trial in again.trials)
    assert [t.scores for t in again.trials] == [t.scores for t in result.trials]


@pytest.mark.slow
def test_the_search_is_written_as_table_plot_and_page(result, tmp_path):
    text = write_search(result, str(tmp_path), "A search")
    assert "image_weight" in text
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert "A search" in (tmp_path / "report.html").read_text()
    assert len(json.loads((tmp_path / "trials.json").read_text())) == 4


def test_a_failed_trial_is_reported_and_never_best():
    failed = Trial(name="a", changes={"model.num_blocks": 1}, error="the loss is not finite")
    header, rows = trial_rows(TuneResult(trials=(failed,), seconds=1.0))
    assert header[0] == "num_blocks"
    assert "the loss is not finite" in rows[0]
    with pytest.raises(UserError, match="the loss is not finite"):
        _ = TuneResult(trials=(failed,), seconds=1.0).best
