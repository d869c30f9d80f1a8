"""The plan of a search, before it spends anything; and trials that share a GPU."""

import importlib.util

import pytest
import torch

from infill.jobs import plan, train_unet, tune
from infill.models.config import names, tables
from infill.pipeline.cluster import cap_gpu_memory
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import PROTOCOLS
from infill.pipeline.tuning import TuneConfig
from infill.pipeline.tuning.ray_tuner import trial_resources

LAMBDAS = ["spn", "--space", "lambdas", "--num-trials", "4"]


def test_a_search_misses_its_weight_files_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dry in ([], ["--dry-run"]):
        with pytest.raises(UserError, match="needs teacher_weights"):
            tune.main([*LAMBDAS, "--scale", "paper", *dry])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_a_table_before_it_names_every_file_that_is_missing(capsys):
    with pytest.raises(UserError, match=r"needs detection_weights.*; .*needs segmentation_weights"):
        tune.main(["spn", "--space", "figure8", "--dry-run"])
    said = capsys.readouterr().out
    assert said.count("\nrow ") == len(tables("spn")["figure8"].rows)
    assert "\nprotocol " in said


def test_a_model_without_a_training_job_is_left_out_and_named_when_it_is_searched(monkeypatch):
    """Its author has not written the job yet; all others go on."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name.endswith(".train_unet") else find(name),
    )
    assert {name.partition("-")[0] for name in plan.presets()} == set(names()) - {"unet"}
    assert set(tune.presets_of("cpu")) == set(names()) - {"unet"}
    with pytest.raises(UserError, match=r"unet has no jobs/train_unet\.py with a preset"):
        tune.main(["unet", "--space", "lambdas"])


def test_a_search_needs_no_smoke_preset_of_its_model(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(train_unet.PRESETS, "smoke")
    space = tmp_path / "space.json"
    space.write_text('{"model.learning_rate": [1e-4, 1e-3]}')
    tune.main(["unet", "--space", str(space), "--dry-run"])
    assert "plan        2 trials of 4,000 steps" in capsys.readouterr().out
    space.write_text('{"model.optimizer.momentum": [0.5, 0.9]}')
    with pytest.raises(UserError, match="momentum has no effect here"):
        tune.main(["unet", "--space", str(space), "--dry-run"])


def test_trials_of_presets_for_gpus_take_one_each():
    for scale, gpus in (("paper", 1.0), ("smoke", 0.0)):
        found = {search.gpus_per_trial for search in tune.presets_of(scale).values()}
        assert found == {gpus}


@pytest.mark.parametrize(("share", "capped"), [(0.25, [0.25]), (1.0, []), (0.0, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch, share, capped):
    caps = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
    cap_gpu_memory(share)
    assert caps == capped


def test_impossible_numbers_of_gpus_and_processes_are_refused_in_a_sentence():
    train = tune.training_of("spn", "smoke")
    with pytest.raises(ValueError, match="gpus_per_trial above 1 must be a whole number, not 1.5"):
        TuneConfig(train=train, gpus_per_trial=1.5)
    for gpus, workers, right in ((8, 4, 8), (0.5, 2, 1), (1, 2, 1)):
        with pytest.raises(ValueError, match=f"workers_per_trial must be 0 or {right} with"):
            TuneConfig(train=train, gpus_per_trial=gpus, workers_per_trial=workers)


@pytest.mark.parametrize(
    ("fields", "bundles"),
    [
        ({}, [{"CPU": 2.0}]),
        ({"gpus_per_trial": 0.5}, [{"CPU": 2.0, "GPU": 0.5}]),
        ({"gpus_per_trial": 1}, [{"CPU": 2.0, "GPU": 1.0}]),
        ({"gpus_per_trial": 8}, [{"CPU": 2.0, "GPU": 1.0}] * 8),
        ({"workers_per_trial": 3}, [{"CPU": 2.0}] * 3),
    ],
)
def test_a_trial_reserves_all_of_its_processes_at_once(fields, bundles):
    smoke = tune.training_of("spn", "smoke")
    train = override(smoke, {"cpus_per_worker": 2.0, "worker_labels": ("zone=a",)})
    found = trial_resources(TuneConfig(train=train, **fields))
    assert found.bundles == bundles
    assert found.head_bundle_is_empty == (len(bundles) > 1)
    assert found._bound.kwargs["bundle_label_selector"] == [{"zone": "a"}] * len(bundles)


def test_a_dry_run_prints_trials_hours_and_cost_and_scales_the_batch_to_eight_gpus(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [*LAMBDAS, "--scale", "paper", "--train.model.teacher", "filterbank", "--gpu", "h100"]
    words += ["--price-per-gpu-hour", "2", "--currency", "EUR", "--dry-run"]
    words += ["--train.data.batch-size", "4", "--train.model.channels", "8"]
    words += ["--train.model.num-dense-blocks", "1", "--train.model.num-blocks", "1"]
    with pytest.raises(ValueError, match="must be a multiple of num_workers 8"):
        tune.main([*words, "--gpus-per-trial", "8"])
    capsys.readouterr()
    tune.main([*words, "--gpus-per-trial", "8", "--train.scale-batch", "linear"])
    eight = capsys.readouterr().out.splitlines()
    steps = tune.training_of("spn", "paper").steps
    assert eight[1] == f"plan        4 trials of {steps // 2:,} steps, 2 at a time, 8 GPUs each"
    tune.main(words)
    one = capsys.readouterr().out.splitlines()
    assert one[0] == "search over 'lambdas' around spn: checking data and settings ..."
    assert one[1] == f"plan        4 trials of {steps:,} steps, 2 at a time, 1 GPU each"
    assert "GPU-hours at most" in one[2]
    assert "of 494 TFLOP/s (H100)" in one[2]
    assert one[4].endswith(" EUR")

    def numbers(line):
        return [float(word.replace(",", "")) for word in line.split()[1:4:2]]

    # Half the steps, each of one sample a GPU, not of four.
    assert numbers(eight[2]) == pytest.approx(numbers(one[2]), rel=0.05)
    assert numbers(eight[3])[0] == pytest.approx(numbers(one[3])[0] / 8, rel=0.1)
    for said in (eight, one):
        assert numbers(said[4]) == pytest.approx(
            [2 * hours for hours in numbers(said[2])], rel=0.05
        )
    assert list(tmp_path.iterdir()) == []


FILES = {
    "spn": (
        *("--train.model.teacher", "filterbank", "--train.model.perceptual-weights", "random"),
        *("--train.model.num-dense-blocks", "1"),
    ),
    "madf": ("--train.model.perceptual-weights", "random"),
    "deepgin": ("--train.model.perceptual-weights", "random"),
}
"""Instead of the files of weights of the networks behind the losses; SPN's has few layers."""
PAPER_TABLES = [(name, table) for name in names() for table in tables(name)]


