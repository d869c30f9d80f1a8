"""The tables, figures and HTML page of a model selection."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from infill.pipeline import storage
from infill.pipeline.model_selection.candidates import Candidate, SelectionResult
from infill.pipeline.pretrained import shown_name
from infill.pipeline.reporting.page import (
    Section,
    facts,
    figure,
    format_csv,
    format_table,
    stack,
    table,
    write_report,
)

BINS = 4
"""Number of parts of a range, for the variance that it explains."""
RESTS = {"color": "#9aa5b1", "alpha": 0.8}
CHOSEN = "#c1403d"


def candidate_rows(choice: SelectionResult) -> tuple[list[str], list[list[str]]]:
    """Return header and one row per candidate, best first, with the reasons against it."""
    header = ["trial", "seeds", choice.metric, "95 % interval"]
    header += ["parameters", "ms an image", "against it"]
    rows = []
    for one in choice.candidates:
        score = one.score(choice.metric)
        known = score.low is not None and score.high is not None
        interval = f"{score.low:.4g} to {score.high:.4g}" if known else "-"  # of one photograph
        name = one.trial.label or one.trial.name
        rows.append(
            [
                name,
                str(1 + len(one.others)),
                f"{score.mean:.4g}",
                interval,
                f"{one.parameters:,}",
                f"{one.latency_ms:.1f}",
                one.against,
            ]
        )
    return header, rows


def searched(choice: SelectionResult) -> list[str]:
    """Return the fields in which the candidates differ."""
    names = dict.fromkeys(name for one in choice.candidates for name in one.trial.changes)
    return [
        name
        for name in names
        if len({str(one.trial.changes.get(name)) for one in choice.candidates}) > 1
    ]


def importance(choice: SelectionResult) -> dict[str, float]:
    """Return, for each field, the share of the scores' variance that it explains alone.

    That is the variance of the means of equal values (for a range: of its quarters) over the
    variance of all scores; fields that only interact explain little alone.
    """
    scores = np.array([choice.goodness(one) for one in choice.candidates])
    whole = scores.var()
    shares = {}
    for name in searched(choice):
        groups = _groups([one.trial.changes.get(name) for one in choice.candidates])
        means = np.empty_like(scores)
        for group in set(groups):
            there = np.array([other == group for other in groups])
            means[there] = scores[there].mean()
        shares[name] = float(means.var() / whole) if whole > 0 else 0.0
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _groups(values: Sequence[Any]) -> list[str]:
    distinct = {v for v in values if isinstance(v, float)}
    if len(distinct) <= BINS or len(distinct) < len(set(map(str, values))):
        return [str(value) for value in values]
    edges = np.quantile([float(v) for v in values], np.linspace(0, 1, BINS + 1)[1:-1])
    return [str(np.searchsorted(edges, value)) for value in values]


def plot_frontier(choice: SelectionResult) -> bytes:
    """Plot score against latency, with the frontier as a line; returns a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=120)
    panel = figure.subplots()
    for one in choice.candidates:
        score = one.score(choice.metric)
        style = RESTS if one.against else {"color": "#4a6fa5"}
        if score.low is not None and score.high is not None:
            panel.plot([one.latency_ms] * 2, [score.low, score.high], lw=1, **style)
        panel.plot(one.latency_ms, score.mean, "x" if one.against else "o", **style)
    line = [(one.latency_ms, one.score(choice.metric).mean) for one in choice.frontier]
    panel.plot(*zip(*line, strict=True), color="#444", lw=1, ls="--", zorder=0)
    selected = [one for one in choice.candidates if not one.against][:1]
    for one in selected:
        point = (one.latency_ms, one.score(choice.metric).mean)
        panel.plot(*point, "o", ms=13, mfc="none", mec=CHOSEN, mew=2)
    panel.set_xlabel("ms an image, one thread")
    panel.set_ylabel(choice.metric)
    panel.grid(alpha=0.3)
    return _png(figure)


def plot_parallel(choice: SelectionResult) -> bytes:
    """Plot every candidate as a line through its values to its score; returns a PNG file."""
    from matplotlib.figure import Figure

    names = searched(choice)
    figure = Figure(figsize=(2.0 + 1.9 * len(names), 3.8), layout="constrained", dpi=120)
    panel = figure.subplots()
    axes = [_axis([one.trial.changes.get(name) for one in choice.candidates]) for name in names]
    axes.append(_axis([one.score(choice.metric).mean for one in choice.candidates]))
    best = next((one for one in choice.candidates if not one.against), None)
    for index, one in reversed(list(enumerate(choice.candidates))):
        heights = [heights_of[index] for heights_of, _ in axes]
        chosen = one is best
        style: dict[str, Any] = {"color": CHOSEN, "lw": 2.5} if chosen else {**RESTS, "lw": 1}
        panel.plot(range(len(axes)), heights, **style)
    for x, (_, ticks) in enumerate(axes):
        panel.axvline(x, color="#444", lw=0.8)
        for height, text in ticks:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            panel.text(x + 0.03, height, text, fontsize=8, va="center", bbox=box)
    labels = [name.removeprefix("model.") for name in names] + [choice.metric]
    panel.set_xticks(range(len(axes)), labels)
    panel.set_yticks([])
    panel.set_xlim(-0.3, len(axes) - 0.5)  # space for the labels to the right of the last axis
    return _png(figure)


def _axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return each value's height, 0 to 1, and the labelled heights."""
    if all(isinstance(value, float) for value in values) and len(set(values)) > BINS:
        low, high = min(values), max(values)
        heights = [(value - low) / (high - low) for value in values]
        return heights, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
    numbers = all(isinstance(value, int | float) for value in values)
    order = sorted(set(values), key=float if numbers else str)
    rank = {value: index / max(1, len(order) - 1) for index, value in enumerate(order)}
    shown = [(rank[v], f"{v:.4g}" if isinstance(v, float) else str(v)) for v in order]
    return [rank[value] for value in values], shown


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def write_selection(choice: SelectionResult, location: str, title: str) -> str:
    """Write the table, figures and page of a selection into a folder.

    Returns:
        The table as text, for the terminal.
    """
    header, rows = candidate_rows(choice)
    text = format_table(header, rows)
    files = {"choice.md": text.encode(), "choice.csv": format_csv(header, rows).encode()}
    shares = importance(choice)
    sections = [Section(title="Candidates", body=table(header, rows))]
    frontier = plot_frontier(choice)
    files["frontier.png"] = frontier
    about = (
        "score of every candidate over its latency; the frontier dashed, the selected one ringed"
    )
    sections.append(Section(title="Score and time", body=figure(frontier, about)))
    if shares:
        parallel = plot_parallel(choice)
        files["parallel.png"] = parallel
        named = [[name.removeprefix("model."), f"{share:.0%}"] for name, share in shares.items()]
        body = stack(
            table(["field", "of the variance, alone"], named),
            figure(parallel, "every candidate as a line through its values to its score"),
        )
        sections.append(Section(title="What matters", body=body))
    chosen: Candidate | None = next((c for c in choice.candidates if not c.against), None)
    last = {
        "chosen": chosen.trial.checkpoint if chosen else "none",
        "champion": shown_name(choice.champion.checkpoint["location"])
        if choice.champion
        else "none",
        "pairs": choice.candidates[0].score(choice.metric).n,
    }
    sections.append(Section(title="About", body=facts(last)))
    for name, data in files.items():
        storage.write(storage.join(location, name), data)
    write_report(storage.join(location, "report.html"), title, sections)
    return text
