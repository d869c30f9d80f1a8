import csv
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import (
    EvaluationConfig,
    evaluate,
    load_evaluation,
    prepare,
    terminal_tables,
)
from infill.pipeline.evaluation.comparison import compare
from infill.pipeline.evaluation.config import CompareConfig
from infill.pipeline.evaluation.launch import _num_actors
from infill.pipeline.evaluation.scorer import GRID, Scorer
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig
from infill.pipeline.metrics import metric_registry
from infill.pipeline.metrics.metric_registry import METRICS, Metric


@pytest.fixture(scope="module")
def config(checkpoint: str, test_set: str, tmp_path_factory) -> EvaluationConfig:
    return EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        out=str(tmp_path_factory.mktemp("evaluation") / "first"),
        buckets=((0.1, 0.2), (0.3, 0.4)),
        baselines=("mean-fill", "telea"),
        batch_size=2,
        num_actors=0,
        examples=3,
    )


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def evaluation(config: EvaluationConfig, lines: list[str]):
    return evaluate(config, report=lines.append)


def scores_of(evaluation) -> dict:
    return json.loads(json.dumps(evaluation.scores, default=vars))


def test_evaluation_writes_every_file_and_leaves_nothing_else(evaluation, config, tmp_path):

    found = sorted(path.name for path in Path(config.out).iterdir())
    assert found == sorted(location.rsplit("/", 1)[-1] for location in evaluation.files.values())
    assert len(found) == 7


def test_the_plan_names_numbers_of_images_and_masks_that_differ(checkpoint, test_set, tmp_path):
    for number in range(3):
        hole = np.zeros((64, 64), np.uint8)
        hole[: 10 * (number + 1)] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), hole)
    config = EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        protocol="spn-paris",
        masks=MaskConfig(folder=str(tmp_path)),
        num_actors=0,
    )
    plan = prepare(config)
    assert plan.numbers == [
        "the paper's figures are of 100 images, these are of 8",
        "3 mask files for 8 images: each file is used 2 or 3 times",
    ]
    with pytest.raises(UserError, match="holds 8 images, fewer than --num-images 100;"):
        prepare(replace(config, num_images=100))


def test_rows_hold_every_pair_under_every_method(evaluation):
    rows = pq.read_table(evaluation.files["rows"]).to_pylist()
    assert len(rows) == 8 * 2 * 3
    assert len({(row["pair"], row["method"]) for row in rows}) == len(rows)
    assert [row["pair"] for row in rows] == sorted(row["pair"] for row in rows)
    pairs = pq.read_table(evaluation.files["pairs"])
    assert pairs["pair"].to_pylist() == list(range(16))
    assert pairs["mask_id"].to_pylist() == [r["mask_id"] for r in rows if r["method"] == "telea"]


def test_scores_are_the_means_of_the_rows(evaluation):
    rows = pq.read_table(evaluation.files["rows"]).to_pylist()
    for method in ("spn", "mean-fill", "telea"):
        own = [row for row in rows if row["method"] == method]
        for group, metric in (("0.1-0.2", "hole_psnr"), ("0.3-0.4", "ssim"), ("all", "l1")):
            values = [row[metric] for row in own if group in (row["group"], "all")]
            score = evaluation.scores[method][group][metric]
            assert score.mean == pytest.approx(sum(values) / len(values))
            assert score.n == len(values)
            assert score.photographs == 4
            assert score.low <= score.mean <= score.high


def test_telea_beats_an_untrained_network_and_the_summary_is_the_networks(evaluation):
    means = {m: evaluation.scores[m]["all"]["hole_psnr"].mean for m in evaluation.methods}
    assert means["telea"] > means["spn"] + 3
    assert evaluation.summary["hole_psnr"] == means["spn"]


def test_evaluation_is_read_back_as_it_was(evaluation):
    assert load_evaluation(evaluation.out) == evaluation


