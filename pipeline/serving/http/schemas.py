"""Requests as form or JSON: read within limits, validated; no URL is fetched."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import unquote

from fastapi import Request
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from starlette.datastructures import UploadFile

from infill.pipeline.images import HOLE_THRESHOLD, Channel, MaskRule, Polarity
from infill.pipeline.inference.config import Mode
from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.errors import RequestError, shortened
from infill.pipeline.serving.http.base64_pieces import decode_base64
from infill.pipeline.serving.http.forms import (
    content_type,
    query_of,
    read_form,
    refuse_repeated,
    require_form,
    texts_of,
)
from infill.pipeline.serving.http.negotiation import accepted_formats

MAX_SAMPLES = 16
_FILES = ("image", "mask")
Model = TypeVar("Model", bound=BaseModel)


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

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for numbers, where they would count as 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
            raise PydanticCustomError("int_type", "Input should be a number")
        return value

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

    def options(self, accept: str) -> InpaintOptions:
        """Return the options of the request, given the Accept header.

        Raises:
            RequestError: 400 for a quality of a format that has none.
        """
        formats = [self.output_format] if self.output_format else accepted_formats(accept)
        first, *others = formats
        if first == "png" and self.quality is not None and self.quality < 100:
            raise RequestError(
                400,
                "bad_request",
                f"field 'quality': {self.quality} is for jpeg and webp, and the output is png: "
                "give output_format, or leave it out",
            )
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
    query_of(request)
    if content_type(request) == "application/json":
        return await asyncio.to_thread(from_json, await request.body())
    require_form(request, "application/json")
    async with read_form(request) as form:
        refuse_repeated(name for name, _ in form.multi_items())
        values: dict[str, Any] = dict(texts_of(form, _FILES))
        for name in _FILES:
            part = form.get(name)
            if part is not None:
                values[name] = await part.read() if isinstance(part, UploadFile) else part
    return parse_request(values)


def from_json(text: bytes) -> InpaintRequest:
    """Read one pair from JSON with the files in base64.

    Raises:
        RequestError: 400, naming the field.
    """
    return request_of(json_object(text))


def request_of(values: dict[str, Any]) -> InpaintRequest:
    """Read one pair from a JSON object with the files in base64; a field that is null is absent.

    Raises:
        RequestError: 400, naming the field.
    """
    for name in _FILES:
        if values.get(name) is not None:
            values[name] = from_base64(values[name], name)
    known = {*_FILES, *RequestFields.model_fields}
    return parse_request({k: v for k, v in values.items() if v is not None or k not in known})


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
        raise RequestError(400, "bad_request", f"the body is not JSON: {_why(error)}") from error
    if not isinstance(values, dict):
        raise RequestError(400, "bad_request", "the JSON is not an object")
    return values


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    return "it is not UTF-8" if isinstance(error, UnicodeError) else shortened(str(error))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_repeated(name for name, _ in pairs)
    return dict(pairs)


_URL = re.compile(r"\s*[a-z][a-z0-9+.-]{0,20}:", re.IGNORECASE)
_DATA_URL = re.compile(r"\s*data:[^,]{0,200};base64\s*,", re.IGNORECASE)


def from_base64(value: Any, name: str) -> bytes:
    """Decode base64, also in a data: URL. Other URLs are never fetched.

    Raises:
        RequestError: 400, naming the field.
    """
    if not isinstance(value, str):
        kind = type(value).__name__
        raise RequestError(
            400, "bad_request", f"field {name!r} must be text with base64, found {kind}"
        )
    if _URL.match(value):
        if (found := _DATA_URL.match(value)) is None:
            raise RequestError(
                400, "bad_request", f"field {name!r} is a URL: send the file's bytes in base64"
            )
        value = unquote(value[found.end() :]) if "%" in value else value[found.end() :]
    try:
        return decode_base64(value)
    except ValueError as error:
        raise RequestError(400, "bad_request", f"field {name!r} is not base64 of a file") from error


def parse_request(values: Mapping[str, Any]) -> InpaintRequest:
    """Check the fields of a request.

    Raises:
        RequestError: 400, naming the first field that is wrong.
    """
    files = {name: values[name] for name in ("image", "mask") if name in values}
    for name, data in files.items():
        if not isinstance(data, bytes):
            raise RequestError(
                400,
                "bad_request",
                f"field {name!r} is not a file: give its part a filename, as "
                f"`curl -F {name}=@file.png` does, or send JSON with base64",
            )
    if "image" not in files:
        raise RequestError(400, "bad_request", "field 'image' is missing")
    rest = {name: value for name, value in values.items() if name not in files}
    fields = check(RequestFields, rest)
    ruled = sorted(fields.model_fields_set & MaskFields.model_fields.keys())
    if "mask" not in files and ruled:
        raise RequestError(
            400,
            "bad_request",
            f"field {ruled[0]!r} needs a mask: without one, the hole is where the image is not "
            "opaque",
        )
    return InpaintRequest(image=files["image"], mask=files.get("mask"), fields=fields)


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
        why = first["msg"]
        if first["type"] == "extra_forbidden":
            why = f"there is no such field: it is one of {', '.join(kind.model_fields)}"
        raise RequestError(400, "bad_request", f"field {shortened(where)!r}: {why}") from error
