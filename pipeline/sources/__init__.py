"""Sources of original images, their splits, and how their bytes are read.

A source lists its originals in one order that does not depend on the machine, and reads each by its
entry in the list. The driver makes the list; the task that writes a shard reads the bytes. The
files are in a ``store``: a folder or an s3:// prefix.

To add one, write a module here with a class that has the methods of ``Source``, and give it a line
in ``KINDS``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from infill.pipeline import storage
from infill.pipeline.errors import UserError, suggestion
from infill.pipeline.images.kinds import SUFFIXES
from infill.pipeline.sources.archives import ArchiveSource, is_archive
from infill.pipeline.sources.bundled import BUNDLED, BundledSource
from infill.pipeline.sources.folder import FolderSource
from infill.pipeline.sources.lists import ListSource, is_list
from infill.pipeline.sources.named import NAMED, NamedSet, NamedSource
from infill.pipeline.sources.original import SPLITS, Original, Source
from infill.pipeline.sources.stores import S3Config, Store, open_store

__all__ = [
    "BUNDLED",
    "KINDS",
    "SPLITS",
    "SUFFIXES",
    "Original",
    "S3Config",
    "Source",
    "SourceKind",
    "open_source",
    "require_kind",
    "require_location",
]

Open = Callable[[str], Source]
"""Opens a source by its location: a path or s3:// prefix."""


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """One kind of source."""

    about: str
    """What it holds, as a sentence of the help."""
    open: Open
    needs_location: bool = True
    """Whether a location must be given."""


def open_source(kind: str, location: str) -> Source:
    """Return a source by its kind.

    Args:
        kind: a name in ``KINDS``.
        location: a path or s3:// prefix; "" for a kind that needs none.

    Raises:
        UserError: if the kind is unknown or the location is missing or impossible.
    """
    require_location(kind, location)
    return KINDS[kind].open(location)


def require_location(kind: str, location: str) -> None:
    """Refuse a source of an unknown kind, or one without a location that needs it.

    Raises:
        UserError: with what to give.
    """
    require_kind(kind)
    if KINDS[kind].needs_location and not location:
        raise UserError("the source is empty: give the folder of photographs with --source DIR")


def require_kind(kind: str) -> None:
    """Refuse a source of an unknown kind.

    Raises:
        UserError: with the nearest known kind.
    """
    if kind not in KINDS:
        near = suggestion(kind, KINDS) or "."
        raise UserError(f"there is no source {kind!r}{near} The sources are: {', '.join(KINDS)}.")


def _one_archive(location: str) -> Source:
    folder, _, name = storage.absolute(location).rpartition("/")
    store = open_store(folder or "/")
    if not store.has(name):
        raise UserError(f"there is no archive {location}")
    return ArchiveSource(store, name)


def _stored(build: Callable[[Store], Source]) -> Open:
    """Return a function that opens one archive, a list, or a folder or prefix with ``build``."""

    def open_location(location: str) -> Source:
        if is_archive(location):
            return _one_archive(location)
        if is_list(location):
            return ListSource(storage.absolute(location))
        return build(open_store(location))

    return open_location


def _public(published: NamedSet) -> SourceKind:
    return SourceKind(
        about=f"{published.title}, as its authors share it.",
        open=_stored(lambda store: NamedSource(published, store)),
    )


KINDS: dict[str, SourceKind] = {
    "folder": SourceKind(
        about="A folder of photographs, one zip or tar of them, or a CSV or Parquet list.",
        open=_stored(FolderSource),
    ),
    "archives": SourceKind(
        about="A folder of zips and tars of photographs.", open=_stored(ArchiveSource)
    ),
    "bundled": SourceKind(
        about="The photographs that installed packages carry.",
        open=lambda _: BundledSource(),
        needs_location=False,
    ),
    **{name: _public(published) for name, published in NAMED.items()},
}
"""Every kind of source, by its name."""
