"""Register, promote, roll back and resolve model versions.

The MLflow model registry holds the versions; each is a checkpoint directory copied to a run, with
its lineage as tags. Nothing is pickled and nothing is loaded as an "MLflow model".

The champion follows from the versions alone: it is the highest version that was registered as
champion and not withdrawn since. The alias ``champion`` repeats this for other tools, and every
change corrects it, so it needs no lock and survives a process that dies in between:

* a version and its claim to be champion appear in one transaction of the registry;
* two promotions that started from one champion both get a version; the lower number wins, the other
withdraws its claim and reports it;
* a process that sets the alias checks it afterwards and repeats this if the champion has changed.
"""

import os
import time
import typing
from dataclasses import dataclass
from typing import Any

from infill.pipeline import checkpoints
from infill.pipeline.errors import UserError
from infill.pipeline.pretrained import PRETRAINED, find_pretrained
from infill.pipeline.registry.config import CHAMPION, RegistryConfig
from infill.pipeline.registry.lineage import Lineage, lineage_from, lineage_tags
from infill.pipeline.registry.store import (
    address_of,
    delete_orphans,
    ensure_model,
    keep,
    open_registry,
    own,
    readable,
)

_CLAIM = "infill.claim"  # the alias a version was registered for
_WITHDRAWN = "infill.withdrawn"  # why a champion's claim no longer counts
_DIGEST = "infill.checkpoint_digest"


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered checkpoint."""

    name: str
    number: int
    digest: str
    """Digest of the checkpoint, see :func:`infill.pipeline.checkpoints.digest`."""
    location: str
    """The address of its checkpoint directory: a path, s3://, or a file of an MLflow server."""
    claim: str
    """The alias it was registered for; empty if none."""
    withdrawn: str
    """Why its claim was withdrawn; empty while the claim stands."""
    lineage: Lineage


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The checkpoint that a reference such as ``spn@champion`` means at present."""

    name: str
    version: str
    """The version's number, or the checkpoint's directory name for a path."""
    location: str
    """Location where this node can read its checkpoint directory."""
    address: str
    """Address for any node, for :func:`infill.pipeline.registry.store.readable`."""
    digest: str


def register(
    config: RegistryConfig,
    checkpoint: str,
    name: str,
    lineage: Lineage,
    alias: str = CHAMPION,
    successor_to: int | None = None,
) -> Version:
    """Make a checkpoint the next version of ``name`` and give it an alias.

    Args:
        config: the registry.
        checkpoint: a checkpoint directory, or a run, whose newest checkpoint is used.
        name: the model's name in the registry.
        lineage: the lineage of the checkpoint.
        alias: ``champion``, ``challenger`` or another.
        successor_to: the champion that this one was compared with; None means the present one, 0
            none.

    Returns:
        The new version.

    Raises:
        UserError: if the checkpoint is damaged, the registry cannot be reached, or another
            promotion was faster.
    """
    _require_name(name)
    source = checkpoints.find(checkpoint)
    digest = checkpoints.verify(source)
    with open_registry(config) as client:
        ensure_model(client, name)
        delete_orphans(client, config)
        before = _champion(config, client, name) if successor_to is None else successor_to
        run_id, copy = keep(client, config, source, name, digest, lineage.scores)
        tags = {_CLAIM: alias, _DIGEST: digest, **lineage_tags(lineage)}
        created = client.create_model_version(name, copy, run_id=run_id, tags=tags)
        own(client, run_id)
        number = int(created.version)
        if alias == CHAMPION:
            _require_first(config, client, name, number, before)
            _settle(config, client, name)
        else:
            client.set_registered_model_alias(name, alias, str(number))
        return _version(config, created)


def champion(config: RegistryConfig, name: str) -> Version | None:
    """Return the present champion of ``name``, or None."""
    with open_registry(config) as client:
        number = _champion(config, client, name)
        return next((v for v in _versions(config, client, name) if v.number == number), None)


def repeat_alias(config: RegistryConfig, name: str) -> None:
    """Set the alias ``champion`` as the versions say; a killed promotion may not have done so."""
    with open_registry(config) as client:
        _settle(config, client, name)


def list_versions(config: RegistryConfig, name: str) -> list[Version]:
    """Return every version of ``name``, oldest first; empty if the name is unknown."""
    with open_registry(config) as client:
        return _versions(config, client, name)


def rollback(config: RegistryConfig, name: str) -> Version:
    """Withdraw the champion of ``name`` and put its predecessor back.

    One that was killed before it had set the alias is completed, and withdraws no further version.

    Returns:
        The version that is champion now.

    Raises:
        UserError: if there is no champion or it has no predecessor.
    """
    with open_registry(config) as client:
        versions = _versions(config, client, name)
        standing = [v for v in versions if _stands(v)]
        if standing and _alias(client, name) in [v.number for v in versions if v.withdrawn]:
            _settle(config, client, name)
            return standing[-1]
        if not standing:
            raise UserError(f"{name} has no champion to roll back from; {_known(client)}")
        if len(standing) == 1:
            raise UserError(
                f"{name}@{standing[0].number} is the only champion there has been; "
                "promote another checkpoint instead of rolling back"
            )
        withdrawn, restored = standing[-1], standing[-2]
        reason = f"rolled back at {_now()}"
        client.set_model_version_tag(name, str(withdrawn.number), _WITHDRAWN, reason)
        _settle(config, client, name)
        return restored


def resolve(config: RegistryConfig, reference: str) -> Resolved:
    """Find the checkpoint meant by a reference.

    Args:
        config: the registry; not read for a path.
        reference: ``spn`` (its champion), ``spn@champion``, ``spn@3``, the path of a checkpoint or
            of a run, or a model of the package, such as ``infill-base``.

    Raises:
        UserError: if the model, alias or version is unknown, or its files are missing or damaged.
    """
    if model := find_pretrained(reference):
        return Resolved(
            name=model.name,
            version=model.version,
            location=model.location,
            address=model.name,
            digest=checkpoints.verify(model.location),
        )
    if _is_path(reference):
        location = checkpoints.find(reference)
        architecture = checkpoints.read_config(location)["model"]["architecture"]
        return Resolved(
            name=architecture,
            version=location.rstrip("/").rsplit("/", 1)[-1],
            location=location,
            address=location,
            digest=checkpoints.verify(location),
        )
    name, _, wanted = reference.partition("@")
    with open_registry(config, must_exist=f"{reference!r} is not a checkpoint either") as client:
        found = _find(config, client, name, wanted or CHAMPION)
        location = readable(found.location, found.digest)
    _require_files(found, location)
    return Resolved(
        name=name,
        version=str(found.number),
        location=location,
        address=found.location,
        digest=found.digest,
    )


def _is_path(reference: str) -> bool:
    return "/" in reference or os.path.exists(reference)


def _require_name(name: str) -> None:
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        raise UserError(f"{name!r} cannot name a model: use letters, digits, '-', '_' and '.'")
    if name in PRETRAINED:
        raise UserError(f"{name} is a model of the package: choose another --name")


def _require_files(version: Version, location: str) -> None:
    called = f"{version.name}@{version.number}"
    try:
        found = checkpoints.verify(location)
    except UserError as error:
        raise UserError(
            f"the files of {called} at {location} are missing or damaged ({error}); "
            "restore them, or promote another checkpoint"
        ) from error
    if found != version.digest:
        raise UserError(
            f"the files of {called} at {location} differ from the registered ones: "
            f"digest {found[:12]}, expected {version.digest[:12]}"
        )


# Versions and their champion.


def _versions(config: RegistryConfig, client: Any, name: str) -> list[Version]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=100, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted((_version(config, v) for v in found), key=lambda v: v.number)


def _version(config: RegistryConfig, raw: Any) -> Version:
    tags = raw.tags
    return Version(
        name=raw.name,
        number=int(raw.version),
        digest=tags.get(_DIGEST, ""),
        location=address_of(config, raw.source),
        claim=tags.get(_CLAIM, ""),
        withdrawn=tags.get(_WITHDRAWN, ""),
        lineage=lineage_from(tags),
    )


def _stands(version: Version) -> bool:
    return version.claim == CHAMPION and not version.withdrawn


def _champion(config: RegistryConfig, client: Any, name: str) -> int:
    """Return the champion's number, or 0."""
    return max((v.number for v in _versions(config, client, name) if _stands(v)), default=0)


