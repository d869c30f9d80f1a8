"""Tensors of the Open Inference Protocol: from JSON or raw bytes to arrays and files, and back.

An image is a tensor ``UINT8`` (0 to 255) or ``FP32`` (0 to 1) of shape [H, W, C] or [N, H, W, C],
or ``BYTES`` of shape [N]: files. Raw bytes follow the JSON part of a body (the binary extension).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infill.pipeline.images import MaskRule, decode, encode_mask, read_mask
from infill.pipeline.images.codec import encode_pixels
from infill.pipeline.serving.errors import RequestError, image_errors_refused
from infill.pipeline.serving.http.responses import json_texts
from infill.pipeline.serving.http.schemas import from_base64

MAX_FILES = 256
"""Maximum number of images of one request."""
MAX_JSON_VALUES = 5_000_000
"""Maximum number of values of a request in JSON; more are sent as bytes, or in files."""
_PIECE = 100_000
_TYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "FP32": np.dtype("<f4"),
    "BOOL": np.dtype("?"),
}
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]
    """An array of the shape; for ``BYTES`` one item per element."""


def read_tensor(given: Any, raw: bytes | None) -> Tensor:
    """Read one tensor.

    Args:
        given: its JSON object.
        raw: its bytes after the JSON part; None if ``data`` has the values.

    Raises:
        RequestError: 400, naming the tensor.
    """
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise RequestError(400, "bad_request", "an input is not an object with a name")
    name, datatype, shape = given["name"][:100], given.get("datatype"), given.get("shape")
    if datatype not in (*_TYPES, "BYTES"):
        raise _bad(name, f"its datatype is not one of {', '.join((*_TYPES, 'BYTES'))}")
    if not isinstance(shape, list) or not _is_shape(shape):
        raise _bad(name, f"its shape is not a list of 1 to {_MAX_DIMENSIONS} positive numbers")
    values: NDArray[Any] | list[bytes]
    if datatype == "BYTES":
        values = _files(name, given.get("data"), raw)
        found = len(values)
    else:
        values = _array(name, _TYPES[datatype], given.get("data"), raw)
        found = values.size
    if found != math.prod(shape):
        raise _bad(name, f"it has {found:,} values, and its shape {math.prod(shape):,}")
    if not isinstance(values, list):
        values = values.reshape(shape)
    return Tensor(name=name, datatype=datatype, shape=tuple(shape), values=values)


def _is_shape(shape: list[Any]) -> bool:
    whole = all(type(length) is int and 0 < length < 2**31 for length in shape)
    return whole and 1 <= len(shape) <= _MAX_DIMENSIONS


def _bad(name: str, why: str) -> RequestError:
    return RequestError(400, "bad_request", f"input {name!r}: {why}")


def _array(name: str, kind: np.dtype[Any], data: Any, raw: bytes | None) -> NDArray[Any]:
    if raw is not None:
        if len(raw) % kind.itemsize:
            raise _bad(name, f"{len(raw):,} bytes do not hold a whole number of values")
        return np.frombuffer(raw, kind)
    if not isinstance(data, list):
        raise _bad(name, "its data is not a list")
    try:
        values = np.asarray(data).reshape(-1)
    except ValueError as error:
        raise _bad(name, "its data is not a list of numbers, or its rows differ") from error
    wanted = "biuf" if kind.kind == "f" else "b" if kind.kind == "b" else "iu"
    if values.size and values.dtype.kind not in wanted:
        raise _bad(name, f"its values are not {kind}")
    if kind == np.uint8 and values.size and not 0 <= values.min() <= values.max() <= 255:
        raise _bad(name, "its values are not 0 to 255")
    return values.astype(kind)


def _files(name: str, data: Any, raw: bytes | None) -> list[bytes]:
    """Return the files of ``BYTES``: lengths of 4 bytes and bytes, or base64 in JSON."""
    if raw is None:
        texts = _flat(data)
        if len(texts) > MAX_FILES:
            raise _bad(name, f"it has more than {MAX_FILES} elements")
        try:
            return [from_base64(text, "data") for text in texts]
        except RequestError as error:
            raise _bad(name, f"its {error.detail}") from error
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + length > len(raw) or len(found) == MAX_FILES:
            raise _bad(name, f"its bytes are not up to {MAX_FILES} elements, each after its length")
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    while data and all(isinstance(item, list) for item in data):
        data = [inner for item in data for inner in item]
    return list(data)


def image_files(tensor: Tensor, max_pixels: int) -> list[bytes]:
    """Return the images of a tensor, each as a file.

    Raises:
        RequestError: if it is not a tensor of images.
    """
    if isinstance(tensor.values, list):
        return tensor.values
    return [encode_pixels(_levels(tensor, one)) for one in _each(tensor, max_pixels)]


@image_errors_refused()
def mask_files(tensor: Tensor, rule: MaskRule, max_pixels: int) -> list[bytes]:
    """Return the masks of a tensor as files: those it has, or new ones, white in the hole.

    Args:
        tensor: the masks.
        rule: which levels of an array are the hole; a file is returned as it is.
        max_pixels: maximum height times width.

    Raises:
        RequestError: if it is not a tensor of masks, or one marks no or all pixels.
    """
    if isinstance(tensor.values, list):
        return tensor.values
    masks = tensor.values
    if masks.ndim == 3 and masks.shape[-1] != 1 and masks.shape[0] <= MAX_FILES:
        masks = masks[..., None]  # [N, H, W]
    tensor = Tensor(name=tensor.name, datatype=tensor.datatype, shape=masks.shape, values=masks)
    return [encode_mask(read_mask(one, rule)) for one in _each(tensor, max_pixels)]


def _each(tensor: Tensor, max_pixels: int) -> list[NDArray[Any]]:
    """Split [H, W], [H, W, C] or [N, H, W, C] into [H, W, C]."""
    values = tensor.values
    assert not isinstance(values, list)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.shape[-1] > 4:
        shape = list(tensor.shape)
        raise _bad(tensor.name, f"its shape {shape} is not [H, W, C] or [N, H, W, C], C 1 to 4")
    count, height, width, _ = values.shape
    if height * width > max_pixels:
        raise RequestError(
            413,
            "too_many_pixels",
            f"input {tensor.name!r}: {width} × {height} are {height * width:,} pixels; "
            f"at most {max_pixels:,} are accepted: send it smaller",
        )
    if count > MAX_FILES:
        raise _bad(tensor.name, f"it has more than {MAX_FILES} images")
    return list(values)


def _levels(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.uint8]:
    if tensor.datatype == "UINT8":
        return values
    if tensor.datatype != "FP32" or not (values.min() >= 0 and values.max() <= 1):  # or NaN
        raise _bad(tensor.name, "an image is UINT8, BYTES, or FP32 with values of 0 to 1")
    levels: NDArray[np.uint8] = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    return levels


def output_tensor(
    name: str, images: Tensor, files: Sequence[bytes], single: bool, max_pixels: int
) -> Tensor:
    """Return composites as one tensor, of the datatype of the images.

    Args:
        name: name of the output.
        images: the images of the request; known pixels of ``FP32`` are returned as they are.
        files: the composites, one or more for each image; PNG unless ``BYTES``.
        single: whether an array has no batch dimension.
        max_pixels: maximum height times width.
    """
    if isinstance(images.values, list):
        return Tensor(name=name, datatype="BYTES", shape=(len(files),), values=list(files))
    values: NDArray[Any] = np.stack([decode(file, max_pixels).pixels for file in files])
    if images.datatype == "FP32":
        sent = images.values.reshape(-1, *values.shape[1:]).repeat(
            values.size // images.values.size, axis=0
        )
        same = values == np.rint(sent.astype(np.float64) * 255)
        values = np.where(same, sent, values / np.float32(255)).astype("<f4")
    values = values[0] if single else values
    return Tensor(name=name, datatype=images.datatype, shape=values.shape, values=values)


def as_bytes(tensor: Tensor) -> bytes:
    """Return the values as they follow the JSON part."""
    if isinstance(tensor.values, list):
        return b"".join(len(one).to_bytes(4, "little") + one for one in tensor.values)
    return np.ascontiguousarray(tensor.values).tobytes()


def json_text(tensor: Tensor) -> str:
    """Return the values as the text of a flat JSON list; files in base64.

    It is written in pieces, because writing JSON stops all other threads meanwhile.
    """
    if isinstance(tensor.values, list):
        return f"[{', '.join(text.decode() for text in json_texts(tensor.values))}]"
    flat = tensor.values.reshape(-1)
    starts = range(0, len(flat), _PIECE)
    pieces = (json.dumps(flat[start : start + _PIECE].tolist()) for start in starts)
    return f"[{', '.join(piece[1:-1] for piece in pieces)}]"
