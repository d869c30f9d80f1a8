import re
from pathlib import Path

import pytest

from infill.pipeline.sharding import ShardConfig, make_shards


@pytest.fixture
def checkpoint(untrained) -> str:
    return untrained("spn")


@pytest.fixture(scope="module")
def test_set(photographs: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("shards")
    config = ShardConfig(source=photographs, out=str(out), test_share=0.25, val_share=0.2)
    make_shards(config, report=lambda line: None)
    return str(out / "test")


def test_job_prints_the_tables_and_where_everything_is(checkpoint, test_set, tmp_path, run_job):
    words = ["--checkpoint", checkpoint, "--shards", test_set, "--out", str(tmp_path / "out")]
    words += ["--buckets", "0.1", "0.2", "0.2", "0.3", "--masks.recipe", "box"]
    done = run_job("evaluate", *words)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "| PSNR hole (dB)  |" in printed
    assert re.search(r"\| PSNR hole \(dB\) \| +0.1-0.2 \| +0.2-0.3 \| +all \|", printed)
    for name in ("spn", "mean-fill", "telea", "navier-stokes"):
        assert name in printed
    locations = [line.split()[-1] for line in printed.splitlines() if f" {tmp_path}" in line]
    locations = [word for word in locations if word.startswith("/")]  # Not the next command.
    assert len(locations) >= 7
    assert all(Path(location).exists() for location in locations)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--checkpoint", "nowhere", "--shards", "{set}"), "nowhere is not a checkpoint"),
        (("--checkpoint", "{checkpoint}", "--shards", "nowhere"), "is not a finished shard set"),
        (
            ("--checkpoint", "{checkpoint}", "--shards", "{set}", "--image-size-px", "4000"),
            "smaller than the crop of 4000 px",
        ),
        (
            ("--checkpoint", "{checkpoint}", "--shards", "{set}", "--num-images", "4000"),
            "fewer than --num-images 4,000; lower it",
        ),
    ],
)
def test_mistakes_end_in_one_sentence_before_ray_starts(
    words, complaint, checkpoint, test_set, run_job
):
    words = [word.format(checkpoint=checkpoint, set=test_set) for word in words]
    ended = run_job("evaluate", *words, ray=False)
    assert ended.returncode == 1
    assert complaint in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert re.fullmatch(r"evaluation of .* on .*: reading both \.\.\.\n", ended.stdout)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--bucket", "1"), "--bucket"),
        (("--baselines", "photoshop"), "unknown baseline 'photoshop'"),
        (("--batch-size", "0"), "batch_size must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_with_status_2(words, complaint, run_job):
    ended = run_job("evaluate", "--checkpoint", "c", "--shards", "s", *words, ray=False)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_explains_every_field(run_job):
    ended = run_job("evaluate", "--help")
    assert ended.returncode == 0
    for words in (
        "--checkpoint",
        "--masks.recipe",
        "--buckets",
        "--gpus-per-actor",
        "whose newest",
    ):
        assert words in ended.stdout
