"""A folder of image files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from infill.pipeline.errors import UserError
from infill.pipeline.images.kinds import ARCHIVES_BESIDE, MASKS, SUFFIXES
from infill.pipeline.sources.mask_names import MaskNames
from infill.pipeline.sources.original import (
    Original,
    count_unread,
    is_image_name,
    nested_split_of,
    split_of,
)
from infill.pipeline.sources.stores import Store, StoredFile, count_lost_folder


@dataclass(frozen=True)
class FolderSource:
    """All images below a folder or prefix; folders named train, val and test are splits."""

    store: Store
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)
    """Number of images of kinds that are not read, by suffix, and of links not followed."""

    def originals(self) -> Iterator[Original]:
        """Yield the tree's images, ordered by path."""
        self.passed_over.clear()
        images, archives = 0, 0
        masks = MaskNames(self._has_image)
        for found in self.store.files():
            archives += found.path.lower().endswith((".tar", ".zip", ".tar.gz", ".tgz"))
            images += is_image_name(found.path)
            count_unread(found.path, self.passed_over)
            count_lost_folder(found, self.passed_over)
            if not is_image_name(found.path):
                continue
            if masks.is_mask(found.path):
                self.passed_over[MASKS] += 1
            else:
                yield replace(
                    whole_file(found, split_of(found.path)),
                    nested_split=nested_split_of(found.path),
                )
        if images:
            self.passed_over[ARCHIVES_BESIDE] += archives
        elif archives:
            raise UserError(
                f"the source holds no images but {archives} archives; read them with `python "
                "jobs/make_shards.py archives --source FOLDER`, or train from WebDataset tars as "
                "they are: --data.shards 'FOLDER/{000..123}.tar'"
            )

    def _has_image(self, stem: str) -> bool:
        return any(self.store.has(stem + suffix) for suffix in SUFFIXES)

    def read(self, original: Original) -> bytes:
        """Return a file's bytes."""
        return self.store.read(original.file)


def whole_file(found: StoredFile, split: str | None) -> Original:
    """Return the original of a file."""
    return Original(path=found.path, size=found.size, file=found.file, split=split)
