"""Choose the form of a response by the Accept header (RFC 9110, Sec. 12.5.1)."""

from typing import Literal

from infill.pipeline.images import MEDIA_TYPES, Format
from infill.pipeline.serving.errors import RequestError

Kind = Literal["png", "jpeg", "webp", "json"]
_MEDIA: dict[Kind, str] = {
    **{form: media for form, media in MEDIA_TYPES.items()},
    "json": "application/json",
}


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
            places = [at for at, (given, _) in enumerate(ranges) if given == name]
            if places:
                weight = ranges[places[0]][1]
                if weight > 0:
                    found.append((-weight, min(rank, 1), places[0], kind))
                break
    return [kind for *_, kind in sorted(found, key=lambda one: one[:3])]


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
        made = ", ".join(_MEDIA.values())
        raise RequestError(406, "not_acceptable", f"this route makes {made}: accept one of these")
    return kinds[0] == "json"


def accepted_formats(accept: str) -> list[Format]:
    """Return the image formats that a caller accepts, the most wanted first; else PNG."""
    return [kind for kind in acceptable(accept) if kind != "json"] or ["png"]
