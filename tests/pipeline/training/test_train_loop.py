"""A run from its first step to its last, stopped and resumed."""

import errno
import json
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infill.pipeline import checkpoints
from infill.pipeline.config import override
from infill.pipeline.error_sentences import explain
from infill.pipeline.errors import UserError
from infill.pipeline.loading import InpaintingDataset
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import HOLE_RATIO_BUCKETS
from infill.pipeline.metrics.metric_registry import VALIDATED
from infill.pipeline.training import NonFiniteLossError, find_sets, launch, train
from infill.pipeline.training.validation import Validator


def test_a_run_leaves_checkpoints_scores_grids_and_its_configuration(finished):
    config, result = finished.config, finished.result
    run = Path(config.storage)
    assert result.checkpoint.startswith(str(run / "checkpoints"))
    overall = {metric.name for metric in VALIDATED}
    assert overall >= {"hole_psnr", "psnr", "hole_l1"}
    ranges = {f"hole_psnr/{low:g}-{high:g}" for low, high in HOLE_RATIO_BUCKETS}
    assert overall < set(result.scores) <= overall | ranges
    of_ranges = [result.scores[name] for name in set(result.scores) & ranges]
    assert min(of_ranges) <= result.scores["hole_psnr"] <= max(of_ranges)
    assert checkpoints.steps(config.storage) == [2, 4, 6]
    assert (run / "samples" / "step-000000006.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "config.json").read_text())["model"]["architecture"] == "spn"
    text = "\n".join(finished.lines)
    for word in ("prior", "image", "adversarial", "discriminator", "samples_per_s", "left"):
        assert word in text
    assert "data_wait_share" in text


def test_run_without_validation_saves_checkpoints_and_neither_scores_nor_grids(config):
    lines: list[str] = []
    train(replace(config, steps=2, sample_every_steps=1, validation_samples=0), lines.append)
    assert checkpoints.steps(config.storage) == [2]
    assert not any("nan" in line or "hole_psnr" in line for line in lines)
    assert not Path(config.storage, "samples").exists()


def test_validation_takes_centred_crops_without_any_augmentation(config, shards, monkeypatch):
    data = replace(config.data, quarter_turns=True, colour_jitter=0.5, seed=7)
    manifest = read_manifest(find_sets(shards)[0])
    plain = replace(data, crop="centre", horizontal_flip=False, quarter_turns=False)
    plain = InpaintingDataset(replace(plain, colour_jitter=0.0, seed=0), manifest)
    validator = Validator(replace(config, data=data), torch.device("cpu"), manifest)
    for row, (pixels, hole) in zip((0, len(manifest) - 1), validator.pairs[::3], strict=True):
        assert (pixels == plain.make(row, 0).pixels).all()
        assert (hole == plain.make(row, 0).hole).all()

    def further(transform, pixels, *about, **settings):
        return 255 - pixels

    monkeypatch.setattr(InpaintingDataset, "augmented", further)
    again = Validator(replace(config, data=data), torch.device("cpu"), manifest)
    assert (again.pairs[0][0] == validator.pairs[0][0]).all()
    assert (InpaintingDataset(data, manifest).make(0, 0).pixels != again.pairs[0][0]).any()


def test_training_continues_while_a_checkpoint_is_scored(config, monkeypatch):
    """Scores of step 2 are held back until step 3 has been reported: nobody waits for them."""
    later, held = threading.Event(), []

    def scores(validator, generator):
        if not held:
            held.append(later.wait(60))
        return {"hole_psnr": 1.0}

    def log(line):
        if " step 3/" in line:
            later.set()

    monkeypatch.setattr(Validator, "scores", scores)
    train(override(config, {"report_every_steps": 1}), log)
    assert held == [True]
    assert checkpoints.read_state(checkpoints.step_location(config.storage, 2))["step"] == 2


def test_what_goes_wrong_while_a_checkpoint_is_written_ends_the_run(config, monkeypatch, quietly):
    full = OSError(errno.ENOSPC, "No space left on device")

    def write(*everything):
        raise full

    monkeypatch.setattr(checkpoints, "write", write)
    with pytest.raises(OSError, match="No space left"):
        train(config, quietly)
    assert checkpoints.steps(config.storage) == []


def test_a_training_computes_with_the_threads_that_are_asked_for(config, quietly):
    before, seen = torch.get_num_threads(), []

    def look(record):
        if record.kind == "losses":  # Reported by the thread that takes the steps.
            seen.append(torch.get_num_threads())

    asked = before + 2
    train(replace(config, num_threads_per_worker=asked), quietly, look)
    assert seen == [asked] * 3
    assert torch.get_num_threads() == before
    seen.clear()
    train(replace(config, storage=f"{config.storage}-as-is"), quietly, look)
    assert seen == [before] * 3


def test_workers_on_a_cluster_compute_with_the_threads_that_are_asked_for(config, ray_local):
    lines = []
    train(replace(config, num_workers=1, num_threads_per_worker=3, steps=1), lines.append)
    assert any("PyTorch computes with 3 threads in each worker" in line for line in lines)


def test_gradient_norms_and_learning_rates_are_written_down(config, quietly):
    train(override(config, {"max_gradient_norm": 0.5}), quietly)
    [file] = Path(config.storage).glob("progress-*.jsonl")
    lines = file.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    values = next(record["values"] for record in records if record["kind"] == "losses")
    for role in ("generator", "discriminator"):
        assert values[f"gradient_norm/{role}"] > 0
        assert values[f"learning_rate/{role}"] == config.model.learning_rate
    assert 0 < values["accuracy/discriminator"] < 1


def test_resumed_run_equals_uninterrupted_run(
    config, finished, quietly, weights, largest_difference
):
    interrupted = override(config, {"steps": 3})
    train(interrupted, quietly)
    lines = []
    train(override(interrupted, {"steps": 6}), lines.append)
    assert any("resuming at step 3" in line for line in lines)
    ours, theirs = weights(finished.config.storage, 6), weights(interrupted.storage, 6)
    assert largest_difference(ours, theirs) == 0


def test_a_scheduled_run_that_was_interrupted_equals_one_that_was_not(
    config, tmp_path, quietly, weights, largest_difference
):
    changes = {
        "model.optimizer.name": "adamw",
        "model.optimizer.weight_decay": 0.1,
        "model.schedule.name": "cosine",
        "model.schedule.warmup_steps": 2,
        "report_every_steps": 1,
    }
    whole = override(config, changes)
    rates = {}

    def watch(record):
        if record.kind == "losses":
            rates[record.step] = record.values["learning_rate/generator"]

    train(whole, quietly, watch)
    base = config.model.learning_rate
    assert [rates[step] / base for step in (1, 2, 3)] == pytest.approx([0.5, 1, 1])
    assert base > rates[4] > rates[5] > rates[6] > 0

    def stop(record):
        if record.kind == "losses" and record.step == 4:
            raise KeyboardInterrupt

    stopped = override(whole, {"storage": str(tmp_path / "stopped")})
    with pytest.raises(KeyboardInterrupt):
        train(stopped, quietly, stop)
    lines = []
    train(stopped, lines.append)
    assert any("resuming at step 2" in line for line in lines)
    ours, theirs = weights(whole.storage, 6), weights(stopped.storage, 6)
    assert largest_difference(ours, theirs) == 0


def test_another_optimizer_does_not_go_on_from_a_checkpoint(config, finished, quietly):
    other = {"model.optimizer.name": "sgd", "resume_from": finished.result.checkpoint, "steps": 8}
    with pytest.raises(UserError, match=r"model\.optimizer\.name is 'adam'.*--init-from"):
        train(override(config, other), quietly)


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    config, finished, quietly, weights, largest_difference
):
    broken = override(config, {"steps": 4})
    train(broken, quietly)
    newest = Path(checkpoints.step_location(broken.storage, 4)) / "generator.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    lines = []
    train(override(broken, {"steps": 6}), lines.append)
    assert any("damaged" in line for line in lines)
    assert any("resuming at step 2" in line for line in lines)
    ours, theirs = weights(finished.config.storage, 6), weights(broken.storage, 6)
    assert largest_difference(ours, theirs) == 0


