"""Score a checkpoint and the baselines on a test set, by hole ratio.

python jobs/evaluate.py --checkpoint runs/train --shards runs/shards/test --out runs/evaluation

Every image meets one mask from each range of hole ratio; PSNR, SSIM and L1 of the network, of a
mean fill and of OpenCV's Telea and Navier-Stokes go to a table, a grid of pictures and an HTML
report. The same command goes on after an interruption, and answers at once when nothing changed.
"""

from collections.abc import Sequence
from contextlib import nullcontext

from infill.jobs.promote import promote_command
from infill.pipeline import evaluation
from infill.pipeline.cluster import connect
from infill.pipeline.config import parse_one, run
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.job_summary import announce, announce_start, report_results


def main(words: Sequence[str] | None = None) -> None:
    """Refuse what cannot be evaluated, then start Ray, evaluate, and say what came out."""
    config = parse_one(EvaluationConfig, __doc__ or "", words)
    announce_start(f"evaluation of {config.checkpoint} on {config.shards}: reading both")
    plan = evaluation.prepare(config)
    methods = ", ".join([str(plan.checkpoint["architecture"]), *config.baselines])
    announce(
        f"evaluation of {plan.checkpoint['location']}: {len(plan.pairs):,} pairs of "
        f"{len(plan.pairs.rows()):,} images, {methods}; {hardware(config)}",
        out=config.out,
    )
    with connect() if config.num_actors else nullcontext():
        found = evaluation.evaluate(config)
    print(f"\n{evaluation.terminal_tables(found)}\n{evaluation.verdict(found)}")
    command, why = promote_command(found)
    report_results(found.files, command, why=why)


def hardware(config: EvaluationConfig) -> str:
    """Return how many processes evaluate, and on what."""
    device = "GPU" if config.gpus_per_actor else "CPU"
    if not config.num_actors:
        return f"in this process on the {device}"
    return f"in {config.num_actors} processes at most, on the {device}"


if __name__ == "__main__":
    run(main)
