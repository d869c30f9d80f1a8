import errno
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from infill.models.architecture import load
from infill.pipeline import checkpoints
from infill.pipeline.baselines import telea
from infill.pipeline.config import to_dict
from infill.pipeline.evaluation import EvaluationConfig, prepare
from infill.pipeline.evaluation.scorer import GRID, Scorer, best_samples, part_location
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig, mask_from_id
from infill.pipeline.metrics.metric_registry import METRICS


@pytest.fixture
def scorer(checkpoint: str, test_set: str, tmp_path) -> Scorer:
    config = EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        masks=MaskConfig(recipe="strokes"),
        buckets=((0.1, 0.2), (0.3, 0.4)),
        baselines=("mean-fill", "telea"),
        batch_size=4,
    )
    return Scorer(config, image_size_px=48, parts=str(tmp_path))


def test_every_method_predicts_every_pair_in_8_bits(scorer):
    filled = scorer.fill(range(5))
    assert list(filled.predictions) == ["spn", "mean-fill", "telea"]
    for predicted in filled.predictions.values():
        assert predicted.shape == (5, 48, 48, 3)
        assert predicted.dtype == np.uint8
    assert np.array_equal(filled.predictions["telea"][3], telea(filled.images[3], filled.holes[3]))


def test_a_full_disk_is_reported_in_the_part_s_row_and_a_defect_is_raised(scorer, monkeypatch):
    def fail(location: str, table: object) -> None:
        raise failure

    monkeypatch.setattr("infill.pipeline.evaluation.scorer.write_table", fail)
    failure: Exception = OSError(errno.ENOSPC, "No space left on device")
    result = scorer({"part": np.array([0])})
    assert result["error"][0].startswith("the disk is full; free some space")
    assert result["pairs"] == [0]
    failure = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        scorer({"part": np.array([0])})


def test_pictures_do_not_depend_on_the_batch_they_are_filled_in(scorer):
    together, alone = scorer.fill([4, 5, 6]), scorer.fill([5])
    for method, predicted in together.predictions.items():
        difference = np.abs(predicted[1].astype(int) - alone.predictions[method][0].astype(int))
        assert difference.max() <= 1  # Rounding of the last bit of a float, no more.


def test_scores_are_of_composites_as_a_slow_reference_finds(scorer):
    filled = scorer.fill([2, 3])
    found = scorer.measure(filled)["mean-fill"]
    for place in range(2):
        image, hole = filled.images[place].astype(np.float64), filled.holes[place] == 1
        predicted = filled.predictions["mean-fill"][place].astype(np.float64)
        pasted = np.where(hole[..., None], predicted, image)
        error = (pasted - image) / 255
        assert found["psnr"][place] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-3)
        inside = error[hole]
        assert found["hole_psnr"][place] == pytest.approx(
            -10 * np.log10((inside**2).mean()), abs=1e-3
        )
        assert found["hole_l1"][place] == pytest.approx(np.abs(inside).mean(), rel=1e-4)
        assert found["l1"][place] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        ours, theirs = (
            torch.from_numpy(picture / 255).permute(2, 0, 1)[None] for picture in (pasted, image)
        )
        similarity = structural_similarity_index_measure(ours, theirs, data_range=1.0)
        assert found["ssim"][place] == pytest.approx(similarity.item(), abs=1e-4)


def test_known_pixels_of_a_prediction_cannot_change_a_score(scorer):
    filled = scorer.fill([0, 1])
    predicted = filled.predictions["spn"]
    spoiled = np.where(filled.holes[..., None] == 1, predicted, 255 - predicted)
    broken = replace(filled, predictions={"spn": spoiled})
    before, after = scorer.measure(filled)["spn"], scorer.measure(broken)["spn"]
    assert all(np.array_equal(before[metric.name], after[metric.name]) for metric in METRICS)


def test_the_original_itself_scores_perfectly(scorer):
    filled = scorer.fill([0, 1])
    perfect = replace(filled, predictions={"spn": filled.images})
    found = scorer.measure(perfect)["spn"]
    assert (found["psnr"] == 100).all()
    assert (found["hole_l1"] == 0).all()
    assert np.allclose(found["ssim"], 1)


def test_a_part_holds_a_row_per_pair_and_method_and_the_hole_itself(scorer):
    cost = scorer({"part": np.array([1])})
    assert cost["pairs"] == [4]
    assert all(cost[f"{stage}_s"][0] > 0 for stage in ("reading", "network", "metrics"))
    rows = pq.read_table(part_location(scorer.parts, "rows", 1)).to_pylist()
    assert [(row["pair"], row["method"]) for row in rows] == [
        (pair, method) for pair in range(4, 8) for method in ("spn", "mean-fill", "telea")
    ]
    assert {metric.name for metric in METRICS} < set(rows[0])
    pairs = pq.read_table(part_location(scorer.parts, "pairs", 1)).to_pylist()
    for frozen in pairs:
        size = frozen["height_px"], frozen["width_px"]
        hole = np.unpackbits(np.frombuffer(frozen["hole"], np.uint8), count=48 * 48).reshape(size)
        assert hole.mean() == pytest.approx(frozen["hole_ratio"])
        group = next(g for g in scorer.config.groups if g.name == frozen["group"])
        assert np.array_equal(hole, mask_from_id(group.masks, frozen["mask_id"]).hole)


def test_grid_is_rendered_on_request(scorer, tmp_path):
    scorer({"part": np.array([GRID])})
    png = (tmp_path / "grid.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000


def test_of_several_samples_the_one_of_highest_psnr_counts_for_each_pair():
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (3, 16, 16, 3), np.uint8)
    holes = np.zeros((3, 16, 16), np.uint8)
    holes[:, 4:12, 4:12] = 1
    predicted = random.integers(0, 256, (5, 3, 16, 16, 3), np.uint8)
    for place, best in enumerate((4, 0, 2)):
        near = images[place].astype(int) + random.integers(-9, 10, (16, 16, 3))
        predicted[best, place] = near.clip(0, 255)
        outside = holes[place] == 0
        predicted[best, place][outside] = 255 - images[place][outside]  # Counts for nothing.
    chosen = best_samples(predicted, images, holes)
    for place, best in enumerate((4, 0, 2)):
        assert np.array_equal(chosen[place], predicted[best, place])


def test_a_network_that_samples_is_given_several_chances(test_set, tmp_path):
    location = str(tmp_path / "checkpoint")
    torch.manual_seed(0)
    architecture = load("spn")
    model = replace(architecture.config.tiny(), variant="probabilistic", perceptual_weight=0.0)
    values = {"model": to_dict(model), "data": to_dict(BatchConfig(image_size_px=32))}
    networks = {"generator": architecture.generator(model).state_dict()}
    checkpoints.export(location, networks, values, {"step": 1})
    config = EvaluationConfig(
        checkpoint=location, shards=test_set, buckets=((0.3, 0.4),), baselines=(), samples=1
    )
    once = Scorer(config, 32, str(tmp_path))
    often = Scorer(replace(config, samples=4), 32, str(tmp_path))
    one, four = (scorer.fill(range(4)) for scorer in (once, often))
    again = often.fill(range(4))
    assert np.array_equal(four.predictions["spn"], again.predictions["spn"])
    assert not np.array_equal(one.predictions["spn"], four.predictions["spn"])
    prepare(replace(config, samples=4))
