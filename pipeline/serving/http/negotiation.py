"""Choose the form of a response by the Accept header (RFC 9110, Sec. 12.5.1)."""

from collections.abc import Iterable
from typing import Literal

from fastapi import Request

from infill.pipeline.images import MEDIA_TYPES, Format
from infill.pipeline.serving.errors import RequestError

Kind = Literal["png", "jpeg", "webp", "json"]
JSON = "application/json"
_MEDIA: dict[Kind, str] = {**{form: media for form, media in MEDIA_TYPES.items()}, "json": JSON}


def acceptable(accept: str) -> list[Kind]:
    """Return the forms that a caller accepts, the most wanted first.

    A form has the weight of the most specific range that names it. Of equal weights the one that is
    named exactly comes first, then the one named earlier. Without a header it is PNG; "*/*" also
    means PNG first, and no JSON.
    """
    if not accept.strip():
        return ["png"]
    ranges = [_range(part) for part in accept.split(",")]
    found: list[tuple[float, int, int, Kind]] = []
    for kind, media in _MEDIA.items():
        exact, family = media, media.partition("/")[0] + "/*"
        names = (exact, family) if kind == "json" else (exact, family, "*/*")
        for rank, name in enumerate(names):
            positions = [at for at, (given, _) in enumerate(ranges) if given == name]
            if positions:
                weight = ranges[positions[0]][1]
                if weight > 0:
                    found.append((-weight, min(rank, 1), positions[0], kind))
                break
    return [kind for *_, kind in sorted(found, key=lambda one: one[:3])]


def require_acceptable(request: Request, *made: str) -> None:
    """Refuse a request that accepts nothing of what its route makes, before any work.

    Args:
        request: with any Accept header; none accepts everything.
        made: media types, such as "image/png".

    Raises:
        RequestError: 406 if none of them is accepted.
    """
    accept = request.headers.get("accept", "")
    weights = dict(reversed([_range(part) for part in accept.split(",")]))
    for media in made:
        names = (media, media.partition("/")[0] + "/*", "*/*")
        weight = next((weights[name] for name in names if name in weights), 0.0)
        if not accept.strip() or weight > 0:
            return
    raise _not_acceptable(made)


def _not_acceptable(made: Iterable[str]) -> RequestError:
    listed = ", ".join(made)
    return RequestError(406, "not_acceptable", f"this route makes {listed}: accept one of these")


def _range(part: str) -> tuple[str, float]:
    """Return a media range and its weight, 0 to 1."""
    name, *parameters = (word.strip().lower() for word in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = min(max(float(value), 0.0), 1.0)
            except ValueError:
                weight = 0.0
    return name, weight


def wants_json(accept: str) -> bool:
    """Return whether JSON is wanted more than an image.

    Raises:
        RequestError: 406 if nothing that the service makes is accepted.
    """
    kinds = acceptable(accept)
    if not kinds:
        raise _not_acceptable(_MEDIA.values())
    return kinds[0] == "json"


def accepted_formats(accept: str) -> list[Format]:
    """Return the image formats that a caller accepts, the most wanted first; else PNG."""
    return [kind for kind in acceptable(accept) if kind != "json"] or ["png"]
