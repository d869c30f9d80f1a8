"""Hold two or more evaluated checkpoints against each other, pair by pair.

python jobs/evaluate.py --checkpoint runs/a --shards runs/shards/test --out runs/evaluation-a
python jobs/evaluate.py --checkpoint runs/b --shards runs/shards/test --out runs/evaluation-b
python jobs/compare.py --evaluations runs/evaluation-a runs/evaluation-b --baselines telea

Both must have met the same pairs: with the same settings they have, and --pairs FILE of another
evaluation makes sure. Paired differences with their intervals and win rates go to
comparison.json, and to a page that shows where each wins most and where it loses most, with a bar
to pull between the two.
"""

from collections.abc import Sequence

from infill.pipeline.config import parse_one, run
from infill.pipeline.evaluation.config import CompareConfig


def main(words: Sequence[str] | None = None) -> None:
    """Compare, and say what came out and where it is."""
    config = parse_one(CompareConfig, __doc__ or "", words)
    from infill.pipeline.evaluation.comparison import compare, save_figures
    from infill.pipeline.evaluation.comparison_page import (
        terminal_table,
        verdicts,
        write_comparison,
    )

    comparison = compare(config)
    page = write_comparison(comparison, config.out)
    figures = save_figures(comparison, config.out)
    print(terminal_table(comparison))
    print("\n".join(verdicts(comparison)))
    print(f"page         {page}\nfigures      {figures}")


if __name__ == "__main__":
    run(main)