def _require_first(
    config: RegistryConfig, client: Any, name: str, number: int, before: int
) -> None:
    """Withdraw ``number`` and raise if another claim came between it and the champion before."""
    rivals = [
        v for v in _versions(config, client, name) if _stands(v) and before < v.number < number
    ]
    if not rivals:
        return
    first = rivals[0].number
    reason = f"{name}@{first} was promoted at the same time"
    client.set_model_version_tag(name, str(number), _WITHDRAWN, reason)
    _settle(config, client, name)
    raise UserError(
        f"{name}@{first} became champion during this promotion; {name}@{number} is "
        "registered but not promoted: compare it with the new champion and promote again"
    )


def _alias(client: Any, name: str) -> int:
    """Return the version that has the alias ``champion``, 0 if none has."""
    return int(client.get_registered_model(name).aliases.get(CHAMPION, 0))


def _settle(config: RegistryConfig, client: Any, name: str) -> None:
    """Set the alias to the champion; check it after writing, as others write too."""
    written = None
    while (number := _champion(config, client, name)) and number != written:
        client.set_registered_model_alias(name, CHAMPION, str(number))
        written = number


def _find(config: RegistryConfig, client: Any, name: str, wanted: str) -> Version:
    known = _versions(config, client, name)
    if not known:
        raise UserError(f"there is no model {name!r} in the registry; {_known(client)}")
    if wanted.isdigit():
        number = int(wanted)
    elif wanted == CHAMPION:
        number = _champion(config, client, name)
    else:
        number = int(client.get_registered_model(name).aliases.get(wanted, 0))
    for version in known:
        if version.number == number:
            return version
    aliases = client.get_registered_model(name).aliases
    there = ", ".join(f"@{word}" for word in [*sorted(aliases), *(v.number for v in known)])
    if wanted in aliases:
        _refuse_alias(name, wanted, int(aliases[wanted]), known)
    raise UserError(f"model {name!r} has no version @{wanted}; it has {there}")


def _refuse_alias(name: str, alias: str, number: int, known: list[Version]) -> typing.NoReturn:
    """Refuse an alias that another tool has set to a version which cannot be used under it."""
    numbers = [version.number for version in known]
    why = "was not promoted" if number in numbers else "does not exist any more"
    there = ", ".join(f"@{one}" for one in numbers)
    raise UserError(
        f"the alias @{alias} of model {name!r} names version {number}, which {why}; name one of "
        f"its versions ({there}), or promote a checkpoint with `python jobs/promote.py`"
    )


def _known(client: Any) -> str:
    names = sorted(model.name for model in client.search_registered_models())
    return f"it has: {', '.join(names)}" if names else "it is empty; promote a checkpoint first"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
