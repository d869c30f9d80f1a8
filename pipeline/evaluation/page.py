"""The tables and the HTML page of an evaluation."""

import re
from collections.abc import Sequence

from markupsafe import Markup

from infill.pipeline import storage
from infill.pipeline.config import flatten, from_dict
from infill.pipeline.evaluation.config import EvaluationConfig
from infill.pipeline.evaluation.metric_networks import NOT_GIVEN
from infill.pipeline.evaluation.protocols import load_protocol
from infill.pipeline.evaluation.published import PUBLISHED, Published
from infill.pipeline.evaluation.result import Evaluation
from infill.pipeline.evaluation.scores import ALL, Score, SetScore
from infill.pipeline.metrics.metric_registry import (
    DECIDING,
    FURTHER,
    METRICS,
    OF_NETWORKS,
    OF_SETS,
    Metric,
    chosen_metrics,
)
from infill.pipeline.pretrained import shown_name
from infill.pipeline.progress import duration
from infill.pipeline.reporting import (
    Section,
    Series,
    beside,
    curve,
    facts,
    figure,
    format_csv,
    format_table,
    paragraphs,
    stack,
    table,
    write_report,
)
from infill.pipeline.reporting.page import Cell

Table = tuple[list[str], list[list[str]]]
"""Headers and rows."""

IN_WORDS = (
    "Every method predicts the whole frame from the same image with the same hole. The prediction "
    "is rounded to 8 bits, the known pixels are put back exactly, and this composite is compared "
    "with the 8-bit original.",
    "Hole: over the hole's pixels alone. Rim: over the hole's pixels within 8 px of a known one. "
    "PSNR is capped at 100 dB. SSIM has an 11 x 11 Gaussian window of sigma 1.5. L1 is the mean "
    "absolute difference, in percent of the full range.",
    "Each figure is the mean of a score over pairs, with half the width of its 95 % interval: "
    "a bootstrap over photographs, since crops and masks of one photograph are not independent. "
    "With one photograph there is no interval.",
)


OF_FEW = (
    "FID is biased upwards for a few hundred images, more so the fewer they are: compare it only "
    "at equal N, and read it with KID, which has no such bias. ± of KID and inception score is "
    "their standard deviation over subsets."
)


def write_pages(evaluation: Evaluation) -> None:
    """Write an evaluation's tables (CSV and Markdown) and its report, from scores and grid."""
    files = evaluation.files
    storage.write(files["spreadsheet"], _spreadsheet(evaluation).encode())
    storage.write(files["table"], _markdown(evaluation).encode())
    grid = storage.read(files["grid"])
    sections = [
        Section(title="Scores", body=_overall_section(evaluation)),
        Section(title="Images", body=figure(grid, "Examples: each row is one pair.")),
        *_group_sections(evaluation),
        Section(title="As networks see them", body=_networks_section(evaluation)),
        *_published_sections(evaluation),
        Section(title="How it was measured", body=paragraphs(*IN_WORDS)),
        Section(title="Lineage", body=facts(_lineage(evaluation))),
    ]
    title = f"{evaluation.network} at step {evaluation.checkpoint['step']}: evaluation"
    write_report(files["report"], title, sections, summary=verdict(evaluation))


def overall(evaluation: Evaluation) -> Table:
    """Return every metric over all pairs, a column for each method."""
    rows = [
        [metric.heading, *(_figure(metric, scores[metric.name]) for scores in _all(evaluation))]
        for metric in evaluation.metrics
    ]
    counts = ["pairs", *(str(scores[DECIDING.name].n) for scores in _all(evaluation))]
    return ["all pairs", *evaluation.methods], [*rows, counts]


def by_group(evaluation: Evaluation, metric: Metric) -> Table:
    """Return one metric of every method, group by group, and the pairs in each."""
    headers = [metric.heading, *evaluation.groups]
    rows = [
        [method, *(_figure(metric, found[group][metric.name]) for group in evaluation.groups)]
        for method, found in evaluation.scores.items()
    ]
    found = evaluation.scores[evaluation.network]
    counts = ["pairs", *(str(found[group][metric.name].n) for group in evaluation.groups)]
    return headers, [*rows, counts]


def terminal_tables(evaluation: Evaluation) -> str:
    """Return a job's tables: the means over all pairs, and hole PSNR by hole ratio."""
    parts = [format_table(*overall(evaluation))]
    if len(_ranges(evaluation)) > 1:
        parts.append(format_table(*by_group(evaluation, DECIDING)))
    return "\n".join(parts)


