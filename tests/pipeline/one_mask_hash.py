"""Print a hash of 1,000 masks of every recipe, half of them forced into a range, as JSON."""

import hashlib
import json
import sys
import typing
from pathlib import Path

import cv2
import numpy as np

from infill.pipeline.masks import MaskConfig, Recipe, generate_mask

SIZE = (48, 64)
RANGES = ({}, {"min_hole_ratio": 0.2, "max_hole_ratio": 0.4, "hole_ratios": "uniform"})
"""As the recipe gives them, and grown or shrunk."""


def write_shapes(folder: Path) -> None:
    """Write the mask files of the recipes that need some."""
    folder.mkdir(exist_ok=True)
    for index in range(6):
        picture = np.zeros((80, 100), np.uint8)
        cv2.ellipse(picture, (20 + 10 * index, 40), (6 + 3 * index, 14), 20, 0, 360, 255, -1)
        cv2.imwrite(str(folder / f"shape{index}.png"), picture)


def hashes(folder: Path) -> dict[str, str]:
    """Return the first digits of the SHA-256 of each recipe's masks."""
    found = {}
    for recipe in typing.get_args(Recipe):
        digest = hashlib.sha256()
        place = str(folder) if recipe in ("files", "silhouettes") else ""
        for group, fields in enumerate(RANGES):
            chosen = {} if recipe in ("centre", "half", "grid") else fields
            config = MaskConfig(recipe=recipe, folder=place, **chosen)
            for index in range(500):
                digest.update(generate_mask(config, f"{group}/{index}", 0, 3, *SIZE).hole)
        found[recipe] = digest.hexdigest()[:16]
    return found


if __name__ == "__main__":
    write_shapes(Path(sys.argv[1]))
    print(json.dumps(hashes(Path(sys.argv[1]))))
