"""The configuration of a user study."""

from dataclasses import dataclass
from typing import Literal

from infill.pipeline.errors import UserError

Kind = Literal["paired", "single"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The evaluations that people compare, the kind of questions, and the address of the page."""

    evaluations: tuple[str, ...]
    """Folders of ``jobs/evaluate.py``, evaluated on the same pairs."""
    baselines: tuple[str, ...] = ()
    """Names of baselines of the first evaluation that are compared as well."""
    kind: Kind = "paired"
    """Kind of question. "paired" shows one pair inpainted by two methods: which is more natural
    (MADF, Figure 10; PEN-Net, Table 4)? "single" shows one image, inpainted or original: is it a
    real photograph (PEN-Net, Table 5)?"""
    num_pairs: int = 100
    """Number of pairs in the study, from as many images as there are."""
    questions_per_voter: int = 50
    """Number of questions per person."""
    least_ms: int = 300
    """Minimum milliseconds per answer; faster votes do not count."""
    out: str = "runs/study"
    """Folder or s3:// prefix for questions, images and votes."""
    seed: int = 0
    """Seed of the choice of pairs."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the page to the network, so that others can vote."""
    port: int = 8010
    """TCP port of the page."""
    summarise: bool = False
    """Whether to count the votes so far and end, instead of serving the page."""

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