def verdict(evaluation: Evaluation) -> str:
    """Compare the network with the best baseline in a sentence or two."""
    metric = DECIDING
    score = evaluation.scores[evaluation.network][ALL][metric.name]
    over = f"over {score.n} pairs from {_count(score.photographs, 'photograph')}"
    sentence = f"{evaluation.network} inpaints holes at {metric.shown(score.mean)} dB PSNR {over}."
    means = {m: evaluation.scores[m][ALL][metric.name].mean for m in evaluation.methods[1:]}
    if not means:
        return sentence
    best = max(means, key=lambda method: means[method])
    lead = score.mean - means[best]
    word = "more" if lead >= 0 else "less"
    return f"{sentence} That is {metric.shown(abs(lead))} dB {word} than the best baseline, {best}."


def _all(evaluation: Evaluation) -> list[dict[str, Score]]:
    return [found[ALL] for found in evaluation.scores.values()]


def _overall_section(evaluation: Evaluation) -> Markup:
    headers, rows = overall(evaluation)
    strong = []
    for line, metric in enumerate(evaluation.metrics):
        means = [scores[metric.name].mean for scores in _all(evaluation)]
        strong.append((line, 1 + _best(means, metric)))
    data = evaluation.data
    images = _count(data["images"], "image")
    originals = _count(data["photographs"], "photograph")
    caption = f"{data['pairs']} pairs of {images} from {originals}; the best is bold"
    return table(headers, rows, caption, strong)


def _group_sections(evaluation: Evaluation) -> list[Section]:
    """Return the tables of the groups, or nothing if the only group is that of all pairs."""
    if not _has_groups(evaluation):
        return []
    tables = []
    for metric in evaluation.metrics:
        headers, rows = by_group(evaluation, metric)
        strong = []
        for column, group in enumerate(evaluation.groups, start=1):
            means = [found[group][metric.name].mean for found in evaluation.scores.values()]
            strong.append((_best(means, metric), column))
        tables.append(table(headers, rows, f"{metric.heading}: {metric.better} is better", strong))
    shown = [
        metric
        for metric in evaluation.metrics
        if metric.name in ("hole_psnr", "hole_ssim", "hole_l1")
    ]
    curves = beside(*(_curve(evaluation, metric) for metric in shown))
    body = stack(curves, *tables) if len(_ranges(evaluation)) > 1 else stack(*tables)
    return [Section(title="By hole ratio", body=body)]


def _has_groups(evaluation: Evaluation) -> bool:
    """Return whether any group holds only a part of the pairs."""
    return len(evaluation.groups) > 2


def _networks_section(evaluation: Evaluation) -> Markup:
    """Return FID beside KID with N, or that their weights were not given."""
    networks = from_dict(EvaluationConfig, evaluation.settings).networks
    missing = [OF_NETWORKS[n].title for n in (*OF_SETS, "lpips") if n not in networks.given]
    parts = [paragraphs(f"{', '.join(missing)}: {NOT_GIVEN}.")] if missing else []
    if evaluation.set_scores:
        parts.append(paragraphs(OF_FEW))
        for name in (name for name in OF_SETS if name in networks.given):
            rows = [
                [method, *(_set_figure(name, found[group]) for group in evaluation.groups)]
                for method, found in evaluation.set_scores.items()
            ]
            found = evaluation.set_scores[evaluation.network]
            counts = [str(found[group][name].n) if found[group] else None for group in found]
            headers = [OF_NETWORKS[name].title, *evaluation.groups]
            caption = f"{OF_NETWORKS[name].title}: {OF_NETWORKS[name].better} is better"
            parts.append(table(headers, [*rows, ["composites", *counts]], caption))
    return stack(*parts)


def _set_figure(name: str, found: dict[str, SetScore]) -> str | None:
    if name not in found:
        return None
    metric, score = OF_NETWORKS[name], found[name]
    text = f"{score.value * metric.scale:.{metric.decimals}f}"
    if score.spread:
        text += f" ± {score.spread * metric.scale:.{metric.decimals}f}"
    return text


def _published_sections(evaluation: Evaluation) -> list[Section]:
    """Return the protocol's table with the paper's figures below ours, or nothing without one."""
    name = str(evaluation.settings.get("protocol", ""))
    if not name:
        return []
    protocol = load_protocol(name)
    tables = []
    for metric in protocol.metrics:
        ours = _measured_rows(evaluation, metric)
        theirs = [_published_row(one, metric, evaluation.groups) for one in PUBLISHED[name]]
        theirs = [row for row in theirs if any(row[2:])]
        headers = [metric_heading(metric), "from", *evaluation.groups]
        quoted = range(len(ours), len(ours) + len(theirs))
        tables.append(table(headers, [*ours, *theirs], quoted=quoted))
    words = paragraphs(
        f"{protocol.paper}. {protocol.about}",
        f"Where this evaluation differs: {protocol.differs}",
        *_sentence(protocol.of_other_images(int(evaluation.data["images"]))),
        "Rows in italics are figures printed in papers, of their images, masks and networks; "
        "only upright rows were measured here.",
    )
    return [Section(title=f"Beside the papers: {name}", body=stack(words, *tables))]


