"""Register a checkpoint as a model's version and champion, or roll the last promotion back.

python jobs/promote.py --checkpoint runs/train --scores runs/evaluation --minimum hole_psnr=20
python jobs/promote.py --checkpoint spn@challenger
python jobs/promote.py --name spn --rollback

A checkpoint is not promoted if its scores fail a gate, or are below those of OpenCV's Telea or
Navier-Stokes. The MLflow model registry records the version's lineage as tags: configuration, data
digest, mask recipe, test pairs, scores, git commit, package versions and latency. A running
`jobs/serve.py` loads a new champion without a restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from infill.pipeline import evaluation, registry, storage
from infill.pipeline.commands import typed
from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.job_summary import inpaint_command, registry_words, report_results
from infill.pipeline.pretrained import shown_name
from infill.pipeline.progress import Progress
from infill.pipeline.registry.config import CHAMPION, RegistryConfig

if TYPE_CHECKING:
    from infill.pipeline.evaluation import Evaluation
    from infill.pipeline.evaluation.gates import Gate
    from infill.pipeline.registry import Version


WITHOUT_SCORES = (
    "no scores were given, so nothing compares it with Telea and Navier-Stokes: `python "
    "jobs/evaluate.py` writes them for --scores"
)


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """The checkpoint to promote, and the gates that its scores must pass."""

    checkpoint: str = ""
    """The checkpoint, a run (its newest checkpoint is used), or a version such as
    ``spn@challenger``."""
    name: str = "spn"
    """Name of the model in the registry."""
    alias: str = CHAMPION
    """Alias of the version: champion, challenger, or any other word."""
    scores: str = ""
    """The evaluation of this checkpoint: its folder or its scores.json."""
    minimum: tuple[str, ...] = ()
    """Gates such as ``hole_psnr=20`` or ``hole_psnr:0.4-0.5=18``: the minimum score."""
    maximum: tuple[str, ...] = ()
    """Gates such as ``hole_l1=0.08``: the maximum score."""
    below_baselines: bool = False
    """Whether to promote a checkpoint even if its scores are below those of Telea or
    Navier-Stokes."""
    rollback: bool = False
    """Whether to withdraw the champion and restore the previous one, instead of promoting."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """The model registry."""

    @property
    def gates(self) -> "list[Gate]":
        """The gates of ``minimum`` and ``maximum``."""
        from infill.pipeline.evaluation.gates import parse_gate

        return [parse_gate(text, "minimum") for text in self.minimum] + [
            parse_gate(text, "maximum") for text in self.maximum
        ]

    @property
    def work(self) -> str:
        """What the job does, for its first line."""
        if self.rollback:
            return f"rollback of {self.name}"
        return f"promotion of {self.checkpoint} to {self.name}@{self.alias}"

    def __post_init__(self) -> None:
        """Refuse a command line that promotes nothing."""
        if not (self.checkpoint or self.rollback):
            raise UserError("give --checkpoint to promote one, or --rollback to undo a promotion")


def promote(config: PromoteConfig) -> "Version":
    """Check a checkpoint against its gates and register it.

    Returns:
        The new version, or the current champion if that is the same checkpoint.

    Raises:
        UserError: if a gate fails, or the checkpoint or its scores are missing.
    """
    from infill.pipeline.evaluation.gates import require, require_better_than_baselines

    gates = config.gates
    if gates and not config.scores:
        raise UserError("gates need --scores: the folder that `python jobs/evaluate.py` wrote")
    before = registry.champion(config.registry, config.name)
    found = registry.resolve(config.registry, config.checkpoint)
    scored = _evaluation(config.scores, found.digest)
    if scored:
        require(gates, scored)
        if not config.below_baselines:
            require_better_than_baselines(scored)
    if config.alias == CHAMPION and before and before.digest == found.digest:
        registry.repeat_alias(config.registry, config.name)
        return before
    cost = registry.measure_latency(found.location)
    lineage = registry.trace_lineage(found.location, _kept_scores(scored), cost)
    return registry.register(
        config.registry,
        found.location,
        config.name,
        lineage,
        alias=config.alias,
        successor_to=before.number if before else 0,
    )


def _evaluation(scores: str, digest: str) -> "Evaluation | None":
    if not scores:
        return None
    from infill.pipeline.evaluation.gates import require_about
    from infill.pipeline.evaluation.result import SCORES

    found = evaluation.load_evaluation(scores.removesuffix(SCORES).rstrip("/") or ".")
    require_about(found, digest)
    return found


def _kept_scores(found: "Evaluation | None") -> dict[str, object]:
    """Return the part of an evaluation that a version records: mean scores and their pairs."""
    if found is None:
        return {}
    by_group = {
        group: {name: score.mean for name, score in scores.items()}
        for group, scores in found.scores[found.network].items()
    }
    if not storage.exists(found.files["pairs"]):
        raise UserError(
            f"{found.out} has lost its pairs.parquet, so its scores cannot be traced; "
            "evaluate again"
        )
    pairs = storage.sha256(storage.read(found.files["pairs"]))
    kept = {"scores": by_group, "data": found.data, "digest": found.digest}
    return {**kept, "pairs_sha256": pairs}


def line(version: "Version", alias: str) -> str:
    """Return the line that names a version: number, alias, digest and hole PSNR."""
    psnr = version.lineage.scores.get("scores", {}).get("all", {}).get("hole_psnr")
    shown = f"  hole PSNR {psnr:.2f} dB" if psnr is not None else ""
    return f"{version.name}@{version.number}  {alias}  digest {version.digest[:12]}{shown}"


def promote_command(found: "Evaluation") -> tuple[str, str]:
    """Return the command that promotes an evaluated checkpoint, and what speaks against it.

    The registry is the one in which its training is logged.
    """
    from infill.pipeline import checkpoints
    from infill.pipeline.evaluation.gates import below_baseline

    checkpoint = str(found.checkpoint["location"])
    words = [
        "--checkpoint",
        shown_name(checkpoint),
        "--name",
        str(found.checkpoint["architecture"]),
    ]
    words += ["--scores", found.out]
    tracking = checkpoints.read_config(checkpoint).get("tracking", {})
    if tracking.get("tracking_uri"):
        kept = RegistryConfig(
            tracking_uri=tracking["tracking_uri"], artifacts=tracking["artifacts"]
        )
        words += registry_words(kept)
    if reason := below_baseline(found):
        words.append("--below-baselines")
        reason = f"promote refuses it without --below-baselines: {reason}"
    return typed("promote", *words), reason


def report_version(version: "Version", alias: str, config: RegistryConfig) -> None:
    """Print what the job prints, and the commands that serve the version and inpaint with it."""
    print(line(version, alias))
    model = f"{version.name}@{alias}"
    serve = typed("serve", "--model", model, *registry_words(config))
    why = "" if version.lineage.scores else WITHOUT_SCORES
    report_results({}, serve, inpaint_command(model, config), why=why)


def main(words: Sequence[str] | None = None) -> None:
    """Promote or roll back, and print the version."""
    config = parse_one(PromoteConfig, __doc__ or "", words)
    if config.rollback:
        config = replace(config, alias=CHAMPION)
    with Progress(config.work):
        if config.rollback:
            version = registry.rollback(config.registry, config.name)
        else:
            version = promote(config)
    report_version(version, config.alias, config.registry)


if __name__ == "__main__":
    run(main)
