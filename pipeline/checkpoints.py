"""Checkpoint directories, written atomically with checksums: save, verify, restore, resume.

    step-000000200/
        generator.safetensors  discriminator.safetensors  ...   one per trained network
        ema.safetensors        the EMA of the generator, if the run keeps one; served in its place
        optimizers.safetensors the optimizers' tensors
        config.json            the whole configuration of the run
        state.json             step, data identity, optimizer settings, validation scores, the code
        checksums.json         SHA-256 of each file above, written last

A directory is a checkpoint if it has checksums and they match; anything else was left by a killed
process and is ignored. Nothing is pickled. There is no random state to save: every random decision
is a function of seed, step and sample (see ``masks``).
"""

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from infill.models.architecture import ModelConfig, Objective, load
from infill.models.layers import at_rest
from infill.models.weight_files import LFS_POINTER, kind_of
from infill.pipeline import storage
from infill.pipeline.cluster import require_device
from infill.pipeline.config import from_dict
from infill.pipeline.errors import UserError, require_format
from infill.pipeline.pretrained import find_pretrained
from infill.pipeline.temporary_folders import unfinished_folder

__all__ = [
    "LoadedGenerator",
    "best",
    "digest",
    "export",
    "find",
    "latest",
    "load_generator",
    "read_config",
    "read_state",
    "step_location",
    "steps",
    "verify",
]

CHECKSUMS = "checksums.json"
STEP_PREFIX = "step-"
FORMAT = 1
"""Format version, in ``state.json``; checkpoints of earlier releases have none, which is 1."""
OWN_FIELDS = ("format", "step", "scores", "optimizers")
"""Fields of ``state.json`` that differ among the checkpoints of a run, or say how it is read."""


@dataclass(frozen=True, kw_only=True)
class LoadedGenerator:
    """A generator ready for inference: in evaluation mode, without gradients."""

    architecture: str
    config: ModelConfig
    generator: nn.Module
    image_size_px: int
    """Side in pixels of the crops that it was trained on."""
    step: int
    digest: str
    """Identity of the checkpoint: SHA-256 over its files' checksums."""


