"""The rows of SPN's tables and of its ablations (Tables 3 to 5, Fig. 7)."""

from infill.models.architecture import OtherMethod, Variant
from infill.models.spn.config import SPNConfig

OTHERS = tuple(
    OtherMethod(
        name=name,
        source=f"{table}, as printed; not run here",
        published=parameters,
        published_time=f"{seconds} s, RTX 3090",
    )
    for name, parameters, seconds, table in (
        ("EdgeConnect", "21M", "0.03", "Table 6"),
        ("MFE", "130M", "0.05", "Table 6"),
        ("RFR", "30M", "0.02", "Table 6"),
        ("RN", "11M", "0.04", "Table 6"),
        ("WF", "49M", "0.06", "Table 6"),
        ("CTSDG", "52M", "0.05", "Table 6"),
        ("PIC", "10M", "0.03", "Sec. 4.6"),
        ("DSI", "256M", "25", "Sec. 4.6"),
    )
)
"""The methods beside SPN and SPL in Table 6, and the probabilistic ones of Sec. 4.6."""


def variants() -> tuple[Variant, ...]:
    """Return every row that a switch expresses; the heads of training are counted, as printed.

    The released networks have these numbers to the digit; the papers print whole millions. Rows
    without a figure are defined by no release.
    """
    return (
        Variant(
            name="full",
            config=SPNConfig(),
            published="50,702,643",
            source="released; 50M in Tables 4 and 6",
            published_time="0.05 s, RTX 3090",
        ),
        Variant(
            name="blocks-4",
            config=SPNConfig(num_blocks=4),
            published="38,898,995",
            source="released code; 38M in Table 4",
        ),
        Variant(
            name="blocks-12",
            config=SPNConfig(num_blocks=12),
            published="62,506,291",
            source="released code; 62M in Table 4",
        ),
        Variant(
            name="probabilistic",
            config=SPNConfig(variant="probabilistic"),
            published="68,512,883",
            source="released; 68M in Sec. 4.6",
            published_time="0.07 s, RTX 3090",
        ),
        Variant(
            name="spl",
            config=SPNConfig.spl(),
            published="45,597,223",
            source="released; 45M in Table 6",
            published_time="0.04 s, RTX 3090",
        ),
        Variant(name="levels-1", config=SPNConfig(prior_levels=1), source="Table 3, 64"),
        Variant(name="levels-2", config=SPNConfig(prior_levels=2), source="Table 3, 64 + 128"),
        Variant(name="concat", config=SPNConfig(fusion="concat"), source="Fig. 7, without SPADE"),
        Variant(
            name="untaught",
            config=SPNConfig(prior_weight=0.0),
            source="Fig. 7, without semantic supervision",
        ),
    )
