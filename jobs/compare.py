"""Compare two or more evaluated checkpoints, pair by pair.

python jobs/evaluate.py --checkpoint runs/a --shards runs/shards/test --out runs/evaluation-a
python jobs/evaluate.py --checkpoint runs/b --shards runs/shards/test --out runs/evaluation-b
python jobs/compare.py --evaluations runs/evaluation-a runs/evaluation-b --baselines telea

The evaluations must have the same pairs of image and mask. Equal settings give equal pairs; to be
sure, give the second evaluation `--pairs` with the first one's pairs.parquet. comparison.json has
the paired differences, their confidence intervals and the win rates. The page shows the pairs with
the largest gains and losses, and a slider between two composites.
"""

from collections.abc import Sequence

from infill.jobs.promote import promote_command
from infill.pipeline.config import parse_one, run
from infill.pipeline.evaluation.config import CompareConfig
from infill.pipeline.job_summary import announce, announce_start, report_results


def main(words: Sequence[str] | None = None) -> None:
    """Compare the evaluations; print the verdicts and the files."""
    config = parse_one(CompareConfig, __doc__ or "", words)
    announce_start(f"comparison of {', '.join(config.evaluations)}: reading the scores")
    from infill.pipeline.evaluation.comparison import compare, save_figures
    from infill.pipeline.evaluation.comparison_page import (
        terminal_table,
        verdicts,
        write_comparison,
    )
    from infill.pipeline.evaluation.result import load_evaluation

    evaluations = [load_evaluation(folder) for folder in config.evaluations]
    methods = ", ".join([*config.evaluations, *config.baselines])
    announce(
        f"comparison of {methods} on {evaluations[0].data['pairs']:,} pairs, in this process on "
        "the CPU",
        out=config.out,
    )
    comparison = compare(config)
    page = write_comparison(comparison, config.out)
    figures = save_figures(comparison, config.out)
    print(terminal_table(comparison))
    print("\n".join(verdicts(comparison)))
    best = max(evaluations, key=lambda one: one.summary["hole_psnr"])
    command, why = promote_command(best)
    report_results({"page": page, "figures": figures}, command, why=why)


if __name__ == "__main__":
    run(main)
