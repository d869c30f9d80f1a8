"""Choose among a finished search's trials, on test photographs; promote the choice if asked.

python jobs/choose.py --search runs/sweep-spn-cpu --shards runs/shards/test
python jobs/choose.py --search runs/sweep-spn-cpu --shards runs/shards/test \
    --champion spn --guards ssim=0.005 --max-latency-ms 40 --promote spn

Every trial fills the same holes. The best by --metric wins among those that are no worse than the
champion by more than the guards allow, and within the bounds of size and time; the page shows all
of them. With --promote the winner becomes that model's champion, and a running `jobs/serve.py`
takes it up by itself.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from infill.jobs.promote import PromoteConfig, line, promote
from infill.pipeline import model_selection, storage, tracking
from infill.pipeline.cluster import connect
from infill.pipeline.config import parse_one, run
from infill.pipeline.model_selection import SelectionConfig


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(SelectionConfig):
    """A model selection, and whether the selected model is promoted."""

    promote: str = ""
    """Name of the model in the registry whose champion the selected model becomes; empty leaves the
    registry unchanged."""


def main(words: Sequence[str] | None = None) -> None:
    """Judge, write the page, and promote if asked."""
    config = parse_one(ChooseConfig, __doc__ or "", words)
    with connect() if config.num_actors else nullcontext():
        choice = model_selection.select_model(config)
    out = config.out or storage.join(storage.absolute(config.search), "choice")
    table = model_selection.write_selection(
        choice, out, f"Choice among the trials of {config.search}"
    )
    print(table)
    pages = [storage.join(out, file) for file in ("report.html", "choice.csv")]
    tracking.attach(storage.absolute(config.search), pages, print)
    winner = choice.winner
    print(f"chosen: {winner.trial.checkpoint}\ntable, pictures and page: {out}")
    if config.promote:
        wanted = PromoteConfig(
            checkpoint=winner.trial.checkpoint,
            name=config.promote,
            scores=winner.evaluation.out,
            registry=config.registry,
        )
        print(line(promote(wanted), wanted.alias))


if __name__ == "__main__":
    run(main)
