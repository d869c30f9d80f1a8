"""Read files of weights of any kind, or name what they are instead; no code in them is run.

State dicts of PyTorch, Lightning checkpoints, whole modules and TorchScript are read by PyTorch's
restricted unpickler. Classes that it does not know become inert placeholders, so that a
checkpoint's weights are read although its settings are objects of another package.
"""

import hashlib
import io
import pickletools
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

HEAD_BYTES = 4096
LFS_POINTER = b"version https://git-lfs"
MAX_HEADER_BYTES = 100 * 2**20
"""Maximum size of the header of safetensors."""
MAX_INFLATION = 20
"""Maximum ratio of unpacked to packed bytes of a zip; weights shrink by a tenth."""
LEGACY_PICKLES = 4
"""Pickles at the start of a file of PyTorch before 1.6: magic, version, system, contents."""
WRAPPERS = ("state_dict", "model_state_dict", "params", "model", "network", "net")
"""Names under which checkpoints hold a network, in the order in which they are tried."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel, ``AveragedModel`` and ``torch.compile`` put before every name."""
EMA_NAMES = ("{}_ema", "ema_{}", "{}_averaged")
EMA_OF_MODEL = ("ema", "ema_state_dict", "state_dict_ema", "model_ema", "params_ema")
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
}
FOREIGN = {
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x93NUMPY": "one array of NumPy without a name",
    b"GGUF": "a GGUF file of a language model",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF document",
}
FOREIGN_SUFFIXES = {
    ".onnx": "an ONNX graph",
    ".pb": "a graph of TensorFlow",
    ".index": "the index of a TensorFlow checkpoint",
    ".meta": "the graph of a TensorFlow checkpoint",
    ".h5": "an HDF5 file, as Keras writes it",
}
_NOT_RUN = "code in it is not run: save the state dict alone and give that"
_READING = threading.Lock()


class WeightFileError(ValueError):
    """A file that holds no weights that can be read; the message names it and what it is."""


