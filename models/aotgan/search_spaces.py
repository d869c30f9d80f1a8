"""AOT-GAN's search spaces."""

from typing import Any

from infill.models.tables import Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "rates": {"rates": ((1,), (1, 2), (1, 2, 4, 8), (8,))},
    "residual": {"residual": ("identity", "gated")},
    "discriminator": {"discriminator_target": ("patch", "hard", "soft")},
    "adversarial": {"adversarial_form": ("released", "hide")},
    "lambdas": {
        "style_weight": (25.0, 250.0, 2500.0),
        "perceptual_weight": (0.01, 0.1, 1.0),
        "adversarial_weight": (0.001, 0.01, 0.1),
    },
    "blocks": {"num_blocks": (4, 8, 12)},
}
"""Dilations, the gate and what the discriminator learns, each of which the authors study; the form
of the adversarial loss; weights around the released; blocks."""

TABLES: dict[str, Table] = {}
"""The text is not at hand, and rows are not to be guessed: the studies are search spaces."""