def step_location(run: str, step: int) -> str:
    """Return the location of the checkpoint of a step within a run."""
    return storage.join(run, "checkpoints", f"{STEP_PREFIX}{step:09d}")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy in memory of everything that a step changes."""

    tensors: dict[str, dict[str, Tensor]]
    """Tensors by file, then by name."""
    optimizers: dict[str, Any]
    """Settings of the optimizers, as JSON values."""


def snapshot(objective: Objective, ema: nn.Module | None) -> Snapshot:
    """Copy networks and optimizers, so that training can continue while they are written.

    Args:
        objective: the networks and optimizers.
        ema: the EMA of the generator, if there is one.
    """
    moments, settings = _optimizer_tensors(objective)
    tensors = {
        f"{role}.safetensors": _contiguous(network.state_dict())
        for role, network in objective.networks.items()
    }
    if ema is not None:
        tensors["ema.safetensors"] = _contiguous(ema.state_dict())
    tensors["optimizers.safetensors"] = moments
    return Snapshot(tensors=tensors, optimizers=copy.deepcopy(settings))


def write(location: str, whole: Snapshot, config: dict[str, Any], state: dict[str, Any]) -> str:
    """Write a checkpoint atomically.

    Args:
        location: the directory; an existing one is replaced.
        whole: the copy that :func:`snapshot` made.
        config: the run's configuration as JSON values.
        state: ``step`` and other values that the loop needs to resume, as JSON values.

    Returns:
        The checkpoint's digest.
    """
    files = {name: save_tensors(tensors) for name, tensors in whole.tensors.items()}
    files["config.json"] = _json_bytes(config)
    files["state.json"] = _json_bytes({"format": FORMAT, **state, "optimizers": whole.optimizers})
    return _write_files(location, files)


def export(
    location: str,
    networks: Mapping[str, Mapping[str, Tensor]],
    config: dict[str, Any],
    state: dict[str, Any],
) -> str:
    """Write a checkpoint of weights alone, such as one from an imported file.

    It can be evaluated, served and fine-tuned, but not resumed.

    Args:
        location: the directory; an existing one is replaced.
        networks: state dicts by role, "generator" at least.
        config: with ``model`` and ``data.image_size_px``, as JSON values.
        state: ``step`` and the source of the weights, as JSON values.

    Returns:
        The checkpoint's digest.
    """
    files = {
        f"{role}.safetensors": save_tensors(_contiguous(dict(tensors)))
        for role, tensors in networks.items()
    }
    files["config.json"] = _json_bytes(config)
    files["state.json"] = _json_bytes({"format": FORMAT, **state})
    return _write_files(location, files)


def _write_files(location: str, files: dict[str, bytes]) -> str:
    checksums = _json_bytes({name: storage.sha256(data) for name, data in sorted(files.items())})
    if storage.is_remote(location):
        storage.remove(storage.join(location, CHECKSUMS))
        for name, data in files.items():
            storage.write(storage.join(location, name), data)
        storage.write(storage.join(location, CHECKSUMS), checksums)
    else:
        _write_directory(Path(storage.absolute(location)), {**files, CHECKSUMS: checksums})
    return storage.sha256(checksums)


def _write_directory(final: Path, files: dict[str, bytes]) -> None:
    with unfinished_folder(final) as aside:
        for name, data in files.items():
            with open(aside / name, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(aside, final)


def verify(location: str) -> str:
    """Check that a checkpoint is complete and undamaged.

    Returns:
        Its digest.

    Raises:
        UserError: if it does not exist, or a file is missing or differs from its checksum.
    """
    digest, checksums = _checksums(location)
    for name in checksums:
        _read_checked(location, name, checksums)
    return digest


def digest(location: str) -> str:
    """Return a checkpoint's identity without reading its weights.

    Raises:
        UserError: if there is no checkpoint.
    """
    return _checksums(location)[0]


def _checksums(location: str) -> tuple[str, dict[str, str]]:
    try:
        data = storage.read(storage.join(location, CHECKSUMS))
        return storage.sha256(data), _parsed_checksums(data)
    except (FileNotFoundError, NotADirectoryError) as error:
        _refuse_file(location)
        raise UserError(
            f"{location} is not a checkpoint: it has no {CHECKSUMS}; "
            "give the path of a step-... directory or of a run that has saved one"
        ) from error
    except ValueError as error:
        raise UserError(f"{storage.join(location, CHECKSUMS)} is damaged: {error}") from error


def _parsed_checksums(data: bytes) -> dict[str, str]:
    checksums = json.loads(data)
    if not isinstance(checksums, dict) or not {"config.json", "state.json"} <= checksums.keys():
        raise ValueError("it does not list config.json and state.json")
    return checksums


def _refuse_file(location: str) -> None:
    """Refuse a file in the place of a checkpoint, and name what it is."""
    file = Path(storage.absolute(location))
    if storage.is_remote(location) or not file.is_file():
        return
    kind = kind_of(file)
    if kind is not None:
        raise UserError(f"{location} is not a checkpoint but {kind}")
    raise UserError(
        f"{location} is a file of weights and not a checkpoint; turn it into one: "
        f"`python jobs/import_weights.py ARCHITECTURE --from {location}`"
    )


def _read_checked(location: str, name: str, checksums: dict[str, str]) -> bytes:
    if name not in checksums:
        raise UserError(f"checkpoint {location} has no {name}")
    try:
        data = storage.read(storage.join(location, name))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {location} lacks its {name}") from error
    if storage.sha256(data) != checksums[name]:
        if data.startswith(LFS_POINTER):
            raise UserError(
                f"checkpoint {location}: {name} is a Git-LFS pointer; run `git lfs pull` there"
            )
        raise UserError(f"checkpoint {location}: {name} is damaged (checksum differs)")
    return data


def steps(run: str) -> list[int]:
    """Return the steps of a run's checkpoint directories, complete or not, in order."""
    found = storage.names(storage.join(run, "checkpoints"))
    return sorted(int(name.removeprefix(STEP_PREFIX)) for name in found if _is_step(name))