def test_the_same_settings_are_answered_without_work(evaluation, config):
    lines: list[str] = []
    assert evaluate(replace(config, num_actors=1), report=lines.append) == evaluation
    assert len(lines) == 1
    assert "reused" in lines[0]


def test_progress_ends_with_every_pair_and_a_line_of_what_was_done(evaluation, lines):
    assert any(line.startswith("evaluation: 16 pairs in ") for line in lines)
    assert lines[-1].startswith("scored 3 methods on 16 pairs in ")


def test_actors_find_what_one_process_finds(evaluation, config, ray_local, tmp_path):
    lines: list[str] = []
    spread = evaluate(replace(config, num_actors=2, out=str(tmp_path)), report=lines.append)
    assert spread.digest == evaluation.digest
    assert scores_of(spread) == scores_of(evaluation)
    for kind in ("rows", "pairs"):
        one, two = (pq.read_table(e.files[kind]) for e in (evaluation, spread))
        assert one.equals(two)
    assert any(line.startswith("evaluation: 16 pairs in ") for line in lines)


def test_another_network_meets_the_same_pairs(evaluation, config, other_checkpoint, tmp_path):
    other = evaluate(replace(config, checkpoint=other_checkpoint, out=str(tmp_path)), report=str)
    first, second = (pq.read_table(e.files["pairs"]) for e in (evaluation, other))
    assert first.equals(second)
    assert other.digest != evaluation.digest
    ours, theirs = scores_of(evaluation), scores_of(other)
    assert ours["telea"] == theirs["telea"]
    assert ours["spn"] != theirs["spn"]


def test_interrupted_evaluation_equals_an_uninterrupted_one(evaluation, config, tmp_path):
    config = replace(config, out=str(tmp_path / "second"))
    plan = prepare(config)
    scorer = Scorer(plan.config, plan.pairs.image_size_px, plan.parts)
    for number in (GRID, 0, 3):  # As if killed after these; a part without rows does not count.
        scorer.work(number)
    (tmp_path / "second" / plan.parts.rsplit("/", 1)[-1] / "pairs-000001.parquet").write_bytes(b"")
    lines: list[str] = []
    second = evaluate(config, report=lines.append)
    assert lines[0] == "4 of 16 pairs were scored before an interruption; resuming"
    assert scores_of(second) == scores_of(evaluation)
    assert second.digest == evaluation.digest
    for kind in ("rows", "pairs"):
        one, two = (pq.read_table(e.files[kind]) for e in (evaluation, second))
        assert one.equals(two)
    assert not list((tmp_path / "second").glob("_*"))


def test_other_settings_in_the_same_folder_are_evaluated_anew(evaluation, config, tmp_path):
    config = replace(config, out=str(tmp_path), num_images=1, baselines=())
    one = evaluate(config, report=str)
    two = evaluate(replace(config, seed=1), report=str)
    assert one.digest != two.digest
    assert one.summary != two.summary
    assert load_evaluation(str(tmp_path)) == two


def test_a_metric_that_was_declared_since_is_measured_and_older_scores_stay_readable(
    config, tmp_path, monkeypatch
):
    config = replace(config, out=str(tmp_path / "one"), num_images=1, baselines=())
    before = evaluate(config, report=str)
    shutil.copytree(tmp_path / "one", tmp_path / "older")
    plan = prepare(replace(config, seed=1))
    Scorer(plan.config, plan.pairs.image_size_px, plan.parts).work(0)
    added = Metric(
        name="declared_since",
        title="Declared since",
        better="lower",
        decimals=3,
        measure=lambda ours, theirs, _: (ours.double() - theirs).abs().amax(dim=(1, 2, 3)),
    )
    monkeypatch.setattr(metric_registry, "METRICS", (added, *metric_registry.METRICS))
    older = load_evaluation(str(tmp_path / "older"))
    assert added not in older.metrics
    assert "Declared since" not in terminal_tables(older)
    lines: list[str] = []
    after = evaluate(config, report=lines.append)
    assert not any("reused" in line for line in lines)
    assert after.digest == before.digest
    assert after.summary == before.summary | {"declared_since": after.summary["declared_since"]}
    assert "Declared since" in terminal_tables(after)
    compared = compare(CompareConfig(evaluations=(after.out, older.out), out=str(tmp_path / "c")))
    assert compared.metrics == older.metrics
    resumed = evaluate(replace(config, seed=1), report=str)  # No part of before is taken.
    assert added in resumed.metrics