def test_workers_that_find_the_last_step_taken_take_no_more(
    config, finished, weights, largest_difference
):
    shutil.copytree(finished.config.storage, config.storage)
    before = weights(config.storage, 6)
    launch(config, lambda record: None)
    assert largest_difference(before, weights(config.storage, 6)) == 0


def test_a_finished_run_is_reused_and_says_so(finished, quietly):
    again = train(finished.config, quietly)
    assert again.reused
    assert not finished.result.reused
    assert again.checkpoint == finished.result.checkpoint


def test_a_run_on_s3_is_saved_and_resumed_there(config, finished, bucket, quietly):
    remote = override(config, {"storage": bucket, "steps": 3})
    train(remote, quietly)
    lines = []
    result = train(override(remote, {"steps": 6}), lines.append)
    assert any("resuming at step 3" in line for line in lines)
    assert result.checkpoint.startswith("s3://")
    loaded = checkpoints.load_generator(result.checkpoint)
    there = checkpoints.step_location(finished.config.storage, loaded.step)
    ours = checkpoints.load_generator(there)
    expected = ours.generator.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.generator.state_dict().items())


def test_another_model_in_the_same_folder_is_refused_by_field(finished, quietly):
    changed = override(finished.config, {"model.image_weight": 1.0, "steps": 7})
    with pytest.raises(UserError, match=r"another model.image_weight; give a new --storage"):
        train(changed, quietly)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(
    config, quietly
):
    train(override(config, {"steps": 2}), quietly)
    generator = Path(checkpoints.step_location(config.storage, 2))
    good = checkpoints.verify(str(generator))
    spoilt = override(config, {"storage": config.storage + "-spoilt", "model.learning_rate": 1e10})
    with pytest.raises(NonFiniteLossError, match=r"the loss '\w+' is not finite at step \d"):
        train(override(spoilt, {"save_every_steps": 1}), quietly)
    diverged = pickle.loads(pickle.dumps(NonFiniteLossError("image", 7)))  # As from a worker.
    assert str(explain(diverged)).startswith(
        "the loss 'image' is not finite at step 7: lower model."
    )
    last = checkpoints.latest(spoilt.storage, quietly)
    assert last is not None
    assert checkpoints.verify(str(generator)) == good


