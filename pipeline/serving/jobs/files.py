"""The files of a job: its uploads, and its results."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infill.pipeline import storage
from infill.pipeline.serving.errors import RequestError

INPUT, RESULTS = "input", "results"
IDS = "ids.jsonl"
_IMAGE = re.compile(r"\.(png|jpg|jpeg|webp)$", re.IGNORECASE)
_FAILURES = "failures.jsonl"


@dataclass(frozen=True)
class JobFiles:
    """The folder of one job."""

    root: str
    """Location of the job's folder."""

    @property
    def input(self) -> str:
        """Folder of the uploaded images and masks."""
        return storage.join(self.root, INPUT)

    @property
    def results(self) -> str:
        """Folder of the composites."""
        return storage.join(self.root, RESULTS)

    def keep_pair(self, number: int, image: bytes, mask: bytes) -> None:
        """Write an uploaded pair under its number."""
        for data, end in ((image, ""), (mask, "_mask")):
            name = f"{number:06d}{end}{_suffix(data)}"
            storage.write(storage.join(self.input, name), data)

    def keep_ids(self, ids: list[str | int | None]) -> None:
        """Write the callers' ids of the pairs, by number."""
        lines = "".join(json.dumps(one) + "\n" for one in ids)
        storage.write(storage.join(self.root, IDS), lines.encode())

    def remove(self) -> None:
        """Delete the folder."""
        storage.remove(self.root)

    def lines(self, images: bool) -> Iterator[dict[str, Any]]:
        """Yield a line for each result that is there, and for each failed image.

        Args:
            images: whether lines carry the files.
        """
        ids = self._ids()
        for name in self._names():
            line: dict[str, Any] = {"id": _id_of(ids, name), "file": name}
            if images:
                line["data"] = storage.read(storage.join(self.results, name))
            yield line
        for failure in self._failures():
            yield {"id": _id_of(ids, failure["image"]), "error": failure["reason"]}

    def read(self, name: str) -> bytes:
        """Return a composite.

        Raises:
            RequestError: 404 if there is none of this name.
        """
        parts = name.split("/")
        if _IMAGE.search(name) and "\0" not in name and not {"", ".", ".."} & set(parts):
            try:
                return storage.read(storage.join(self.results, *parts))
            except OSError:
                pass
        raise RequestError(404, "unknown_job", "the job has no result of this name")

    def _names(self) -> list[str]:
        path = storage.filesystem(self.results)[1]
        found = storage.infos(self.results, recursive=True)
        names = (info.path.removeprefix(path).lstrip("/") for info in found if info.is_file)
        return sorted(name for name in names if _IMAGE.search(name))

    def _ids(self) -> list[Any]:
        location = storage.join(self.root, IDS)
        if not storage.exists(location):
            return []
        return [json.loads(line) for line in storage.read(location).splitlines()]

    def _failures(self) -> list[dict[str, str]]:
        location = storage.join(self.results, _FAILURES)
        if not storage.exists(location):
            return []
        return [json.loads(line) for line in storage.read(location).splitlines()]


def _id_of(ids: list[Any], name: str) -> Any:
    """Return the caller's id of an uploaded pair; the name of an image under a prefix."""
    stem = name.partition(".")[0]
    return ids[int(stem)] if stem.isdigit() and int(stem) < len(ids) else name


def _suffix(data: bytes) -> str:
    return {b"\x89PNG": ".png", b"RIFF": ".webp"}.get(data[:4], ".jpg")
