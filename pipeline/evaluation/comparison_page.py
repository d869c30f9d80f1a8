"""The tables and the HTML page of a comparison."""

from collections.abc import Sequence

from markupsafe import Markup

from infill.pipeline import storage
from infill.pipeline.evaluation.comparison import Case, Comparison, Gain, inpaint_cases
from infill.pipeline.evaluation.scorer import SHOWN_PX
from infill.pipeline.evaluation.scores import ALL
from infill.pipeline.image_grid import fit, grid, masked_view, shrink
from infill.pipeline.images import Pixels, encode_png
from infill.pipeline.metrics.metric_registry import DECIDING, Metric
from infill.pipeline.pretrained import shown_name
from infill.pipeline.reporting import (
    Section,
    beside,
    facts,
    figure,
    format_table,
    paragraphs,
    slider,
    stack,
    table,
    write_report,
)

IN_WORDS = (
    "Gains are means of differences over the same pairs, in each metric's unit; positive is "
    "better, whichever direction of the metric is better. ± is half the width of the 95 % "
    "interval, a bootstrap over photographs: a smaller gain may be chance. In brackets: the share "
    "of pairs on which the method is better; a tie counts half.",
)


def write_comparison(comparison: Comparison, out: str) -> str:
    """Inpaint the best and worst pairs again, write the page, and return its location.

    Raises:
        UserError: if a checkpoint has been changed or removed since its evaluation.
    """
    sections = [
        Section(title="Over all pairs", body=_overall(comparison)),
        Section(title="By group", body=_by_group(comparison)),
        *_case_sections(comparison),
        Section(title="Lineage", body=facts(_lineage(comparison))),
    ]
    location = storage.join(storage.absolute(out), "comparison.html")
    names = " and ".join(one.name for one in comparison.contenders[1:])
    title = f"{names} against {comparison.first.name}"
    write_report(location, title, sections, summary=" ".join(verdicts(comparison)))
    return location


def overall_gains(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return every metric's gain over all pairs, a column for each contender but the first."""
    headers = [f"gain over {comparison.first.name}", *comparison.gains]
    rows = [
        [
            metric.heading,
            *(_figure(metric, groups[ALL][metric.name]) for groups in comparison.gains.values()),
        ]
        for metric in comparison.metrics
    ]
    return headers, rows


def terminal_table(comparison: Comparison) -> str:
    """Return the job's table."""
    return format_table(*overall_gains(comparison))


def verdicts(comparison: Comparison) -> list[str]:
    """Return a sentence on each contender but the first."""
    sentences = []
    for name, groups in comparison.gains.items():
        gain = groups[ALL][DECIDING.name]
        word = "above" if gain.mean >= 0 else "below"
        sure = gain.low is not None and gain.high is not None and gain.low * gain.high > 0
        doubt = "" if sure else ", which may be chance"
        sentences.append(
            f"{name} is {DECIDING.shown(abs(gain.mean))} dB {word} {comparison.first.name} in the "
            f"hole, better on {100 * gain.wins:.0f} % of {gain.n} pairs{doubt}."
        )
    return sentences


def _overall(comparison: Comparison) -> Markup:
    headers, rows = overall_gains(comparison)
    return stack(table(headers, rows), paragraphs(*IN_WORDS))


def _by_group(comparison: Comparison) -> Markup:
    tables = []
    for metric in comparison.metrics:
        rows = [
            [name, *(_gain(metric, groups[group][metric.name]) for group in comparison.groups)]
            for name, groups in comparison.gains.items()
        ]
        tables.append(table([metric.heading, *comparison.groups], rows))
    return stack(*tables)


def _case_sections(comparison: Comparison) -> list[Section]:
    indices = sorted({i for chosen in (comparison.best, comparison.worst) for i in _all(chosen)})
    cases = dict(zip(indices, inpaint_cases(comparison, indices), strict=True))
    sections = []
    for name in comparison.gains:
        for word, chosen in (("most", comparison.best), ("least", comparison.worst)):
            shown = [cases[index] for index in chosen[name]]
            title = f"Where {name} gains {word} over {comparison.first.name}"
            sections.append(Section(title=title, body=_cases(comparison, name, shown)))
    return sections


def _all(chosen: dict[str, list[int]]) -> list[int]:
    return [index for indices in chosen.values() for index in indices]


def _cases(comparison: Comparison, name: str, cases: Sequence[Case]) -> Markup:
    first = comparison.first.name
    sliders = [
        slider(
            encode_png(_shown(case.composites[first])),
            encode_png(_shown(case.composites[name])),
            first,
            name,
            _caption(case),
        )
        for case in cases
    ]
    rows = [
        [case.image, masked_view(case.image, case.hole), *case.composites.values()]
        for case in cases
    ]
    if len({image.shape for row in rows for image in row}) > 1:
        rows = [[fit(image, SHOWN_PX) for image in row] for row in rows]
    titles = ["image", "masked input", *(one.name for one in comparison.contenders)]
    sheet = grid(rows, titles, [_caption(case) for case in cases])
    return stack(beside(*sliders), figure(sheet, "The same pairs with their originals."))


def _shown(image: Pixels) -> Pixels:
    """Return an image no larger than fits on a page."""
    return shrink(image, 2 * SHOWN_PX)


def _caption(case: Case) -> str:
    scores = ", ".join(f"{name} {value:.1f}" for name, value in case.scores.items())
    return f"{case.key}   hole {100 * case.hole_ratio:.0f} %   PSNR in the hole (dB): {scores}"


def _lineage(comparison: Comparison) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in comparison.contenders:
        found[one.name] = f"{one.method} of {one.evaluation.out}"
        found[f"{one.name}: checkpoint"] = shown_name(one.evaluation.checkpoint["location"])
        found[f"{one.name}: step"] = one.evaluation.checkpoint["step"]
        found[f"{one.name}: digest"] = one.evaluation.checkpoint["digest"]
    found["test set"] = comparison.first.evaluation.data["location"]
    found["test set digest"] = comparison.first.evaluation.data["digest"]
    return found


def _figure(metric: Metric, gain: Gain) -> str:
    return f"{_gain(metric, gain)} [{100 * gain.wins:.0f} %]"


def _gain(metric: Metric, gain: Gain) -> str:
    text = f"{gain.mean * metric.scale:+.{metric.decimals}f}"
    if gain.low is not None and gain.high is not None:
        text += f" ± {metric.shown((gain.high - gain.low) / 2)}"
    return text
