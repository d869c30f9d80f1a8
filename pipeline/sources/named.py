"""Public datasets by name: their layout, image counts and test splits.

A dataset is read as its authors distribute it, unpacked or as archives, and refused unless every
part has the published number of images: otherwise half a download would train silently.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from infill.pipeline.errors import UserError
from infill.pipeline.sources.archives import is_archive, members, read_member
from infill.pipeline.sources.folder import whole_file
from infill.pipeline.sources.original import Original, is_image_name
from infill.pipeline.sources.stores import Store, StoredFile

Rule = Callable[[Store], Callable[[str], str | None]]
"""Returns, for a store, the function from a path to its split; None leaves an image out."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder or archive of a public dataset."""

    paths: tuple[str, ...]
    """Its possible paths, of which the first that exists is used; "" is the dataset's own
    folder."""
    counts: tuple[int, ...]
    """Its number of images; several if distributions differ."""
    split: str | None = None
    """Split of all its images; None if ``rule`` decides."""
    suffixes: tuple[str, ...] = ("",)
    """Suffixes of its images; other images (label maps, for example) are skipped."""
    take: int | None = None
    """Number of images to use, the first by path; None for all."""


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A public dataset."""

    title: str
    parts: tuple[Part, ...]
    rule: Rule | None = None
    """The rule for the parts without a split of their own."""


def _by_list(file: str, names: dict[str, str]) -> Rule:
    """Read splits from a text file of lines ``name number``, as in CelebA."""

    def rule(store: Store) -> Callable[[str], str | None]:
        lines = _lines(store, file)
        splits = {name: names[number] for name, number in (line.split() for line in lines)}
        return lambda path: splits.get(path.rpartition("/")[2])

    return rule


def _by_lists(files: dict[str, str]) -> Rule:
    """Read splits from one text file of paths for each, as in DTD."""

    def rule(store: Store) -> Callable[[str], str | None]:
        splits = {name: split for split, file in files.items() for name in _lines(store, file)}
        return lambda path: splits.get("/".join(path.split("/")[-2:]))

    return rule


def _by_number(first_of_test: int) -> Rule:
    """Assign images from a number on to test, the others to train."""

    def split(path: str) -> str:
        numbers = re.findall(r"\d+", path.rpartition("/")[2])
        return "test" if numbers and int(numbers[0]) >= first_of_test else "train"

    return lambda store: split


def _by_number_in_folder(first_of_test: int) -> Rule:
    """Assign the images of each folder from a number on, by name, to test, the others to train."""

    def rule(store: Store) -> Callable[[str], str | None]:
        counts: Counter[str] = Counter()

        def split(path: str) -> str:
            folder = path.rpartition("/")[0]
            counts[folder] += 1
            return "test" if counts[folder] > first_of_test else "train"

        return split

    return rule


def _between(first_of_test: int, last_of_test: int) -> Rule:
    """Assign a stretch of numbers to test and those before it to train; the others are left out."""

    def split(path: str) -> str | None:
        numbers = re.findall(r"\d+", path.rpartition("/")[2])
        number = int(numbers[0]) if numbers else 0
        return "train" if number < first_of_test else "test" if number <= last_of_test else None

    return lambda store: split


def _lines(store: Store, file: str) -> list[str]:
    try:
        return store.read(file.encode()).decode().split("\n")[:-1]
    except FileNotFoundError as error:
        raise UserError(f"the split list {file} is missing; it comes with the set") from error


def _places2(size: str, take: int | None) -> NamedSet:
    train, val = (
        (("data_256", "train_256_places365standard.tar"), ("val_256", "val_256.tar"))
        if size == "standard"
        else (("data_large", "train_large_places365standard.tar"), ("val_large", "val_large.tar"))
    )
    return NamedSet(
        title=f"Places2 (Places365-Standard, {size})",
        parts=(
            Part(paths=train, counts=(1_803_460,), split="train"),
            Part(paths=val, counts=(36_500,), split="test", take=take),
        ),
    )


def _dtd(number: int) -> NamedSet:
    lists = {split: f"labels/{split}{number}.txt" for split in ("train", "val", "test")}
    return NamedSet(
        title=f"Describable Textures, split {number}",
        parts=(Part(paths=("images",), counts=(5640,)),),
        rule=_by_lists(lists),
    )


def _celeba_hq(paper: str, rule: Rule) -> NamedSet:
    return NamedSet(
        title=f"CelebA-HQ, split as in {paper}",
        parts=(
            Part(
                paths=("CelebA-HQ-img", "celeba_hq_256", "celeba-hq-1024", "images"),
                counts=(30_000,),
            ),
        ),
        rule=rule,
    )


NAMED = {
    "places2": _places2("standard", None),
    "places2-12k": _places2("standard", 12_000),  # as MADF and SPN test
    "places2-large": _places2("large", None),
    "places2-large-12k": _places2("large", 12_000),
    "celeba": NamedSet(
        title="CelebA (aligned and cropped)",
        parts=(Part(paths=("img_align_celeba", "img_align_celeba.zip"), counts=(202_599,)),),
        rule=_by_list("list_eval_partition.txt", {"0": "train", "1": "val", "2": "test"}),
    ),
    "celeba-madf": NamedSet(  # "200K images for training, the remaining for testing"
        title="CelebA (aligned and cropped), split as in MADF",
        parts=(Part(paths=("img_align_celeba", "img_align_celeba.zip"), counts=(202_599,)),),
        rule=_by_number(200_001),
    ),
    # The papers publish numbers and no lists: ours are the last by number (0 to 29,999).
    "celeba-hq": _celeba_hq("PEN-Net: 28,000 and 2,000", _by_number(28_000)),
    "celeba-hq-deepgin": _celeba_hq("DeepGIN: 27,000 and 3,000", _by_number(27_000)),
    "celeba-hq-spn": _celeba_hq("SPN: 27,000 and 2,800", _between(27_000, 29_799)),
    "paris": NamedSet(
        title="Paris StreetView",
        parts=(
            Part(paths=("paris_train_original",), counts=(14_900,), split="train"),
            Part(paths=("paris_eval_gt",), counts=(100,), split="test"),
        ),
    ),
    **{f"dtd-{number}": _dtd(number) for number in range(1, 11)},
    # PEN-Net's 4,512 and 1,128 are four fifths of each of the 47 classes, which have 120 images.
    "dtd-pennet": NamedSet(
        title="Describable Textures, split as in PEN-Net: 4,512 and 1,128",
        parts=(Part(paths=("images",), counts=(5640,)),),
        rule=_by_number_in_folder(96),
    ),
    # PEN-Net has 506 for train and 100 for test and names none: ours are the last of the base.
    "facade": NamedSet(
        title="CMP Facade",
        parts=(
            Part(paths=("base",), counts=(378,), suffixes=(".jpg",)),
            Part(paths=("extended",), counts=(228,), suffixes=(".jpg",), split="train"),
        ),
        rule=_by_number(279),
    ),
    "imagenet": NamedSet(
        title="ImageNet (ILSVRC2012)",
        parts=(
            Part(
                paths=("train", "ILSVRC2012_img_train", "ILSVRC2012_img_train.tar"),
                counts=(1_281_167,),
                split="train",
            ),
            Part(
                paths=("val", "ILSVRC2012_img_val", "ILSVRC2012_img_val.tar"),
                counts=(50_000,),
                split="test",
            ),
        ),
    ),
    "ffhq": NamedSet(
        title="FFHQ",
        parts=(Part(paths=("images1024x1024", "thumbnails128x128"), counts=(70_000,)),),
        rule=_by_number(60_000),  # the authors' own: the last 10,000 are for validation
    ),
    "oxford": NamedSet(
        title="Oxford Buildings",
        parts=(Part(paths=("oxbuild_images", "images", ""), counts=(5062, 5063), split="test"),),
    ),
    "ade20k-deepgin": NamedSet(
        title="ADE20K, the 10,330 images of the AIM 2020 challenge (DeepGIN)",
        parts=(Part(paths=("images/training", "train", ""), counts=(10_330,), split="train"),),
    ),
    "ade20k": NamedSet(
        title="ADE20K (scene parsing challenge)",
        parts=(
            Part(paths=("images/training",), counts=(20_210,), split="train"),
            Part(paths=("images/validation",), counts=(2000,), split="test"),
        ),
    ),
}
"""Public datasets by their name for ``open_source``."""


@dataclass(frozen=True)
class NamedSource:
    """A public dataset in a store."""

    named: NamedSet
    store: Store

    @property
    def passed_over(self) -> Counter[str]:
        """None: each part has its published number of images."""
        return Counter()

    def originals(self) -> Iterator[Original]:
        """Yield the dataset's images, part by part.

        Raises:
            UserError: if a part is missing or does not have the published number of images.
        """
        rule = self.named.rule(self.store) if self.named.rule else None
        for part in self.named.parts:
            found = 0
            for original in self._members(part):
                if not original.path.lower().endswith(part.suffixes):
                    continue
                found += 1
                split = part.split or (rule(original.path) if rule else None)
                if split is not None and (part.take is None or found <= part.take):
                    yield replace(original, split=split)
            self._require_count(part, found)

    def _members(self, part: Part) -> Iterator[Original]:
        path = self._path(part)
        if is_archive(path):
            archive = StoredFile(path=path, file=path.encode())
            yield from members(self.store, archive, path.rpartition(".")[0] + "/")
            return
        for found in self.store.files(path):
            if is_image_name(found.path):
                yield whole_file(found, None)

    def _path(self, part: Part) -> str:
        for path in part.paths:
            if self.store.has(path):
                return path
        raise UserError(
            f"{self.named.title} has no {' or '.join(part.paths)} in the source folder; "
            "give the folder that holds it, as the authors distribute it, with --source"
        )

    def _require_count(self, part: Part, found: int) -> None:
        if found not in part.counts:
            expected = " or ".join(f"{count:,}" for count in part.counts)
            raise UserError(
                f"{self.named.title}: {self._path(part) or 'the source folder'} holds {found:,} "
                f"photographs, expected {expected}; fetch the missing ones"
            )

    def read(self, original: Original) -> bytes:
        """Return a photograph's bytes."""
        if original.offset is not None:
            return read_member(self.store, original)
        return self.store.read(original.file)
