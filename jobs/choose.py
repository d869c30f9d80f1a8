"""Select the best trial of a finished search on test images, and promote it if asked.

python jobs/choose.py --search runs/sweep-spn-cpu --shards runs/shards/test
python jobs/choose.py --search runs/sweep --shards runs/test --champion spn --guards ssim=0.01
python jobs/choose.py --search runs/sweep --shards runs/test --max-latency-ms 40 --promote spn

All trials are evaluated on the same pairs of image and mask. The trial with the best --metric is
selected. --guards leaves out trials that are worse than the champion by more than a limit, and
--max-latency-ms those that are too slow. A page shows all of them. --promote makes the selected
trial the champion of a model, unless its scores are below those of OpenCV's Telea or Navier-Stokes.
A running `jobs/serve.py` then loads it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from infill.jobs.promote import PromoteConfig, promote, promote_command, report_version
from infill.pipeline import model_selection, storage, tracking
from infill.pipeline.cluster import connect
from infill.pipeline.config import parse_one, run
from infill.pipeline.job_summary import announce, announce_start, report_results
from infill.pipeline.model_selection import SelectionConfig


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(SelectionConfig):
    """A model selection, and whether the selected model is promoted."""

    promote: str = ""
    """Name of the model in the registry whose champion the selected model becomes; empty leaves the
    registry unchanged."""
    below_baselines: bool = False
    """Whether to promote a selected model whose scores are below those of Telea or
    Navier-Stokes."""


def main(words: Sequence[str] | None = None) -> None:
    """Evaluate the trials, write the page, and promote the selected one if asked."""
    config = parse_one(ChooseConfig, __doc__ or "", words)
    announce_start(f"selection among the trials of {config.search}: reading them")
    out = config.out or storage.join(storage.absolute(config.search), "choice")
    trials = model_selection.finished_trials(config.search)
    where = f"in {config.num_actors} processes at most" if config.num_actors else "in this process"
    model_selection.require_inputs(config)
    announce(
        f"selection among {len(trials)} trials of {config.search} on {config.shards}, {where} on "
        "the CPU",
        out=out,
    )
    with connect() if config.num_actors else nullcontext():
        choice = model_selection.select_model(config)
        table = model_selection.write_selection(
            choice, out, f"Choice among the trials of {config.search}"
        )
        print(table)
        selected = choice.selected
        scored = model_selection.evaluate_with_baselines(config, selected)
    pages = [storage.join(out, file) for file in ("report.html", "choice.csv")]
    tracking.attach(storage.absolute(config.search), pages, print)
    print(f"chosen: {selected.trial.checkpoint}\ntable, images and page: {out}")
    if not config.promote:
        command, why = promote_command(scored)
        report_results({}, command, why=why)
        return
    wanted = PromoteConfig(
        checkpoint=selected.trial.checkpoint,
        name=config.promote,
        scores=scored.out,
        below_baselines=config.below_baselines,
        registry=config.registry,
    )
    report_version(promote(wanted), wanted.alias, wanted.registry)


if __name__ == "__main__":
    run(main)
