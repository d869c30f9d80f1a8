"""The photographs that scikit-image and scikit-learn carry, each with its split."""

import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from infill.pipeline.errors import UserError
from infill.pipeline.sources.original import Original

BUNDLED = {
    "skimage/data/astronaut.png": "train",
    "skimage/data/brick.png": "val",
    "skimage/data/camera.png": "train",
    "skimage/data/chelsea.png": "test",
    "skimage/data/clock_motion.png": "train",
    "skimage/data/coffee.png": "val",
    "skimage/data/coins.png": "test",
    "skimage/data/grass.png": "train",
    "skimage/data/gravel.png": "train",
    "skimage/data/hubble_deep_field.jpg": "train",
    "skimage/data/moon.png": "train",
    # motorcycle_right.png shows the same scene for the other eye: using both could leak.
    "skimage/data/motorcycle_left.png": "train",
    "skimage/data/rocket.jpg": "test",
    "sklearn/datasets/images/china.jpg": "train",
    "sklearn/datasets/images/flower.jpg": "test",
}
"""The images that installed packages carry, and their splits."""


class BundledSource:
    """The images of :data:`BUNDLED`, located on each machine."""

    @property
    def passed_over(self) -> Counter[str]:
        """None: all of them are read."""
        return Counter()

    def originals(self) -> Iterator[Original]:
        """Yield the images, ordered by path.

        Raises:
            UserError: if a package, or one of its images, is missing.
        """
        for file, split in sorted(BUNDLED.items()):
            path = _find(file)
            if not path.is_file():
                raise UserError(f"{path} is missing; reinstall with `pip install infill[demo]`")
            package, *_, name = file.split("/")
            size = path.stat().st_size
            yield Original(path=f"{package}/{name}", size=size, file=file.encode(), split=split)

    def read(self, original: Original) -> bytes:
        """Return a photograph's bytes."""
        return _find(original.file.decode()).read_bytes()


def _find(file: str) -> Path:
    package, _, inside = file.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the bundled photographs need {package}, which is not installed: "
            "`pip install infill[demo]`"
        )
    return Path(found.submodule_search_locations[0]) / inside
