"""MI-GAN's search spaces."""

from typing import Any

from infill.models.tables import Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "kernels": {"num_kernels": (1, 4, 9)},
    "distillation": {"distillation_weight": (0.0, 0.5, 2.0, 8.0)},
    "penalty": {"penalty_weight": (1.0, 10.0, 100.0)},
    "widths": {"channel_base": (8192, 16384, 32768), "channel_max": (128, 256, 512)},
}
"""Parallel kernels and distillation, with and without which the released configurations train; the
penalty; widths."""

TABLES: dict[str, Table] = {}
"""The text is not at hand, and rows are not to be guessed: the studies are search spaces."""
