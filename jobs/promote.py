"""Make a checkpoint a version of a model, and its champion; or take the last promotion back.

python jobs/promote.py --checkpoint runs/train --scores runs/evaluation --minimum hole_psnr=20
python jobs/promote.py --checkpoint spn@challenger
python jobs/promote.py --name spn --rollback

A checkpoint whose scores fail a gate is not promoted. As tags in the MLflow model registry the
version keeps its configuration, the digest of its data, its mask recipe, the file of pairs it was
scored on, its scores, the git commit, package versions and the time it takes for a picture. A
running `jobs/serve.py` picks a new champion up by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from infill.pipeline import storage
from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.result import SCORES, Evaluation, load_evaluation
from infill.pipeline.registry import (
    CHAMPION,
    RegistryConfig,
    Version,
    champion,
    measure_latency,
    register,
    resolve,
    rollback,
    trace_lineage,
)
from infill.pipeline.registry.gates import Gate, parse_gate, require, require_about


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """What to promote, and what it has to show."""

    checkpoint: str = ""
    """A checkpoint, a run (its newest checkpoint), or a version such as ``spn@challenger``."""
    name: str = "spn"
    """The model's name in the registry."""
    alias: str = CHAMPION
    """What the version becomes: champion, challenger, or a word of your own."""
    scores: str = ""
    """The evaluation of this checkpoint: its folder or its scores.json."""
    minimum: tuple[str, ...] = ()
    """Gates such as ``hole_psnr=20`` or ``hole_psnr:0.4-0.5=18``: the least score allowed."""
    maximum: tuple[str, ...] = ()
    """Gates such as ``hole_l1=0.08``: the greatest score allowed."""
    rollback: bool = False
    """Withdraw the champion and restore the one before, instead of promoting."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """Where versions are kept."""

    @property
    def gates(self) -> list[Gate]:
        """Every bound that was asked for."""
        return [parse_gate(text, "minimum") for text in self.minimum] + [
            parse_gate(text, "maximum") for text in self.maximum
        ]


def promote(config: PromoteConfig) -> Version:
    """Check a checkpoint against its gates and register it.

    Returns:
        The new version, or the present champion if it is this very checkpoint.

    Raises:
        UserError: naming the gate that fails, or what is missing.
    """
    if not config.checkpoint:
        raise UserError("give --checkpoint to promote one, or --rollback to undo a promotion")
    gates = config.gates
    if gates and not config.scores:
        raise UserError("gates need --scores: the folder that `python jobs/evaluate.py` wrote")
    before = champion(config.registry, config.name)
    found = resolve(config.registry, config.checkpoint)
    evaluation = _evaluation(config.scores, found.digest)
    if evaluation:
        require(gates, evaluation)
    if config.alias == CHAMPION and before and before.digest == found.digest:
        return before
    cost = measure_latency(found.location)
    lineage = trace_lineage(found.location, _kept_scores(evaluation), cost)
    return register(
        config.registry,
        found.location,
        config.name,
        lineage,
        alias=config.alias,
        successor_to=before.number if before else 0,
    )


def _evaluation(scores: str, digest: str) -> Evaluation | None:
    if not scores:
        return None
    evaluation = load_evaluation(scores.removesuffix(SCORES).rstrip("/") or ".")
    require_about(evaluation, digest)
    return evaluation


def _kept_scores(evaluation: Evaluation | None) -> dict[str, object]:
    """Return what of an evaluation belongs to a version: means, and of which pairs."""
    if evaluation is None:
        return {}
    by_group = {
        group: {name: score.mean for name, score in found.items()}
        for group, found in evaluation.scores[evaluation.network].items()
    }
    if not storage.exists(evaluation.files["pairs"]):
        raise UserError(
            f"{evaluation.out} has lost its pairs.parquet, so nobody could tell what it scored; "
            "evaluate again"
        )
    pairs = storage.sha256(storage.read(evaluation.files["pairs"]))
    kept = {"scores": by_group, "data": evaluation.data, "digest": evaluation.digest}
    return {**kept, "pairs_sha256": pairs}


def line(version: Version, alias: str) -> str:
    """Return what the job prints."""
    psnr = version.lineage.scores.get("scores", {}).get("all", {}).get("hole_psnr")
    shown = f"  hole PSNR {psnr:.2f} dB" if psnr is not None else ""
    return f"{version.name}@{version.number}  {alias}  digest {version.digest[:12]}{shown}"


def main(words: Sequence[str] | None = None) -> None:
    """Promote or roll back, and say which version it is now."""
    config = parse_one(PromoteConfig, __doc__ or "", words)
    if config.rollback:
        config = replace(config, alias=CHAMPION)
        version = rollback(config.registry, config.name)
    else:
        version = promote(config)
    print(line(version, config.alias))


if __name__ == "__main__":
    run(main)
