"""WebDataset addresses: tars given by name, with braces, instead of a finished shard set."""

import posixpath

from braceexpand import braceexpand

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.tar_reader import COMPRESSED, is_compressed

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Endings of members that are images; others (json, txt, cls) are not read."""
EVERY_IMAGE = "*"
MEMBER_FLAG = "--data.image-member"
"""The flag of trainings that names the member to read."""
TARS = (".tar", *COMPRESSED)
NOT_READ = (".tar.bz2", ".tar.xz", ".tar.zst")
"""Suffixes of tars that are compressed in another way."""


def names_tars(location: str) -> bool:
    """Return whether a location names tars, such as ``s3://bucket/{00000..01023}.tar``."""
    try:
        name = next(iter(braceexpand(location)))
    except ValueError:  # which ``expand`` explains
        name = location
    return name.endswith((*TARS, *NOT_READ))


def expand(location: str) -> list[str]:
    """Return the tars of a location with braces, absolute, in the order of their names.

    Raises:
        UserError: if the braces are wrong or a tar is named twice.
    """
    try:
        found = sorted(storage.absolute(name) for name in braceexpand(location))
    except ValueError as error:
        raise UserError(
            f"{location}: {error}; write a range as {{00000..01023}} and a choice as {{a,b}}"
        ) from error
    if len(set(found)) != len(found):
        raise UserError(f"{location} names a tar twice; every tar is read once per epoch")
    if packed := [tar for tar in found if tar.endswith(NOT_READ)]:
        raise UserError(f"{packed[0]} is compressed, but not by gzip: decompress it to a .tar")
    return found


def parts_of(member: str) -> tuple[str, str]:
    """Return the sample of a tar's member and its ending in lower case, as WebDataset has them.

    ``a/0001.seg.PNG`` belongs to the sample ``a/0001``, with the ending ``seg.png``. Both are empty
    for a member that belongs to none.
    """
    folder, _, name = member.rpartition("/")
    stem, _, ending = name.partition(".")
    if not stem or not ending:
        return "", ""
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def image_of(
    sample: str, members: list[str], wanted: str, tar: str, flag: str = MEMBER_FLAG
) -> list[str]:
    """Return the members of a sample that are its images.

    Members whose names agree up to the first dot are one sample, as in WebDataset. Its image is the
    member whose whole ending is an image's (``0001.jpg``); further ones, such as ``0001.seg.png``,
    are ignored. If no member has such an ending, the only image is used (``photo.v2.jpg``).

    Args:
        sample: the sample's name, for messages.
        members: the endings of its members, lower case, such as "jpg", "seg.png", "json".
        wanted: an ending to use instead, such as "image.jpg", or "*" for each image as a sample.
        tar: the sample's tar, for messages.
        flag: that the job has for ``wanted``, for messages.

    Returns:
        Endings; empty if the sample holds no image.

    Raises:
        UserError: if several members qualify.
    """
    images = [name for name in members if name.rpartition(".")[2] in IMAGE_SUFFIXES]
    if wanted == EVERY_IMAGE:
        return images
    if wanted:
        return [name for name in images if name == wanted.lower()]
    plain = [name for name in images if "." not in name]
    if len(plain) == 1 or (len(images) == 1 and not plain):
        return plain or images
    if not images:
        return []
    raise UserError(
        f"sample {sample!r} of {tar} has several images ({', '.join(images)}): name the one to "
        f"read, {flag} {images[0]}, or every one as a sample of its own, {flag} '{EVERY_IMAGE}'"
    )


def key_of(tar: str, sample: str, member: str) -> str:
    """Return the key of an image: the names of its tar, sample and member.

    Numbers in different tars may be equal, so that the tar's name belongs to the key.
    """
    name = posixpath.basename(tar)
    stem = next(name.removesuffix(suffix) for suffix in TARS if name.endswith(suffix))
    more = member.rpartition(".")[0]
    return f"{stem}/{sample}" + (f".{more}" if more else "")


def missing(tar: str) -> UserError:
    """Return the error for a tar that is not there."""
    return UserError(
        f"there is no tar {tar}; give the names of existing tars, such as {{00000..00099}}.tar"
    )


def repeated(tar: str, member: str) -> UserError:
    """Return the error for a sample that has a member twice."""
    return UserError(
        f"{tar} holds {member} twice: a sample has one member of each ending; give every image a "
        "name of its own before its first dot"
    )


def packed(tar: str) -> UserError:
    """Return the error for a tar that is compressed once more than its name says."""
    if is_compressed(tar):
        return UserError(f"{tar} is compressed twice: decompress it once")
    return UserError(f"{tar} is compressed by gzip: name it {tar.removesuffix('.tar')}.tar.gz")


def no_image(location: str, image_member: str, damaged: int = 0) -> UserError:
    """Return the error for tars of which no image can be used."""
    if damaged:
        return UserError(f"{location} holds no readable image, {damaged} are damaged")
    wanted = image_member or ", ".join(IMAGE_SUFFIXES[:-1]) + f" or {IMAGE_SUFFIXES[-1]}"
    return UserError(f"{location} holds no image: no member is {wanted}")


def require_tars(location: str) -> None:
    """Refuse a set if one of its tars does not exist.

    Raises:
        UserError: naming the first, and how many are missing.
    """
    tars = expand(location)
    lost = [tar for tar in tars if not storage.exists(tar)]
    if lost:
        error = missing(lost[0])
        raise error if len(lost) == 1 else UserError(f"{error}; {len(lost)} are missing in all")


def require_tar_for_each(location: str, workers: int) -> None:
    """Refuse fewer tars than workers: webdataset splits by whole tars.

    Raises:
        UserError: with both numbers.
    """
    count = len(expand(location))
    if count < workers:
        tars = "1 tar" if count == 1 else f"{count} tars"
        raise UserError(
            f"{location} names {tars} for {workers} workers, and each needs one of its own: "
            "use fewer workers, or shard the images again"
        )


def given_up(location: str) -> str:
    """Return a sentence on the limits of training from tars without a manifest."""
    return (
        f"{location} is read through webdataset, without a manifest: a resumed run starts a new "
        "pass over the data instead of going on within one, another number of workers sees other "
        "batches, and every worker needs a tar of its own; `python jobs/make_shards.py archives "
        "--source FOLDER` makes a shard set of a folder's tars, without these limits"
    )
