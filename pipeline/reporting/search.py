"""The trials of a search as a table, a figure and an HTML page."""

import io
import json
from dataclasses import asdict

from infill.pipeline import storage
from infill.pipeline.metrics.metric_registry import VALIDATED, Metric
from infill.pipeline.progress import duration
from infill.pipeline.reporting.page import (
    Section,
    facts,
    figure,
    format_csv,
    format_table,
    table,
    write_report,
)
from infill.pipeline.training import SCORE
from infill.pipeline.tuning import Trial, TuneResult

SCORE_LABEL = "hole PSNR on the val set (dB)"


def trial_rows(result: TuneResult) -> tuple[list[str], list[list[str]]]:
    """Return header and one row per trial, best first; a failed trial has its error."""
    names = searched(result)
    seeds = len({trial.seed for trial in result.trials}) > 1
    header = [name.removeprefix("model.") for name in names] + (["seed"] if seeds else [])
    header += [*(metric.name for metric in VALIDATED), "time"]
    return header, [_row(trial, names, seeds) for trial in result.trials]


def searched(result: TuneResult) -> list[str]:
    """Return the fields that any trial changes; rows of a paper's table differ in their fields."""
    return list(dict.fromkeys(name for trial in result.trials for name in trial.changes))


def _row(trial: Trial, names: list[str], seeds: bool) -> list[str]:
    values = [str(trial.changes.get(name, "-")) for name in names]
    values += [str(trial.seed)] if seeds else []
    if trial.error:
        return [*values, "failed", trial.error[:80], *[""] * (len(VALIDATED) - 1)]
    numbers = [_number(metric, trial.scores.get(metric.name)) for metric in VALIDATED]
    took = "finished before" if trial.reused else duration(trial.seconds)
    return [*values, *numbers, took]


def _number(metric: Metric, value: float | None) -> str:
    """Return a score as measured; "-" for a trial that was validated before the metric was."""
    if value is None:
        return "-"
    return f"{value:.3f}" if metric.scale == 1 else f"{value:.4f}"


def plot_trials(result: TuneResult) -> bytes:
    """Plot every trial's score over each searched field, the best one ringed.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    trials = [trial for trial in result.trials if not trial.error]
    names = searched(result) or ["as it is"]
    figure = Figure(figsize=(3.4 * len(names), 3.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        values = sorted({trial.changes.get(name, "-") for trial in trials}, key=_sortable)
        positions = [values.index(trial.changes.get(name, "-")) for trial in trials]
        scores = [trial.scores[SCORE] for trial in trials]
        panel.plot(positions, scores, "o", color="#4a6fa5", alpha=0.8)
        if trials:
            panel.plot(positions[0], scores[0], "o", ms=13, mfc="none", mec="#c1403d", mew=2)
        panel.set_xticks(range(len(values)), [str(value) for value in values])
        panel.set_xlabel(name.removeprefix("model."))
        panel.margins(x=0.3)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel(SCORE_LABEL)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _sortable(value: object) -> tuple[bool, float, str]:
    """Sort numbers by size, before words by alphabet."""
    if isinstance(value, int | float):
        return (False, float(value), "")
    return (True, 0.0, str(value))


def write_search(
    result: TuneResult,
    location: str,
    title: str,
    rows_of_paper: tuple[list[str], list[list[str]]] | None = None,
) -> str:
    """Write a search's table (``trials.md``, ``.csv``, ``.json``), plot and page into a folder.

    Args:
        result: the result of the search.
        location: the folder.
        title: title of the page.
        rows_of_paper: header and rows of the paper's table, if the space was one.

    Returns:
        The table as text, for the terminal.
    """
    header, rows = rows_of_paper or trial_rows(result)
    text, plot = format_table(header, rows), plot_trials(result)
    trials = [asdict(trial) for trial in result.trials]
    files = {
        "trials.md": text.encode(),
        "trials.csv": format_csv(header, rows).encode(),
        "trials.json": (json.dumps(trials, indent=2) + "\n").encode(),
        "trials.png": plot,
    }
    for name, data in files.items():
        storage.write(storage.join(location, name), data)
    strong = [] if rows_of_paper else [(0, header.index(SCORE))]
    training_s = sum(trial.seconds for trial in result.trials)
    about = {
        "best checkpoint": result.best.checkpoint,
        "trials": len(result.trials),
        "failed": sum(bool(trial.error) for trial in result.trials),
        "wall time": duration(result.seconds),
        "sum of the trials' training time": duration(training_s),
    }
    write_report(
        storage.join(location, "report.html"),
        title,
        [
            Section(title="Trials", body=table(header, rows, strong=strong)),
            Section(
                title="Plot",
                body=figure(plot, "score of every trial over each searched field"),
            ),
            Section(title="About", body=facts(about)),
        ],
    )
    return text
