"""A CSV or Parquet file of image paths, with splits if it has them."""

import codecs
import errno
import posixpath
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
from pyarrow import fs

from infill.pipeline import storage
from infill.pipeline.errors import UserError, printable
from infill.pipeline.sources.original import Original, split_named
from infill.pipeline.sources.stores import open_store

BATCH_ROWS = 1000
THREADS = 16
"""Threads that look files of a list up."""
LISTS = (".csv", ".parquet")
LONGEST_SHOWN = 300
"""Characters of a path that is shown; longer ones cannot be file names."""
AS_CSV = "; save it as CSV in UTF-8, with commas between the columns"


def is_list(path: str) -> bool:
    """Return whether a file is a list of images, by its name."""
    return path.lower().endswith(LISTS)


@dataclass(frozen=True)
class ListSource:
    """The images of a list with a column ``path`` and, optionally, ``split``.

    Paths are absolute, s3://, or relative to the list's own folder. Their order is the list's.
    """

    location: str

    @property
    def passed_over(self) -> Counter[str]:
        """None: every row is an image, or quarantined."""
        return Counter()

    def originals(self) -> Iterator[Original]:
        """Yield the list's images.

        Raises:
            UserError: if the list is missing, has no column ``path``, a path other than text,
                an unknown split, or names a file that does not exist.
        """
        first = 1
        for rows in self._rows():
            for number, row in enumerate(rows, first):
                row["path"] = self._path(number, row["path"])
                row["split"] = self._split(number, row["split"])
            locations = [self._location(row["path"]) for row in rows]
            sizes = _sizes(locations)
            for row, location in zip(rows, locations, strict=True):
                size = sizes[location]
                if size is None:
                    raise UserError(
                        f"{self.location} names {printable(row['path'][:LONGEST_SHOWN])}, which is "
                        "no file; remove the row"
                    )
                yield Original(
                    path=row["path"],
                    size=size,
                    file=location.encode(),
                    split=row["split"],
                )
            first += len(rows)

    def _path(self, number: int, path: Any) -> str:
        """Return a row's path without blanks around it and without file://."""
        if isinstance(path, str) and path.strip():
            found = path.strip().removeprefix("file://")
            if storage.is_remote(found) and not found.startswith("s3://"):
                raise UserError(
                    f"{self.location}: column path of row {number} is {found}, which is not read; "
                    "give paths and s3:// addresses"
                )
            return found if "/" in found else found.replace("\\", "/")
        what = "is empty" if path is None or isinstance(path, str) else f"is {path!r}, not text"
        raise UserError(f"{self.location}: column path of row {number} {what}; correct the row")

    def _split(self, number: int, split: Any) -> str | None:
        """Return a row's split, in lower case; None if the cell is empty."""
        if split is None or (isinstance(split, str) and not split.strip()):
            return None
        found = split_named(split.strip()) if isinstance(split, str) else None
        if found is None:
            raise UserError(
                f"{self.location} puts row {number} into split {split!r}; train, val and test are "
                "the splits"
            )
        return found

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
        except IsADirectoryError as error:
            raise UserError(
                f"{self.location} is a folder, not a list; give one CSV or Parquet file"
            ) from error
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            advice = "" if self.location.lower().endswith(".parquet") else AS_CSV
            raise UserError(
                f"{self.location} cannot be read as a table: {error}{advice}"
            ) from error
        names = [name.strip().lower() for name in table.column_names]
        for name in ("path", "split"):
            if names.count(name) > 1:
                raise UserError(f"{self.location} has several columns {name}; keep one")
        if "path" not in names:
            found = ", ".join(table.column_names)
            advice = AS_CSV if any(mark in found for mark in ";\t|") else ""
            raise UserError(f"{self.location} has no column path, only {found}{advice}")
        table = table.rename_columns(names)
        if "split" not in table.column_names:
            table = table.append_column("split", pa.nulls(table.num_rows, pa.string()))
        for batch in table.select(["path", "split"]).to_batches(BATCH_ROWS):
            yield batch.to_pylist()


def _table(location: str) -> pa.Table:
    data = storage.read(location)  # complete, or an error: a truncated list would be valid
    if location.lower().endswith(".parquet"):
        return storage.table_of(data)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise pa.ArrowInvalid("it is in UTF-16")
    options = pa.csv.ReadOptions(use_threads=False)
    names = pa.csv.open_csv(pa.BufferReader(data), read_options=options).schema.names
    kinds = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True
    )
    return pa.csv.read_csv(pa.BufferReader(data), read_options=options, convert_options=kinds)


def _sizes(locations: list[str]) -> dict[str, int | None]:
    """Return each file's size, or None if it does not exist."""
    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(locations, threads.map(_size, locations), strict=True))


def _size(location: str) -> int | None:
    """Return a file's size, or None if it does not exist, as under a name that cannot be one."""
    try:
        info = storage.info(location)
    except pa.ArrowInvalid:  # A character of value 0.
        return None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None
    return info.size if info.type == fs.FileType.File else None