def _sentence(words: str) -> list[str]:
    """Return words as a sentence, or nothing without words."""
    return [f"{words[0].upper()}{words[1:]}."] if words else []


def metric_heading(name: str) -> str:
    """Return the heading of a metric of pairs, or of one that needs a network."""
    if name in OF_NETWORKS:
        return OF_NETWORKS[name].title
    return chosen_metrics([name])[-1].heading if name in FURTHER else _usual(name).heading


def _usual(name: str) -> Metric:
    return next(metric for metric in METRICS if metric.name == name)


def _measured_rows(evaluation: Evaluation, name: str) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for method, found in evaluation.scores.items():
        cells: list[Cell] = [NOT_GIVEN, *[None] * (len(evaluation.groups) - 1)]
        metric = next((metric for metric in evaluation.metrics if metric.name == name), None)
        if metric:
            cells = [_figure(metric, found[group][name]) for group in evaluation.groups]
        elif evaluation.set_scores and name in OF_SETS:
            sets = evaluation.set_scores[method]
            cells = [_set_figure(name, sets[group]) for group in evaluation.groups]
        rows.append([method, "measured here", *cells])
    return rows


def _published_row(one: Published, metric: str, groups: Sequence[str]) -> list[Cell]:
    values = one.values.get(metric, {})
    return [one.system, one.source, *(values.get(group) for group in groups)]


def _ranges(evaluation: Evaluation) -> list[str]:
    """Return the groups that are ranges of hole ratio: those a curve can run through."""
    return [group for group in evaluation.groups if re.fullmatch(r"[\d.]+-[\d.]+", group)]


def _curve(evaluation: Evaluation, metric: Metric) -> Markup:
    groups = _ranges(evaluation)
    middles = [evaluation.data["hole_ratios"][group] for group in groups]
    lines = []
    for method, found in evaluation.scores.items():
        scores = [found[group][metric.name] for group in groups]
        ends = [(s.low if s.low is not None else s.mean) for s in scores]
        tops = [(s.high if s.high is not None else s.mean) for s in scores]
        lines.append(
            Series(
                name=method,
                x=middles,
                y=[s.mean * metric.scale for s in scores],
                # Bands of all methods would hide each other; only the network's is shown.
                low=[e * metric.scale for e in ends] if method == evaluation.network else (),
                high=[t * metric.scale for t in tops] if method == evaluation.network else (),
            )
        )
    return curve(lines, "hole ratio", metric.unit or metric.title, title=metric.heading)


def _lineage(evaluation: Evaluation) -> dict[str, object]:
    spent = sum(evaluation.cost.values())
    stages = ", ".join(
        f"{name.removesuffix('_s').replace('_', ' ')} {100 * value / spent:.0f} %"
        for name, value in evaluation.cost.items()
        if spent
    )
    settings = flatten(from_dict(EvaluationConfig, evaluation.settings))
    return {
        **{f"checkpoint {name}": value for name, value in evaluation.checkpoint.items()},
        "checkpoint location": shown_name(evaluation.checkpoint["location"]),
        **{
            f"test set {name}": value
            for name, value in evaluation.data.items()
            if name != "hole_ratios"
        },
        "evaluation digest": evaluation.digest,
        "time of the actors": f"{duration(spent)}: {stages}" if spent else "none in this session",
        **{name: value for name, value in settings.items() if name not in ("checkpoint", "shards")},
    }


def _spreadsheet(evaluation: Evaluation) -> str:
    """Return every score on a line of its own, in the units of the rows."""
    headers = ["method", "group", "metric", "mean", "low", "high", "n", "photographs"]
    rows = [
        [method, group, name, score.mean, score.low, score.high, score.n, score.photographs]
        for method, groups in evaluation.scores.items()
        for group, found in groups.items()
        for name, score in found.items()
    ]
    return format_csv(headers, rows)


def _markdown(evaluation: Evaluation) -> str:
    parts = [verdict(evaluation), format_table(*overall(evaluation))]
    for name in (*OF_SETS, "lpips"):
        if name not in from_dict(EvaluationConfig, evaluation.settings).networks.given:
            parts.append(f"{OF_NETWORKS[name].title}: {NOT_GIVEN}.")
    for metric in evaluation.metrics if _has_groups(evaluation) else ():
        parts.append(f"## {metric.heading}: {metric.better} is better")
        parts.append(format_table(*by_group(evaluation, metric)))
    return "\n\n".join(part.rstrip("\n") for part in [*parts, *IN_WORDS]) + "\n"


def _figure(metric: Metric, score: Score) -> str:
    if score.low is None or score.high is None:
        return metric.shown(score.mean)
    return f"{metric.shown(score.mean)} ± {metric.shown((score.high - score.low) / 2)}"


def _best(means: Sequence[float], metric: Metric) -> int:
    best = max(means) if metric.better == "higher" else min(means)
    return means.index(best)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