def _is_step(name: str) -> bool:
    return name.startswith(STEP_PREFIX) and name.removeprefix(STEP_PREFIX).isdigit()


def latest(run: str, report: Callable[[str], None] = print) -> str | None:
    """Return a run's newest undamaged checkpoint or None, and report the damaged ones it skips."""
    found = steps(run)
    for index in reversed(range(len(found))):
        location = step_location(run, found[index])
        try:
            verify(location)
        except UserError as error:
            report(f"{error}; {'using the previous one' if index else 'there is none before it'}")
            continue
        return location
    return None


def best(run: str, score: str) -> tuple[str, dict[str, float]]:
    """Return a run's best intact checkpoint, and its validation scores.

    Args:
        run: its directory.
        score: the validation score that selects the best; higher is better.

    Raises:
        UserError: if the run has no checkpoint.
    """
    found = []
    for step in steps(run):
        location = step_location(run, step)
        try:
            scores = read_state(location)["scores"]
        except UserError:
            continue
        found.append((scores.get(score, -math.inf), step, location, scores))
    if not found:
        raise UserError(f"{run} has no checkpoint; train first with `python jobs/train_spn.py`")
    _, _, location, scores = max(found)
    return location, scores


def find(reference: str) -> str:
    """Return the checkpoint that a reference means.

    Args:
        reference: a checkpoint, a run, whose newest checkpoint is meant, or a model of the package,
            such as ``infill-base``.

    Returns:
        Its absolute location.

    Raises:
        UserError: if it is neither.
    """
    model = find_pretrained(reference)
    location = model.location if model else storage.absolute(reference)
    if not storage.exists(storage.join(location, CHECKSUMS)) and steps(location):
        newest = latest(location)
        if newest is not None:
            return newest
    verify(location)
    return location


def read_config(location: str) -> dict[str, Any]:
    """Return the configuration a checkpoint carries, as JSON values."""
    return _read_json(location, "config.json")


def read_state(location: str) -> dict[str, Any]:
    """Return a checkpoint's ``state.json``: step, data identity, scores."""
    return _with_readable_format(location, _read_json(location, "state.json"))