def test_missing_report_of_a_finished_evaluation_is_not_taken_for_whole(config, tmp_path):
    config = replace(config, out=str(tmp_path), num_images=1, baselines=())
    evaluate(config, report=str)
    (tmp_path / "report.html").unlink()
    lines: list[str] = []
    evaluate(config, report=lines.append)
    assert not any("reused" in line for line in lines)
    assert (tmp_path / "report.html").exists()


def test_report_shows_scores_pictures_and_lineage(evaluation):

    page = Path(evaluation.files["report"]).read_text()
    psnr = evaluation.scores["telea"]["all"]["hole_psnr"].mean
    for expected in (
        f"{psnr:.2f}",
        "data:image/png;base64,",
        "navier-stokes" if "navier-stokes" in evaluation.methods else "mean-fill",
        evaluation.checkpoint["digest"],
        evaluation.data["digest"],
        "masks.recipe",
        "<svg",
        "less than the best baseline, telea",
    ):
        assert expected in page


def test_tables_for_machines_and_people_hold_the_same_numbers(evaluation):

    lines = list(csv.DictReader(Path(evaluation.files["spreadsheet"]).read_text().splitlines()))
    assert len(lines) == 3 * 3 * len(METRICS)
    row = next(
        r for r in lines if (r["method"], r["group"], r["metric"]) == ("telea", "all", "hole_psnr")
    )
    assert float(row["mean"]) == evaluation.scores["telea"]["all"]["hole_psnr"].mean
    text = Path(evaluation.files["table"]).read_text()
    assert f"{float(row['mean']):.2f}" in text


def test_missing_checkpoint_is_one_sentence(config, tmp_path):
    with pytest.raises(UserError, match="is not a checkpoint"):
        prepare(replace(config, checkpoint=str(tmp_path)))


def test_missing_test_set_is_one_sentence(config, tmp_path):
    with pytest.raises(UserError, match="is not a finished shard set"):
        prepare(replace(config, shards=str(tmp_path)))


def test_a_folder_without_evaluation_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no finished evaluation"):
        load_evaluation(str(tmp_path))
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(UserError, match="is not of format 1"):
        load_evaluation(str(tmp_path))
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_evaluation(str(tmp_path))


def test_actors_are_no_more_than_the_cluster_has_resources_for(config, ray_local):
    cpus = int(ray.cluster_resources()["CPU"])
    assert _num_actors(replace(config, num_actors=3, cpus_per_actor=cpus)) == 1
    assert _num_actors(replace(config, num_actors=3)) == min(3, cpus)
    with pytest.raises(UserError, match="--cpus-per-actor or --gpus-per-actor"):
        _num_actors(replace(config, cpus_per_actor=cpus + 1))
    with pytest.raises(UserError, match="has 4 CPU and 0 GPU"):
        _num_actors(replace(config, gpus_per_actor=0.5))


@pytest.mark.parametrize("num_actors", [0, 1])
def test_damaged_image_ends_in_a_sentence_that_names_it(
    config, test_set, tmp_path, num_actors, ray_local
):

    copy = tmp_path / "copy"
    shutil.copytree(test_set, copy)
    row = read_manifest(str(copy)).row(0)
    tar = sorted(copy.glob("*.tar"))[0]
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 100] ^= 255
    tar.write_bytes(data)
    out = tmp_path / "out"
    broken = replace(config, shards=str(copy), out=str(out), num_actors=num_actors)
    with pytest.raises(UserError, match=f"{row['key']}.* is damaged") as caught:
        evaluate(broken, report=str)
    assert "\n" not in str(caught.value)
    assert not (out / "scores.json").exists()


