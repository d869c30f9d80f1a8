"""MI-GAN's search spaces."""

from typing import Any

from infill.models.tables import Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "kernels": {"num_kernels": (1, 4, 9)},
    "penalty": {"penalty_weight": (1.0, 10.0, 100.0)},
    "widths": {"channel_base": (8192, 16384, 32768), "channel_max": (128, 256, 512)},
}
"""Parallel kernels, whose use the released configurations compare; the penalty; widths."""

TABLES: dict[str, Table] = {}
"""The text is not at hand, and rows are not to be guessed: the studies are search spaces."""
