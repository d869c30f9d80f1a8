"""The configuration of a user study."""

from dataclasses import dataclass
from typing import Literal

from infill.pipeline.errors import UserError

Kind = Literal["paired", "single"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Which results are compared, how, and where people vote."""

    evaluations: tuple[str, ...]
    """Folders that ``jobs/evaluate.py`` wrote, over the same pairs."""
    baselines: tuple[str, ...] = ()
    """Baselines of the first evaluation to be compared as well, by name."""
    kind: Kind = "paired"
    """"paired": two pictures of one pair by different methods, which is more natural (MADF,
    Figure 10; PEN-Net, Table 4). "single": one picture, filled or untouched, is it a real
    photograph (PEN-Net, Table 5)."""
    num_pairs: int = 100
    """Pairs to ask about, of as many photographs as there are."""
    questions_per_voter: int = 50
    """How many of the questions one person is asked."""
    least_ms: int = 300
    """An answer given sooner was given without looking, and does not count."""
    out: str = "runs/study"
    """Folder or s3:// prefix of questions, pictures and votes."""
    seed: int = 0
    """Of the choice of pairs."""
    host: str = "127.0.0.1"
    """Where the page is served; 0.0.0.0 opens it to others, who can then vote."""
    port: int = 8010
    summarise: bool = False
    """Only count the votes there are."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to ask."""
        if not self.evaluations:
            raise UserError("a study needs at least one evaluation: give --evaluations")
        if self.kind == "paired" and len(self.evaluations) + len(self.baselines) < 2:
            raise UserError(
                "a paired study needs two evaluations, or one and a baseline: give --baselines"
            )
        for name in ("num_pairs", "questions_per_voter"):
            if getattr(self, name) < 1:
                raise UserError(f"study: {name} must be at least 1: {getattr(self, name)}")