def test_tars_without_a_manifest_are_evaluated(config, test_set, tmp_path, ray_local):
    """The same images as through the manifest; one that cannot be read is named and left out."""
    manifest, tars = read_manifest(test_set), tmp_path / "tars"
    tars.mkdir()
    shutil.copy(manifest.shard_location(0), tars)
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff not an image")
    with tarfile.open(tars / "more.tar", "w") as tar:
        tar.add(tmp_path / "1.jpg", "1.jpg")
    name = f"{tars}/{{{manifest.shards[0].name.removesuffix('.tar')},more}}.tar"
    lines: list[str] = []
    found = evaluate(
        replace(config, shards=name, out=str(tmp_path / "out"), num_actors=1), report=lines.append
    )
    rows = pq.read_table(found.files["rows"]).to_pylist()
    first = manifest.samples.slice(0, manifest.counts[0])["key"].to_pylist()
    stem = manifest.shards[0].name.removesuffix(".tar")
    assert {row["key"] for row in rows} == {f"{stem}/{key}" for key in first}
    assert any(line.startswith("left out: more/1: ") for line in lines)
    with tarfile.open(tars / "two.tar", "w") as tar:
        for member in ("1.image.jpg", "1.mask.png"):
            tar.add(tmp_path / "1.jpg", member)
    with pytest.raises(UserError, match=r"name the one to read, --image-member image\.jpg, or"):
        prepare(replace(config, shards=f"{tars}/two.tar"))


def test_several_samples_of_a_network_with_one_result_are_refused(config):
    with pytest.raises(UserError, match="spn as configured generates one result per pair, not 5"):
        prepare(replace(config, samples=5))


def test_metric_that_is_not_defined_on_small_images_is_refused_at_once(config):
    with pytest.raises(UserError, match=r"MS-SSIM \(ms_ssim\) is not defined below 161 px"):
        prepare(replace(config, metrics=("ms_ssim",)))


def test_protocol_stands_beside_its_papers_figures(config, tmp_path):
    config = EvaluationConfig(
        checkpoint=config.checkpoint,
        shards=config.shards,
        out=str(tmp_path),
        protocol="spn-paris",
        num_images=1,
        baselines=("mean-fill",),
        num_actors=0,
    )
    evaluation = evaluate(config, report=str)
    assert evaluation.groups == ["0-0.2", "0.2-0.4", "0.4-0.6", "all"]
    assert evaluation.data["image_size_px"] == 256
    assert [metric.name for metric in evaluation.metrics][-2:] == ["uniform_ssim_11", "grey_l1"]
    page = Path(evaluation.files["report"]).read_text()
    for expected in (
        "Beside the papers: spn-paris",
        "SPN, Table 1",
        "<td>29.69</td>",
        "not computed: weights not given",
        "measured here",
    ):
        assert expected in page
    quoted = [line for line in page.splitlines() if 'class="quoted"' in line]
    assert len(quoted) == 8 * 4
    assert not any("measured here" in line for line in quoted)


def test_mask_file_that_marks_nothing_is_named_before_anything_is_scored(config, tmp_path):
    picture = np.zeros((40, 40), np.uint8)
    picture[10:20, 5:30] = 1
    cv2.imwrite(str(tmp_path / "labels.png"), picture)
    labels = MaskConfig(recipe="files", folder=str(tmp_path))
    with pytest.raises(UserError, match=r"labels\.png cannot be used.*masks\.threshold=0"):
        prepare(replace(config, masks=labels))
    pairs = prepare(replace(config, masks=replace(labels, threshold=0))).pairs
    assert 0.1 < pairs.mask(pairs[0]).hole_ratio <= 0.2