def _with_readable_format(location: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state without its format.

    Raises:
        UserError: if a later release wrote it in another format.
    """
    require_format(state.pop("format", 1), FORMAT, f"the checkpoint {location}")
    return state


def _read_json(location: str, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(_read_checked(location, name, _checksums(location)[1]))
    return values


def prune(run: str, keep: int, protected: set[int]) -> None:
    """Delete a run's older checkpoints, keeping the newest ``keep`` and the protected steps."""
    for step in steps(run)[: -keep or None]:
        if step not in protected:
            storage.remove(step_location(run, step))


def restore(
    location: str, objective: Objective, ema: nn.Module | None, settings: bool = True
) -> dict[str, Any]:
    """Load a checkpoint's weights and optimizer state; undoes :func:`snapshot`.

    Args:
        location: the checkpoint.
        objective: its networks and optimizers are loaded.
        ema: the EMA of the generator, which is loaded.
        settings: whether to load learning rates and other settings, too, or to keep them.

    Returns:
        The ``state`` that was saved.

    Raises:
        UserError: if the checkpoint is damaged or of other networks.
    """
    _, checksums = _checksums(location)
    for role, network in objective.networks.items():
        _load_network(network, location, f"{role}.safetensors", checksums)
    if ema is not None:
        _load_network(ema, location, "ema.safetensors", checksums)
    state = read_state(location)
    tensors = load_tensors(_read_checked(location, "optimizers.safetensors", checksums))
    saved = state.pop("optimizers")
    if not settings:
        saved = {
            role: one.state_dict()["param_groups"] for role, one in objective.optimizers.items()
        }
    _restore_optimizers(objective, tensors, saved)
    return state


def initialize(location: str, objective: Objective) -> None:
    """Start from another run's generator, and from its other networks if it has them.

    Only weights are loaded: optimizers, step and schedules start anew (fine-tuning). The EMA of the
    generator is preferred to its last weights.

    Raises:
        UserError: if the checkpoint is damaged or of another network.
    """
    _, checksums = _checksums(location)
    for role, network in objective.networks.items():
        name = f"{role}.safetensors"
        if role == "generator" and "ema.safetensors" in checksums:
            name = "ema.safetensors"
        if name in checksums:
            _load_network(network, location, name, checksums)


def _load_network(network: nn.Module, location: str, name: str, checksums: dict[str, str]) -> None:
    tensors = load_tensors(_read_checked(location, name, checksums))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        differences = _differences(network.state_dict(), tensors) or [str(error)]
        raise UserError(
            f"{storage.join(location, name)} belongs to another network than this configuration's: "
            + "; ".join(differences)
        ) from error


def _differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Return how a file's tensors differ from those of a network, each kind with an example."""
    absent = [name for name in ours if name not in theirs]
    unknown = sorted(theirs.keys() - ours.keys())
    reshaped = [n for n in ours if n in theirs and ours[n].shape != theirs[n].shape]
    found = []
    if absent:
        found.append(f"it lacks {len(absent)} of {len(ours)} tensors, such as {absent[0]}")
    if unknown:
        found.append(f"it has {len(unknown)} that the network has not, such as {unknown[0]}")
    if reshaped:
        name = reshaped[0]
        found.append(
            f"{len(reshaped)} have other shapes, such as {name}: {list(theirs[name].shape)} in the "
            f"file, {list(ours[name].shape)} in the network"
        )
    return found


def load_generator(location: str, device: str | torch.device = "cpu") -> LoadedGenerator:
    """Build the generator of a checkpoint and load its weights (those of the EMA, if it has one).

    Args:
        location: a checkpoint, a run, whose newest checkpoint is used, or a model of the package.
        device: the device of the generator.

    Raises:
        UserError: if the checkpoint does not exist, or is damaged, or the device cannot be used.
    """
    require_device(device)
    location = find(location)
    found_digest, checksums = _checksums(location)
    values = json.loads(_read_checked(location, "config.json", checksums))
    state = read_state(location)
    config = from_dict(ModelConfig, values["model"], f"{location}: model")
    generator = load(config.architecture).generator(config)
    weights = "ema.safetensors" if "ema.safetensors" in checksums else "generator.safetensors"
    _load_network(generator, location, weights, checksums)
    return LoadedGenerator(
        architecture=config.architecture,
        config=config,
        generator=at_rest(generator.to(device)),
        image_size_px=int(values["data"]["image_size_px"]),
        step=int(state["step"]),
        digest=found_digest,
    )


def training_size_px(location: str) -> int:
    """Return the side in pixels of the crops that a checkpoint was trained on; reads no weights.

    Args:
        location: as of :func:`load_generator`.

    Raises:
        UserError: if the checkpoint does not exist, or is damaged.
    """
    location = find(location)
    _, checksums = _checksums(location)
    values = json.loads(_read_checked(location, "config.json", checksums))
    return int(values["data"]["image_size_px"])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy, and undo shared or strided storage, which the file format refuses."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }


def _json_bytes(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _optimizer_tensors(objective: Objective) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the optimizers' state into tensors by name and settings as JSON values."""
    tensors, settings = {}, {}
    for role, optimizer in objective.optimizers.items():
        state = optimizer.state_dict()
        for index, entries in state["state"].items():
            for name, value in entries.items():
                tensors[f"{role}/{index}/{name}"] = torch.as_tensor(value)
        settings[role] = state["param_groups"]
    return _contiguous(tensors), settings


def _restore_optimizers(
    objective: Objective, tensors: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    for role, optimizer in objective.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            owner, index, entry = name.split("/")
            if owner == role:
                state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict({"state": state, "param_groups": settings[role]})
        for parameter, entries in optimizer.state.items():
            for name, value in entries.items():
                if value.shape == parameter.shape:  # in the memory format of the weights
                    entries[name] = torch.empty_like(parameter).copy_(value)