def sha256_of(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_weights(path: str | Path) -> dict[str, Any]:
    """Return a file's tensors or arrays by name, perhaps nested, as its authors named them.

    Floats of 16 and 64 bits become 32; a prefix of wrappers (``module.``) is taken off; an EMA
    replaces the weights beside which it stands.

    Args:
        path: a state dict, a Lightning checkpoint, a whole module or TorchScript of PyTorch, the
            folder of one as a zip, safetensors, or arrays (.npz).

    Raises:
        WeightFileError: if it is none of these, is damaged, or holds no tensor.
    """
    file = Path(path)
    if file.is_dir():
        inside = ", ".join(sorted(entry.name for entry in file.iterdir())[:5]) or "nothing"
        raise WeightFileError(f"{file} is a folder, which holds {inside}; give one file of weights")
    if (kind := kind_of(file)) is not None:
        raise WeightFileError(f"{file} is {kind}")
    try:
        found = _read(file)
    except WeightFileError:
        raise
    except Exception as error:  # readers raise any error for a damaged file
        raise WeightFileError(f"{file} {_reason(error)}") from error
    found = _network_in(found) if isinstance(found, Mapping) else found
    if isinstance(found, Mapping) and not found:
        raise WeightFileError(f"{file} holds no tensors; save the state dict and give that")
    if not isinstance(found, Mapping):
        raise WeightFileError(f"{file} holds a {type(found).__name__}, not tensors by name")
    if not any(True for _ in _tensors(found)):
        names = ", ".join(sorted(_foreign_names(found))) or ", ".join(list(map(str, found))[:5])
        raise WeightFileError(f"{file} holds no tensors but {names}; {_NOT_RUN}")
    return _prefer_ema(_plain(found))


def network_of(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict of the one network in a file, without the checkpoint around it."""
    for name in WRAPPERS:
        inner = contents.get(name)
        if isinstance(inner, Mapping) and any(True for _ in _tensors(inner)):
            return network_of(inner)
    return contents


def kind_of(file: Path) -> str | None:
    """Return what a file is, with what to do, if it is certainly no file of weights."""
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    return kind_of_bytes(head, file.name)


def kind_of_bytes(head: bytes, name: str) -> str | None:
    """Return what the first bytes of a file are; None if they may be weights."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head.strip(b"\0"):
        return "empty, or holds only zeros: its download was not finished; get it again"
    if head.startswith(LFS_POINTER):
        return (
            "a Git-LFS pointer, not the weights: run `git lfs pull` where it was cloned, or "
            "download the file from its page"
        )
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script", b"<!--")):
        return (
            "a web page, not weights: the server asked for a login or a confirmation; download "
            "it in a browser and give that file"
        )
    if text.startswith((b"<?xml", b"<error")):
        return "an XML answer of a server, not weights: download the file again"
    for magic, method in COMPRESSED.items():
        if head.startswith(magic):
            return f"packed by {method}: unpack it and give the file of weights in it"
    for magic, kind in FOREIGN.items():
        if head.startswith(magic):
            return f"{kind}, not weights of PyTorch: {_ADVICE}"
    if head[257:262] == b"ustar":
        return "a tar: unpack it and give the file of weights in it"
    return _kind_by_text(head, name)


_ADVICE = "save the arrays by name as .npz or safetensors and give that"


def _kind_by_text(head: bytes, name: str) -> str | None:
    suffix = Path(name).suffix.lower()
    if suffix in FOREIGN_SUFFIXES or ".data-0000" in name:
        kind = FOREIGN_SUFFIXES.get(suffix, "a part of a TensorFlow checkpoint")
        return f"{kind}, not weights of PyTorch: {_ADVICE}"
    start = head.decode("utf-8", "replace").strip()[:60]
    readable = all(letter.isprintable() or letter in "\r\n\t" for letter in start)
    if "\ufffd" in start or not readable or len(head) < 2 or _is_safetensors(head):
        return None
    return f"a text that begins with {' '.join(start.split())!r}, not weights: get the file again"


def _is_safetensors(head: bytes) -> bool:
    return int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES and head[8:9] == b"{"


def _read(file: Path) -> Any:
    with file.open("rb") as stream:
        head = stream.read(9)
    if _is_safetensors(head):
        return load_file(file)
    if not zipfile.is_zipfile(file):
        if head.startswith(b"PK"):
            raise WeightFileError(f"{file} is damaged: the zip has no end; get the file again")
        return _load(file)
    with zipfile.ZipFile(file) as opened:
        names = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in opened.infolist())
    if names and all(name.endswith(".npy") for name in names):
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    roots = [root for root in roots if not Path(root).name.startswith("__MACOSX")]
    if len(roots) != 1:
        listed = ", ".join(names[:5]) or "nothing"
        raise WeightFileError(
            f"{file} is a zip that holds {listed}; unpack it and give the file of weights in it"
        )
    script = f"{roots[0]}constants.pkl" in names
    plain = not script and not packed and roots[0].count("/") <= 1
    return _load(file if plain else _repacked(file, roots[0]))


def _repacked(file: Path, root: str) -> io.BytesIO:
    """Return what PyTorch reads of a zip: the tensors, without the code of a TorchScript file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(file) as opened, zipfile.ZipFile(sink, "w") as kept:
        unpacked = sum(entry.file_size for entry in opened.infolist())
        if unpacked > MAX_INFLATION * file.stat().st_size + MAX_HEADER_BYTES:
            raise WeightFileError(f"{file} is a zip that inflates to {unpacked:,} bytes")
        for entry in opened.infolist():
            name = entry.filename.removeprefix(root)
            wanted = name in ("data.pkl", "version", "byteorder") or name.startswith("data/")
            if entry.filename.startswith(root) and wanted and not entry.is_dir():
                kept.writestr(f"archive/{name}", opened.read(entry))
    sink.seek(0)
    return sink


def _load(source: Path | io.BytesIO) -> Any:
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception:  # it raises any error; the second attempt raises what is left of them
        if isinstance(source, io.BytesIO):
            source.seek(0)
        names = sorted(set(_global_names(source)))
        if isinstance(source, io.BytesIO):
            source.seek(0)
        placeholders = [(type("Placeholder", (_Placeholder,), {"name": n}), n) for n in names]
        with _READING, torch.serialization.safe_globals(placeholders):  # type: ignore[arg-type]
            found = torch.load(source, map_location="cpu", weights_only=True)
    return _module_tensors(found) if _is_placeholder(found) else found


class _Placeholder:
    """Stands for a class or function that a file names; becomes an empty mapping."""

    name = ""

    def __new__(cls, *_: Any) -> Any:
        """Return the mapping, whose attributes hold the object's state."""
        found: OrderedDict[str, Any] = OrderedDict()
        found.__dict__["placeholder_of"] = cls.name
        return found


def _is_placeholder(value: Any) -> bool:
    return "placeholder_of" in getattr(value, "__dict__", {})


def _global_names(source: Path | io.BytesIO) -> Iterator[str]:
    """Yield the classes and functions that a file of PyTorch names, without importing them."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as opened:
            name = next(n for n in opened.namelist() if n.endswith("data.pkl"))
            streams = [io.BytesIO(opened.read(name))]
    else:
        assert isinstance(source, Path)
        streams = [io.BytesIO(source.read_bytes())] * LEGACY_PICKLES
    for stream in streams:
        try:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL" and isinstance(argument, str):
                    yield argument.replace(" ", ".")
        except ValueError:  # the bytes of tensors follow the pickles of a small file
            return


def _module_tensors(module: Any, prefix: str = "") -> dict[str, Any]:
    """Return the tensors of a module, as its ``state_dict`` names them."""
    if not _is_placeholder(module):
        return {}
    attributes = dict(vars(module))
    if "_parameters" in attributes:
        parts = ("_parameters", "_buffers", "_modules")
        attributes = {k: v for part in parts for k, v in (attributes.get(part) or {}).items()}
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif _is_placeholder(value):
            found |= _module_tensors(value, f"{prefix}{name}.")
    return found


def _foreign_names(value: Any) -> set[str]:
    if _is_placeholder(value):
        return {f"an object of {value.__dict__['placeholder_of']}"}
    inner = value.values() if isinstance(value, Mapping) else ()
    return {name for one in inner for name in _foreign_names(one)}


def _tensors(contents: Mapping[str, Any]) -> Iterator[Any]:
    for value in contents.values():
        if isinstance(value, Tensor | np.ndarray):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value)


def _network_in(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict of a Lightning checkpoint; other contents as they are."""
    inner = contents.get("state_dict")
    if isinstance(inner, Mapping) and any(True for _ in _tensors(inner)):
        kept = ("state_dict", *EMA_OF_MODEL)
        return {name: contents[name] for name in kept if name in contents}
    return {name: _module_tensors(value) or value for name, value in contents.items()}


def _plain(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return float32 tensors, and names without the prefix of a wrapper."""
    tensors = [name for name, value in contents.items() if isinstance(value, Tensor | np.ndarray)]
    if "n_averaged" in tensors:
        tensors.remove("n_averaged")
        contents = {name: value for name, value in contents.items() if name != "n_averaged"}
    prefix = next((p for p in PREFIXES if tensors and all(n.startswith(p) for n in tensors)), "")
    found = {
        name.removeprefix(prefix) if isinstance(name, str) else name: _plain_value(value)
        for name, value in contents.items()
    }
    return _plain(found) if prefix else found


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, Tensor):
        value = value.detach()
        value = value.dequantize() if value.is_quantized else value
        value = value.to_dense() if value.layout != torch.strided else value
        narrow = value.is_floating_point() and value.dtype != torch.float32
        return value.float() if narrow else value
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float64):
        return value.astype(np.float32)
    return value


def _prefer_ema(contents: dict[str, Any]) -> dict[str, Any]:
    """Replace weights by their EMA, where both are in the file under names that say so."""
    pairs = {ema: raw for raw in contents for ema in (f.format(raw) for f in EMA_NAMES)}
    pairs |= {ema: raw for raw in reversed(WRAPPERS) if raw in contents for ema in EMA_OF_MODEL}
    found = dict(contents)
    for ema, raw in pairs.items():
        inner, beside = contents.get(ema), contents.get(raw)
        if not isinstance(inner, Mapping) or not isinstance(beside, Mapping):
            continue
        inner = network_of(inner)
        if inner and set(inner) <= set(beside):
            found[raw] = {**beside, **inner}
            found.pop(ema, None)
    return _prefer_flat_ema(found)


def _prefer_flat_ema(contents: dict[str, Any]) -> dict[str, Any]:
    """Do so where one mapping holds ``generator.`` and ``generator_ema.``."""
    found = dict(contents)
    for name, value in contents.items():
        if isinstance(value, Mapping):
            found[name] = _prefer_flat_ema(dict(value))
        root, _, rest = str(name).partition(".")
        match = re.fullmatch(r"(?:ema_)?(\w+?)(?:_ema)?", root)
        raw = f"{match[1]}.{rest}" if match and rest else name
        if raw != name and raw in contents:
            found[raw] = value
            del found[name]
    return found


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, without the advice of PyTorch to run its code."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    blocked = re.search(r"GLOBAL (\S+)", text)
    if blocked:
        return f"calls {blocked[1]}, {_NOT_RUN}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    usual = not lines or "weights_only" in text or "Weights only" in text
    why = "" if usual else f" ({lines[0][:200]})"
    return f"is damaged, or holds more than weights{why}; {_NOT_RUN}"
