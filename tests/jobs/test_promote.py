import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infill.jobs.promote import PromoteConfig, promote
from infill.models.architecture import load
from infill.pipeline import checkpoints
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.result import Evaluation, save_evaluation
from infill.pipeline.evaluation.scores import Score
from infill.pipeline.metrics.metric_registry import METRICS
from infill.pipeline.registry import RegistryConfig, champion, resolve


@pytest.fixture
def registry(tmp_path, migrated_database) -> RegistryConfig:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return RegistryConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts")
    )


@pytest.fixture
def checkpoint(untrained) -> Callable[[int], str]:
    """Return a checkpoint by its seed."""
    return lambda seed: untrained("spn", seed)


def evaluation(folder: Path, location: str, psnr: float) -> str:
    """Write scores.json as an evaluation does."""
    score = Score(mean=psnr, low=psnr - 1, high=psnr + 1, n=4, photographs=4)
    groups = {g: {m.name: score for m in METRICS} for g in ("0.4-0.5", "all")}
    out = str(folder / "evaluation")
    save_evaluation(
        Evaluation(
            out=out,
            digest="e" * 64,
            settings={},
            checkpoint={
                "location": location,
                "digest": checkpoints.digest(location),
                "architecture": "spn",
                "step": 1,
            },
            data={"location": "test", "digest": "t" * 64, "images": 4, "pairs": 4},
            scores={"spn": groups},
            cost={},
        )
    )
    (folder / "evaluation" / "pairs.parquet").write_bytes(b"pairs")
    return out


def test_promoted_version_keeps_its_lineage(checkpoint, registry, tmp_path):
    location = checkpoint(1)
    scores = evaluation(tmp_path, location, 21.0)
    version = promote(
        PromoteConfig(
            checkpoint=location,
            scores=f"{scores}/scores.json",
            minimum=("hole_psnr=20", "hole_psnr:0.4-0.5=20.5"),
            registry=registry,
        )
    )
    kept = champion(registry, "spn")
    assert kept == version
    assert kept.lineage.manifest_digest == "d" * 64
    assert kept.lineage.mask_recipe == {"recipe": "irregular"}
    assert kept.lineage.configuration["model"]["architecture"] == "spn"
    assert kept.lineage.scores["scores"]["all"]["hole_psnr"] == 21.0
    assert kept.lineage.scores["data"]["digest"] == "t" * 64
    assert "torch" in kept.lineage.packages
    assert kept.lineage.scores["pairs_sha256"] == hashlib.sha256(b"pairs").hexdigest()
    generator = load("spn").generator(load("spn").config.tiny())
    assert kept.lineage.cost["parameters"] == sum(w.numel() for w in generator.parameters())
    assert kept.lineage.cost["side_px"] == 32
    assert 0 < kept.lineage.cost["latency_ms"] < 10_000
    assert kept.lineage.cost["processor"]


def test_scores_of_unknown_pairs_are_refused(checkpoint, registry, tmp_path):
    location = checkpoint(1)
    scores = evaluation(tmp_path, location, 21.0)
    (tmp_path / "evaluation" / "pairs.parquet").unlink()
    with pytest.raises(UserError, match=r"lost its pairs\.parquet"):
        promote(PromoteConfig(checkpoint=location, scores=scores, registry=registry))


def test_failing_gate_is_named_and_nothing_is_registered(checkpoint, registry, tmp_path):
    location = checkpoint(1)
    config = PromoteConfig(
        checkpoint=location,
        scores=evaluation(tmp_path, location, 21.0),
        minimum=("hole_psnr=20", "psnr=25"),
        maximum=("hole_l1:0.4-0.5=0.1",),
        registry=registry,
    )
    with pytest.raises(UserError) as caught:
        promote(config)
    assert "minimum psnr=25 (found 21)" in str(caught.value)
    assert "maximum hole_l1:0.4-0.5=0.1" in str(caught.value)
    assert "hole_psnr=20" not in str(caught.value)
    assert champion(registry, "spn") is None


def test_same_checkpoint_is_not_registered_twice(checkpoint, registry, tmp_path):
    config = PromoteConfig(checkpoint=checkpoint(1), registry=registry)
    assert promote(config) == promote(config)


def test_challenger_can_be_promoted_by_its_name(checkpoint, registry, tmp_path):
    promote(PromoteConfig(checkpoint=checkpoint(1), registry=registry))
    second = checkpoint(2)
    promote(PromoteConfig(checkpoint=second, alias="challenger", registry=registry))
    assert resolve(registry, "spn").version == "1"
    promote(PromoteConfig(checkpoint="spn@challenger", registry=registry))
    assert resolve(registry, "spn").digest == checkpoints.digest(second)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoint": ""}, "give --checkpoint"),
        ({"minimum": ("hole_psnr=20",)}, "gates need --scores"),
        ({"minimum": ("hole_psnr>20",)}, "is not a gate"),
        ({"checkpoint": "/nothing/here"}, "is not a checkpoint"),
        ({"scores": "/nothing/here"}, "no finished evaluation"),
    ],
)
def test_mistakes_end_in_a_sentence(checkpoint, registry, tmp_path, changes, sentence):
    config = {"checkpoint": checkpoint(1), "registry": registry, **changes}
    with pytest.raises(UserError, match=sentence):
        promote(PromoteConfig(**config))


def test_unknown_metric_and_foreign_scores_are_refused(checkpoint, registry, tmp_path):
    first, second = checkpoint(1), checkpoint(2)
    scores = evaluation(tmp_path, first, 21.0)
    with pytest.raises(UserError, match="'lpips' was not measured; there are hole_psnr"):
        promote(
            PromoteConfig(checkpoint=first, scores=scores, minimum=("lpips=1",), registry=registry)
        )
    with pytest.raises(UserError, match="of another checkpoint"):
        promote(PromoteConfig(checkpoint=second, scores=scores, registry=registry))


def test_command_prints_one_line_and_rolls_back(tmp_path, checkpoint, run_job):
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return run_job("promote", *words, cwd=tmp_path)

    for seed in (1, 2):
        location = checkpoint(seed)
        done = command("--checkpoint", location)
        digest = checkpoints.digest(location)[:12]
        assert done.returncode == 0
        assert done.stdout.splitlines()[0] == f"promotion of {location} to spn@champion ..."
        assert f"\nspn@{seed}  champion  digest {digest}\nno scores were given" in done.stdout
        assert done.stderr == ""
    back = command("--rollback").stdout.splitlines()
    assert back[0] == "rollback of spn ..."
    assert back[2].startswith("spn@1  champion")
    again = command("--rollback")
    assert again.returncode == 1
    assert again.stderr.startswith("error: spn@1 is the only champion")
    assert again.stderr.count("\n") == 1


def test_champion_below_the_baselines_is_made_only_if_asked_for(checkpoint, registry, tmp_path):
    location = checkpoint(1)
    scores = evaluation(tmp_path, location, 21.0)
    written = Path(scores, "scores.json")
    kept = json.loads(written.read_text())
    kept["scores"]["telea"] = json.loads(json.dumps(kept["scores"]["spn"]).replace("21.0", "28.6"))
    written.write_text(json.dumps(kept))
    config = PromoteConfig(checkpoint=location, scores=scores, registry=registry)
    with pytest.raises(UserError, match=r"not promoted: spn inpaints holes at 21.00 dB, and telea"):
        promote(config)
    assert champion(registry, "spn") is None
    version = promote(replace(config, below_baselines=True))
    assert champion(registry, "spn") == version
