"""Which image meets which mask: decided by arithmetic before anything is read.

Pair p of a test set is the same image and the same hole for every checkpoint, on every machine:
a function of manifest, groups, repeats and seed. So two models are always scored on equal terms,
and any worker can take any stretch of pairs.
"""

from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.batches import load_sample
from pipeline.config import UserError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.protocols import Group
from pipeline.manifest import Manifest
from pipeline.masks import Mask, draw_mask
from pipeline.pictures import Pixels

MOST_PARTS = 200
"""Parts an evaluation is cut into: small enough to lose little, few enough to list quickly."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image under one mask."""

    index: int
    row: int
    """Of the image, in the manifest."""
    key: str
    source: str
    """The original photograph: pairs that share it are not independent."""
    group: Group
    repeat: int
    """Which of the masks for this image and group; it takes the epoch's place in the recipe."""


class Pairs:
    """All pairs of an evaluation."""

    def __init__(self, config: EvaluationConfig, manifest: Manifest, image_size_px: int):
        """Lay masks over a test set.

        Raises:
            UserError: if the set is empty, or an image is smaller than the crop.
        """
        self.manifest = manifest
        self.groups = config.groups
        self.repeats = config.pairs_per_image
        self.images = min(len(manifest), config.num_images or len(manifest))
        self.image_size_px = image_size_px
        self.crop = config.setting.crop
        self.seed = config.seed
        least = -(-len(self) // MOST_PARTS)
        self.pairs_per_part = -(-least // config.batch_size) * config.batch_size
        self._check()

    def __len__(self) -> int:
        return self.images * len(self.groups) * self.repeats

    def __getitem__(self, index: int) -> Pair:
        """Return pair ``index``; the pairs of one image lie together, group by group."""
        rest, repeat = divmod(index, self.repeats)
        row, group = divmod(rest, len(self.groups))
        return Pair(
            index=index,
            row=row,
            key=self.manifest.samples.column("key")[row].as_py(),
            source=self.manifest.samples.column("source")[row].as_py(),
            group=self.groups[group],
            repeat=repeat,
        )

    @property
    def num_parts(self) -> int:
        """Parts that are scored, written and resumed as a whole."""
        return -(-len(self) // self.pairs_per_part)

    def part(self, number: int) -> range:
        """Return the pairs of a part."""
        first = number * self.pairs_per_part
        return range(first, min(first + self.pairs_per_part, len(self)))

    def examples(self, count: int) -> list[int]:
        """Return pairs to show: spread over the images, each from the next group in turn."""
        count = min(count, len(self))
        per_image = len(self.groups) * self.repeats
        chosen = []
        for number in range(count):
            row = number * self.images // count
            chosen.append(row * per_image + number % len(self.groups) * self.repeats)
        return sorted(set(chosen))

    def image(self, pair: Pair) -> Pixels:
        """Read a pair's image: uint8 [H, W, 3]."""
        image: Pixels = load_sample(self.manifest, pair.row, self.image_size_px, crop=self.crop)
        return image

    def mask(self, pair: Pair) -> Mask:
        """Draw a pair's mask."""
        side = self.image_size_px
        return draw_mask(pair.group.masks, pair.key, pair.repeat, self.seed, side, side)

    def _check(self) -> None:
        if not self.images:
            raise UserError(f"the test set {self.manifest.location} holds no image")
        if self.crop != "centre":
            return
        samples = self.manifest.samples.slice(0, self.images)
        least = pc.min_element_wise(samples["height_px"], samples["width_px"])
        small = pc.index(pc.less(least, self.image_size_px), True).as_py()
        if small >= 0:
            raise UserError(
                f"image {samples['key'][small]} of {self.manifest.location} is "
                f"{samples['width_px'][small]}x{samples['height_px'][small]} px, smaller than the "
                f"crop of {self.image_size_px} px; give a smaller --image-size-px, or --crop squash"
            )
