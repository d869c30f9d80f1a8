"""A CSV or Parquet file of image paths, with splits if it has them."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
from pyarrow import fs

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.sources.original import SPLITS, Original
from infill.pipeline.sources.stores import open_store

BATCH_ROWS = 1000
LISTS = (".csv", ".parquet")


def is_list(path: str) -> bool:
    """Return whether a file is a list of images, by its name."""
    return path.lower().endswith(LISTS)


@dataclass(frozen=True)
class ListSource:
    """The images of a list with a column ``path`` and, optionally, ``split``.

    Paths are absolute, s3://, or relative to the list's own folder. Their order is the list's.
    """

    location: str

    def originals(self) -> Iterator[Original]:
        """Yield the list's images.

        Raises:
            UserError: if the list is missing, has no column ``path``, an unknown split, or names a
                file that does not exist.
        """
        for rows in self._rows():
            locations = [self._location(row["path"]) for row in rows]
            sizes = _sizes(locations)
            for row, location in zip(rows, locations, strict=True):
                size = sizes[location]
                if size is None:
                    raise UserError(
                        f"{self.location} names {row['path']}, which does not exist; remove the row"
                    )
                if row["split"] not in (None, *SPLITS):
                    raise UserError(
                        f"{self.location} puts {row['path']} into split {row['split']!r}; "
                        "train, val and test are the splits"
                    )
                yield Original(
                    path=row["path"],
                    size=size,
                    file=location.encode(),
                    split=row["split"],
                )

    def read(self, original: Original) -> bytes:
        """Return a photograph's bytes."""
        folder, _, name = original.file.decode().rpartition("/")
        return open_store(folder or "/").read(name.encode())

    def _location(self, path: str) -> str:
        if storage.is_remote(path) or path.startswith("/"):
            return path
        return posixpath.join(self.location.rpartition("/")[0], path)

    def _rows(self) -> Iterator[list[dict[str, Any]]]:
        try:
            table = _table(self.location)
        except FileNotFoundError as error:
            raise UserError(f"there is no list {self.location}") from error
        except pa.ArrowInvalid as error:
            raise UserError(f"{self.location} cannot be read as a table: {error}") from error
        if "path" not in table.column_names:
            found = ", ".join(table.column_names)
            raise UserError(f"{self.location} has no column path, only {found}")
        if "split" not in table.column_names:
            table = table.append_column("split", pa.nulls(table.num_rows, pa.string()))
        for batch in table.select(["path", "split"]).to_batches(BATCH_ROWS):
            yield batch.to_pylist()


def _table(location: str) -> pa.Table:
    data = storage.read(location)  # complete, or an error: a truncated list would be valid
    if location.lower().endswith(".parquet"):
        return storage.table_of(data)
    options = pa.csv.ReadOptions(use_threads=False)
    kinds = pa.csv.ConvertOptions(
        column_types={"path": pa.string(), "split": pa.string()}, strings_can_be_null=True
    )
    return pa.csv.read_csv(pa.BufferReader(data), read_options=options, convert_options=kinds)


def _sizes(locations: list[str]) -> dict[str, int | None]:
    """Return each file's size, or None if it does not exist."""
    found: dict[str, int | None] = {}
    for remote in (False, True):
        chosen = [location for location in locations if storage.is_remote(location) == remote]
        if not chosen:
            continue
        system = storage.filesystem(chosen[0])[0]
        infos = system.get_file_info([location.removeprefix("s3://") for location in chosen])
        for location, info in zip(chosen, infos, strict=True):
            found[location] = info.size if info.type == fs.FileType.File else None
    return found