def test_fine_tuning_starts_from_weights_alone(config, finished, quietly, weights):
    tuned = override(config, {"init_from": finished.result.run, "steps": 1})
    tuned = override(tuned, {"model.learning_rate": 1e-12, "model.image_weight": 1.0})
    train(tuned, quietly)
    start = weights(finished.config.storage, 6)["ema"]
    moved = weights(tuned.storage, 1)["generator"]
    assert all(torch.allclose(start[name], moved[name], atol=1e-6) for name in start)
    state = checkpoints.read_state(checkpoints.step_location(tuned.storage, 1))
    assert state["step"] == 1


def test_tars_without_a_manifest_train_and_go_on(config, shards, quietly):
    """The run says first that exact resume is lost; scores come from a named validation set."""
    tars = sorted(path.name for path in Path(shards, "train").glob("*.tar"))
    data = {
        "data.shards": f"{shards}/train/{{{','.join(tars)}}}".replace(".tar", "") + ".tar",
        "data.validation_shards": f"{shards}/val",
    }
    config = override(config, data)
    lines: list[str] = []
    first = train(override(config, {"steps": 4}), lines.append)
    assert lines[0].startswith(config.data.shards)
    assert "a resumed run starts a new pass over the data" in lines[0]
    assert first.scores["hole_psnr"] > 0
    assert train(config, quietly).step == 6
    assert checkpoints.steps(config.storage) == [2, 4, 6]
    with pytest.raises(UserError, match=r"names 1 tar for 2 workers, and each needs one"):
        train(
            override(config, {"data.shards": f"{shards}/train/{tars[0]}", "num_workers": 2}),
            quietly,
        )
    with pytest.raises(UserError, match=r"there is no tar .*/shard-8.tar; .*2 are missing in all"):
        train(override(config, {"data.shards": f"{shards}/train/shard-{{8..9}}.tar"}), quietly)