@pytest.mark.parametrize(("name", "table"), PAPER_TABLES)
def test_a_dry_run_of_every_table_prints_rows_training_protocol_and_cost(
    name, table, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # Another test has the files, which are looked for by building the networks of every row.
    monkeypatch.setattr(tune.training, "require_weights", lambda config: None)
    price = ("--price-per-gpu-hour", "2")
    narrow = ("--train.model.channels", "8", *FILES.get(name, ()))
    words = [name, "--space", f"{name}-{table}", "--scale", "paper", *narrow, *price]
    tune.main([*words, "--dry-run"])
    said = capsys.readouterr().out.splitlines()
    printed, protocol = tables(name)[table], PROTOCOLS[tables(name)[table].protocol]
    lines = {line.split()[0]: line for line in said if line}
    assert lines["plan"].startswith(f"plan        {len(printed.rows)} trials of ")
    assert "GPU-hours" in lines["computing"]
    assert lines["cost"].endswith(" USD")
    assert printed.title in lines["table"]
    assert f"the preset {printed.preset} of the paper" in lines["training"]
    assert lines["protocol"].startswith(f"protocol    {protocol.name}: ")
    size = "original sizes in pieces of 256 px" if name == "deepgin" else "images at 256 px"
    assert lines["evaluated"].startswith(f"evaluated   {size}, ")
    assert ("the best of 5 samples" in lines["evaluated"]) == table.startswith("table2-")
    assert all(f" {group.name} " in lines["evaluated"] for group in protocol.groups)
    rows = [line for line in said if line.startswith("row ")]
    for row, line in zip(printed.rows, rows, strict=True):
        assert row.label in line
        assert all(f"{metric} {figure}" in line for metric, figure in row.published.items())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_a_test_set_of_another_size_than_the_papers(
    shards, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ("spn", "--space", "spn-table4", "--scale", "smoke", "--train.data.source", "")
    tune.main([*words, "--table.test-shards", f"{shards}/test", "--dry-run"])
    said = capsys.readouterr().out
    assert "\nimages      the paper's figures are of 100 images, these are of 8\n" in said


def test_a_search_asks_for_no_more_trials_than_its_space_has(capsys, tmp_path):
    (tmp_path / "space.json").write_text('{"model.num_blocks": [1, 2], "model.image_weight": [1]}')
    words = ["spn", "--scale", "smoke", "--space", str(tmp_path / "space.json")]
    for algorithm in ("tpe", "random", "asha"):
        tune.main([*words, "--algorithm", algorithm, "--num-trials", "9", "--dry-run"])
        said = capsys.readouterr().out
        assert "plan        2 trials" in said
        assert "9 trials are asked for: the space has 2 different ones\n" in said


def test_a_logger_that_does_not_exist_is_refused_with_the_plan(capsys):
    with pytest.raises(SystemExit) as refused:
        tune.main([*LAMBDAS, "--scale", "smoke", "--dry-run", "--train.tracking.loggers", "log"])
    assert refused.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "there is no logger 'log'; there are terminal, jsonl" in said
