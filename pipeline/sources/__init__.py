"""Sources of original images, their splits, and how their bytes are read.

A source lists its originals in one order that does not depend on the machine, and reads each by its
entry in the list. The driver makes the list; the task that writes a shard reads the bytes. The
files are in a ``store``: a folder or an s3:// prefix.
"""

from infill.pipeline import storage
from infill.pipeline.errors import UserError, suggestion
from infill.pipeline.images.kinds import SUFFIXES
from infill.pipeline.sources.archives import ArchiveSource, is_archive
from infill.pipeline.sources.bundled import BUNDLED, BundledSource
from infill.pipeline.sources.folder import FolderSource
from infill.pipeline.sources.lists import ListSource, is_list
from infill.pipeline.sources.named import NAMED, NamedSource
from infill.pipeline.sources.original import SPLITS, Original, Source
from infill.pipeline.sources.stores import S3Config, open_store

__all__ = [
    "BUNDLED",
    "KINDS",
    "SPLITS",
    "SUFFIXES",
    "Original",
    "S3Config",
    "Source",
    "open_source",
    "require_kind",
]

KINDS = ("folder", "archives", "bundled", *NAMED)


def open_source(kind: str, location: str) -> Source:
    """Return a source by its kind.

    Args:
        kind: "folder", "archives", "bundled", or the name of a public set.
        location: a path or s3:// prefix; not used for "bundled". For "folder" it may also be one
            zip or tar, a CSV or a Parquet list.

    Raises:
        UserError: if the kind is unknown or the location is missing or impossible.
    """
    require_kind(kind)
    if kind == "bundled":
        return BundledSource()
    if not location:
        raise UserError("the source is empty: give the folder of photographs with --source DIR")
    if is_archive(location):
        return _one_archive(location)
    if is_list(location):
        return ListSource(storage.absolute(location))
    store = open_store(location)
    if kind in NAMED:
        return NamedSource(NAMED[kind], store)
    return ArchiveSource(store) if kind == "archives" else FolderSource(store)


def require_kind(kind: str) -> None:
    """Refuse a source of an unknown kind.

    Raises:
        UserError: with the nearest known kind.
    """
    if kind not in KINDS:
        raise UserError(
            f"there is no source {kind!r}{suggestion(kind, KINDS)}  The sources are: "
            f"{', '.join(KINDS)}."
        )


def _one_archive(location: str) -> Source:
    folder, _, name = storage.absolute(location).rpartition("/")
    store = open_store(folder or "/")
    if not store.has(name):
        raise UserError(f"there is no archive {location}")
    return ArchiveSource(store, name)
