"""Score a checkpoint and the baselines on a test set, by hole ratio.

python jobs/evaluate.py --checkpoint runs/train --shards runs/shards/test --out runs/evaluation

Every image meets one mask from each range of hole ratio; PSNR, SSIM and L1 of the network, of a
mean fill and of OpenCV's Telea and Navier-Stokes go to a table, a grid of pictures and an HTML
report. The same command goes on after an interruption, and answers at once when nothing changed.
"""

from collections.abc import Sequence
from contextlib import nullcontext

from infill.pipeline import evaluation
from infill.pipeline.cluster import connect
from infill.pipeline.config import parse_one, run
from infill.pipeline.evaluation import EvaluationConfig


def main(words: Sequence[str] | None = None) -> None:
    """Refuse what cannot be evaluated, then start Ray, evaluate, and say what came out."""
    config = parse_one(EvaluationConfig, __doc__ or "", words)
    evaluation.prepare(config)
    with connect() if config.num_actors else nullcontext():
        found = evaluation.evaluate(config)
    print(f"\n{evaluation.terminal_tables(found)}\n{evaluation.verdict(found)}")
    for kind, location in found.files.items():
        print(f"{kind:<12} {location}")


if __name__ == "__main__":
    run(main)
