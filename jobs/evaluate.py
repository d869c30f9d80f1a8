"""Evaluate a checkpoint and the baselines on a test set, by hole ratio.

python jobs/evaluate.py --checkpoint runs/train --shards runs/shards/test --out runs/evaluation

Every image gets one mask from each range of hole ratio. PSNR, SSIM and L1 of the network, of mean
fill and of OpenCV's Telea and Navier-Stokes are written as a table, an image grid and an HTML
report. If the job is interrupted, run the same command again: it resumes. When nothing changed, it
prints the finished result.
"""

from collections.abc import Sequence
from contextlib import nullcontext

from infill.jobs.promote import promote_command
from infill.pipeline import evaluation
from infill.pipeline.cluster import connect
from infill.pipeline.config import parse_one, run
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.job_summary import announce, announce_start, report_results
from infill.pipeline.pretrained import shown_name


def main(words: Sequence[str] | None = None) -> None:
    """Check the inputs, then start Ray, evaluate, and print the scores and files."""
    config = parse_one(EvaluationConfig, __doc__ or "", words)
    announce_start(f"evaluation of {config.checkpoint} on {config.shards}: reading both")
    config.networks.require_files()
    plan = evaluation.prepare(config)
    methods = ", ".join([str(plan.checkpoint["architecture"]), *config.baselines])
    network = shown_name(str(plan.checkpoint["location"]))
    announce(
        f"evaluation of {network}: {len(plan.pairs):,} pairs of "
        f"{len(plan.pairs.rows()):,} images, {methods}; {hardware(config)}",
        out=config.out,
    )
    for sentence in plan.numbers:
        print(sentence)
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
