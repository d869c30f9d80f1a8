"""Errors that the user or caller has to correct; each names the file or field."""

import difflib
from collections.abc import Iterable
from typing import Literal

__all__ = [
    "ImageError",
    "UserError",
]

ImageCode = Literal[
    "bad_request",
    "damaged_image",
    "different_sizes",
    "empty_mask",
    "full_mask",
    "not_acceptable",
    "too_many_pixels",
    "unsupported_image",
]


class UserError(ValueError):
    """An error that the user has to correct: what was expected, what was found, in which field."""


def printable(text: str) -> str:
    r"""Return text, such as the name of a file, as it can be shown in one line of a terminal.

    Bytes that are not UTF-8, line breaks and codes for terminals are written as escapes: ``\xe9``.
    """
    known = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in known)


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "; did you mean ...?" with the nearest known word, or nothing if none is near.

    Args:
        word: the unknown word.
        known: the words that are accepted.
        cutoff: similarity from 0 to 1 below which a word is not near.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def require_format(found: int, readable: int, name: str) -> None:
    """Refuse a file of a later release, whose format this one cannot know.

    Args:
        found: the file's format version.
        readable: the newest one that this release reads, beside all earlier ones.
        name: what the file is, for the message.

    Raises:
        UserError: if it is a later one.
    """
    if found > readable:
        raise UserError(
            f"{name} has format {found}, and this release reads formats up to {readable}: update "
            "Infill to read it"
        )


class ImageError(UserError):
    """An image or mask file that cannot be inpainted.

    Args:
        code: the error code for programs, which the endpoint returns.
        message: a sentence for the person who sent the file.
    """

    def __init__(self, code: ImageCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[ImageCode, str]]:
        """Keep both arguments when the error is sent between processes."""
        return ImageError, (self.code, str(self))


class RejectedError(ValueError):
    """The reason why an original is rejected."""


class TooManyPixelsError(RejectedError):
    """The size of an original that is larger than the limit."""


class UnknownFormatError(RejectedError):
    """What a file is that is not an image of a format that is read."""
