"""Masks among the images of a source, by their names: they are counted, not sharded as images."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

_NUMBERED = re.compile(r"_mask\d*$", re.IGNORECASE)
"""The end of a mask's stem: name_mask, or name_mask001 as LaMa's data has it."""
FOLDERS = ("mask", "masks")
"""Folders that may hold masks, in lower case."""
BESIDE = ("", "images/", "image/", "imgs/", "img/", "photos/", "pictures/")
"""Where the image of ``masks/x.png`` may lie, beside the folder of masks."""


@dataclass
class MaskNames:
    """Distinguishes masks from images in a listing, path by path in its order.

    A mask is ``x_mask.*`` or ``x_mask001.*`` after ``x.*``, and whatever lies in a folder ``masks``
    whose first file has the stem of an image beside the folder.
    """

    has_image: Callable[[str], bool] | None = None
    """Returns whether the source has an image of a stem; None if that is not known meanwhile."""
    _stems: list[str] = field(default_factory=list)
    """Stems of the images before that the path at hand begins with."""
    _folders: dict[str, bool] = field(default_factory=dict)

    def is_mask(self, path: str) -> bool:
        """Return whether the next image of the listing is a mask."""
        stem = path.rpartition(".")[0]
        while self._stems and not path.startswith(self._stems[-1]):
            self._stems.pop()
        named = _NUMBERED.sub("", stem)
        if (named != stem and named in self._stems) or self._in_folder_of_masks(stem):
            return True
        self._stems.append(stem)
        return False

    def _in_folder_of_masks(self, stem: str) -> bool:
        *folders, _ = stem.split("/")
        index = next((i for i, name in enumerate(folders) if name.lower() in FOLDERS), None)
        if index is None or self.has_image is None:
            return False
        folder = "/".join(folders[: index + 1])
        if folder not in self._folders:
            above = "".join(f"{name}/" for name in folders[:index])
            rest = stem[len(folder) + 1 :]
            self._folders[folder] = any(self.has_image(above + one + rest) for one in BESIDE)
        return self._folders[folder]
