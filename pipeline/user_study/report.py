"""The votes as the tables of the papers, beside the printed figures."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from infill.pipeline import storage
from infill.pipeline.reporting import (
    Section,
    facts,
    format_table,
    paragraphs,
    stack,
    table,
    write_report,
)
from infill.pipeline.user_study.questions import Study
from infill.pipeline.user_study.votes import Counted, Share

PRINTED: dict[str, tuple[tuple[str, str, str], ...]] = {
    "paired": (
        ("PEN-Net", "PEN-Net, Table 4 (Facade, 613 votes)", "82.10"),
        ("DeepFill v1", "PEN-Net, Table 4 (Facade, 613 votes)", "70.30"),
        ("PatchMatch", "PEN-Net, Table 4 (Facade, 613 votes)", "40.15"),
        ("Iizuka et al.", "PEN-Net, Table 4 (Facade, 613 votes)", "34.25"),
        ("PConv", "PEN-Net, Table 4 (Facade, 613 votes)", "23.70"),
        ("MADF", "MADF, Figure 10 (Places2)", "91.55"),
        ("MADF", "MADF, Figure 10 (CelebA-HQ)", "92.95"),
        ("MADF", "MADF, Figure 10 (Paris StreetView)", "85.73"),
    ),
    "single": (
        ("photograph", "PEN-Net, Table 5 (DTD, 1,425 votes)", "92.66"),
        ("PEN-Net, 32 x 32 hole", "PEN-Net, Table 5 (DTD, 1,425 votes)", "82.23"),
        ("PEN-Net, 64 x 64 hole", "PEN-Net, Table 5 (DTD, 1,425 votes)", "52.63"),
        ("PEN-Net, 128 x 128 hole", "PEN-Net, Table 5 (DTD, 1,425 votes)", "32.70"),
    ),
}
"""By kind of study: method, source and percentage as the papers print them."""

HEADINGS = {"paired": "chosen as the more natural (%)", "single": "taken for a photograph (%)"}


def tables(study: Study, counted: Counted) -> list[tuple[list[str], list[list[str]]]]:
    """Return header and rows of each table of a study."""
    heading = HEADINGS[study.kind]
    if study.kind == "single":
        groups = list(next(iter(counted.believed.values())))
        rows = [
            [method, *(_shown(shares[group]) for group in groups), str(shares["all"].votes)]
            for method, shares in counted.believed.items()
        ]
        return [([heading, *groups, "votes"], rows)]
    rows = [
        [method, _shown(share), str(share.votes)] for method, share in counted.preferred.items()
    ]
    methods = list(study.methods)
    duels = [
        [one, *(_shown(counted.against[one][other]) if other != one else "" for other in methods)]
        for one in methods
    ]
    return [
        (["method", heading, "times shown"], rows),
        (["chosen (%) when beside", *methods], duels),
    ]


def terminal_tables(study: Study, counted: Counted) -> str:
    """Return the job's tables."""
    parts = [format_table(*one) for one in tables(study, counted)]
    return "\n".join([*parts, _count(counted)])


def write_summary(study: Study, counted: Counted) -> str:
    """Write ``summary.json`` and ``summary.html`` beside the study; return the page's location."""
    text = json.dumps(_plain(asdict(counted)), indent=1, allow_nan=False) + "\n"
    storage.write(storage.join(study.out, "summary.json"), text.encode())
    printed: list[Sequence[str]] = [list(row) for row in PRINTED[study.kind]]
    location = storage.join(study.out, "summary.html")
    sections = [
        Section(
            title="Votes",
            body=stack(*(table(*one) for one in tables(study, counted)), paragraphs(_IN_WORDS)),
        ),
        Section(
            title="Beside the papers",
            body=stack(
                paragraphs("Printed by the papers, of their own images and people:"),
                table(
                    ["method", "from", HEADINGS[study.kind]], printed, quoted=range(len(printed))
                ),
            ),
        ),
        Section(title="Lineage", body=facts({**study.lineage, **study.settings})),
    ]
    title = {"paired": "Which is more natural?", "single": "Real or filled?"}[study.kind]
    write_report(location, f"User study: {title}", sections, summary=_count(counted))
    return location


_IN_WORDS = (
    "± is half the width of the 95 % interval: a bootstrap over photographs, since votes on one "
    "image are not independent. Voters saw neither masks nor originals nor names; the order of "
    "questions and sides was random for each voter."
)


def _count(counted: Counted) -> str:
    text = f"{counted.votes} votes of {counted.voters} people"
    return f"{text}; {counted.hasty} given too soon to count" if counted.hasty else text


def _shown(share: Share) -> str:
    if not share.votes:
        return "-"
    text = f"{100 * share.value:.2f}"
    if share.low is not None and share.high is not None:
        text += f" ± {50 * (share.high - share.low):.2f}"
    return text


def _plain(value: object) -> object:
    """Return a value as JSON: a share without votes is null."""
    if isinstance(value, dict):
        if value.get("votes") == 0 and "value" in value:
            return None
        return {name: _plain(inner) for name, inner in value.items()}
    return value
