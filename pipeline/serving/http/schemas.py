"""Requests as form or JSON: read within limits, validated; no URL is fetched."""

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from starlette.datastructures import UploadFile

from infill.pipeline.images import HOLE_THRESHOLD, Channel, MaskRule, Polarity
from infill.pipeline.inference.config import Mode
from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.errors import RequestError, shortened
from infill.pipeline.serving.http.negotiation import accepted_formats

MAX_SAMPLES = 16
_FORM = "multipart/form-data"
Model = TypeVar("Model", bound=BaseModel)


def _whole(value: Any) -> Any:
    """Refuse true and false, which would count as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a whole number")
    return value


class MaskFields(BaseModel):
    """How a mask is read."""

    model_config = ConfigDict(extra="forbid")

    mask_polarity: Annotated[
        Polarity, Field(description="Colour that marks the hole: above or up to the threshold.")
    ] = "white"
    mask_threshold: Annotated[
        int, Field(ge=0, le=254, description="Highest level of the mask that is not white.")
    ] = HOLE_THRESHOLD
    mask_channel: Annotated[
        Channel,
        Field(
            description="What has the mask's levels. auto is brightness, or opacity if that varies "
            "and shows paint on transparency or an erased hole; it is refused if it shows neither."
        ),
    ] = "auto"

    @field_validator("mask_threshold", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        return _whole(value)

    @property
    def rule(self) -> MaskRule:
        """Which pixels of the mask are the hole."""
        return MaskRule(
            polarity=self.mask_polarity, threshold=self.mask_threshold, channel=self.mask_channel
        )


class RequestFields(MaskFields):
    """All fields of a request beside the two files."""

    model: Annotated[str, Field(description="The model, such as spn, spn@champion or spn@3.")] = ""
    mode: Annotated[
        Mode,
        Field(description="How a large image is processed."),
    ] = "auto"
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        Field(
            description="File format; by the Accept header if absent. jpeg changes known pixels."
        ),
    ] = None
    quality: Annotated[
        int | None,
        Field(
            ge=0,
            le=100,
            description="Quality of jpeg and webp; below 100 both change known pixels.",
        ),
    ] = None
    samples: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_SAMPLES,
            description="Number of results; more than one needs a probabilistic model.",
        ),
    ] = 1
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="Seed of random results.")] = None

    @field_validator("quality", "samples", "seed", mode="before")
    @classmethod
    def _no_truths(cls, value: Any) -> Any:
        return _whole(value)

    def options(self, accept: str) -> InpaintOptions:
        """Return the options of the request, given the Accept header."""
        formats = [self.output_format] if self.output_format else accepted_formats(accept)
        first, *others = formats
        return InpaintOptions(
            model=self.model,
            mode=self.mode,
            mask_rule=self.rule,
            quality=self.quality,
            output_format=first,
            other_formats=tuple(others),
            negotiated=self.output_format is None,
            samples=self.samples,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class InpaintRequest:
    """One pair of image and mask, and the fields."""

    image: bytes
    mask: bytes | None
    """None if the image's own transparency marks the hole."""
    fields: RequestFields


async def read_one(request: Request) -> InpaintRequest:
    """Read one pair from a form or from JSON.

    Raises:
        RequestError: 400 or 415, naming the field.
    """
    kind = content_type(request)
    if kind == "application/json":
        return await asyncio.to_thread(from_json, await request.body())
    require_form(request, "application/json")
    async with request.form(max_files=2, max_fields=16) as form:
        refuse_repeated(name for name, _ in form.multi_items())
        values: dict[str, Any] = {
            name: await part.read() if isinstance(part, UploadFile) else part
            for name, part in form.multi_items()
        }
    return parse_request(values)


def require_form(request: Request, *others: str) -> None:
    """Refuse a body that is not a form.

    Args:
        request: the request.
        others: further types of bodies that the route reads, for the message.

    Raises:
        RequestError: 415, naming the types that are read.
    """
    kind = content_type(request)
    if kind != _FORM:
        raise RequestError(
            415,
            "unsupported_body",
            f"the body is {shortened(kind) or 'of no type'}: send {' or '.join((_FORM, *others))}",
        )


def refuse_repeated(names: Iterable[str]) -> None:
    """Refuse fields that are given twice: readers differ in which of them counts.

    Raises:
        RequestError: 400, naming the first such field.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RequestError(400, "bad_request", f"field {shortened(name)!r} is given twice")
        seen.add(name)


def content_type(request: Request) -> str:
    """Return the body's media type without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def from_json(text: bytes) -> InpaintRequest:
    """Read one pair from JSON with the files in base64.

    Raises:
        RequestError: 400, naming the field.
    """
    values = json_object(text)
    for name in ("image", "mask"):
        if values.get(name) is not None:
            values[name] = from_base64(values[name], name)
    return parse_request({name: value for name, value in values.items() if value is not None})


MAX_JSON_VALUES = 10_000
"""Maximum number of values of a JSON body; a route's tensors have a limit of their own."""


def json_object(text: bytes, max_values: int = MAX_JSON_VALUES) -> dict[str, Any]:
    """Read a JSON object.

    The reader stops every thread of the process until it is done: half a second for ten million
    values, so they are counted before.

    Args:
        text: the body.
        max_values: maximum number of commas, also in texts.

    Raises:
        RequestError: 400 if the text is not a JSON object or gives a field twice, 413 for too many
            values.
    """
    if text.count(b",") > max_values:
        raise RequestError(413, "too_large", f"the JSON has more than {max_values:,} values")
    try:
        values = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad_request", "the body is not JSON") from error
    if not isinstance(values, dict):
        raise RequestError(400, "bad_request", "the JSON is not an object")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_repeated(name for name, _ in pairs)
    return dict(pairs)


_BLANKS = str.maketrans("", "", " \t\r\n")


def decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without line breaks and padding.

    Raises:
        ValueError: if it is not base64.
    """
    bare = text.translate(_BLANKS).rstrip("=")
    padded = bare.replace("-", "+").replace("_", "/") + "=" * (-len(bare) % 4)
    return base64.b64decode(padded, validate=True)


def from_base64(value: Any, name: str) -> bytes:
    """Decode base64, also in a data: URL. Other URLs are never fetched.

    Raises:
        RequestError: 400, naming the field.
    """
    if isinstance(value, str):
        if value.startswith("data:"):
            value = value.partition(",")[2]
        try:
            return decode_base64(value)
        except (binascii.Error, ValueError):
            pass
    raise RequestError(400, "bad_request", f"field {name!r} is not base64 of a file")


def parse_request(values: Mapping[str, Any]) -> InpaintRequest:
    """Check the fields of a request.

    Raises:
        RequestError: 400, naming the first field that is wrong.
    """
    files = {name: values[name] for name in ("image", "mask") if name in values}
    for name, data in files.items():
        if not isinstance(data, bytes):
            raise RequestError(400, "bad_request", f"field {name!r} is not a file")
    if "image" not in files:
        raise RequestError(400, "bad_request", "field 'image' is missing")
    rest = {name: value for name, value in values.items() if name not in files}
    return InpaintRequest(
        image=files["image"], mask=files.get("mask"), fields=check(RequestFields, rest)
    )


def check(kind: type[Model], values: Mapping[str, Any]) -> Model:
    """Validate fields.

    Raises:
        RequestError: 400, naming the first field that is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(
            400, "bad_request", f"field {shortened(where)!r}: {first['msg']}"
        ) from error
