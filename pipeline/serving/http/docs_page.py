"""The reference page of the HTTP interface, made from its OpenAPI document.

It loads nothing from other hosts, so it works without access to the internet.
"""

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from infill.pipeline.reporting.page import Section, paragraphs, preformatted, render, stack, table

_KINDS = {"binary": "file", "base64": "file in base64"}
_LONGEST_EXAMPLE = 900


def reference_page(document: Mapping[str, Any]) -> str:
    """Return a page on every operation of an OpenAPI document."""
    operations = [
        Section(title=f"{method.upper()} {path}", body=_operation(method, path, about))
        for path, methods in document["paths"].items()
        for method, about in methods.items()
    ]
    start = Section(
        title="Ask",
        body=stack(
            preformatted("curl -F image=@photo.jpg -F mask=@hole.png URL/v1/inpaint -o filled.png"),
            paragraphs(
                "White marks the hole, in a mask of the image's size; known pixels come back "
                "unchanged. Programs find the same at /openapi.json; the page with the brush is "
                "at /."
            ),
        ),
    )
    title = f"{document['info']['title']} {document['info']['version']}: the interface"
    summary = document["info"].get("summary", "")
    page: str = render(
        "report.html.j2", title=title, summary=summary, sections=[start, *operations]
    )
    return page


def _operation(method: str, path: str, about: Mapping[str, Any]) -> Markup:
    parts = [paragraphs(about.get("summary", ""))]
    for media, content in about.get("requestBody", {}).get("content", {}).items():
        fields = content.get("schema", {})
        required = fields.get("required", ())
        rows = [
            [name, "yes" if name in required else "", _kind(one), one.get("description", "")]
            for name, one in fields.get("properties", {}).items()
        ]
        if rows:
            parts.append(
                table(["field", "needed", "kind", "meaning"], rows, f"Body: {media}", words=True)
            )
        if "example" in content:
            parts.append(preformatted(_example(method, path, media, content["example"])))
    answers = [
        [status, ", ".join(answer.get("content", {})), answer.get("description", "")]
        for status, answer in about.get("responses", {}).items()
    ]
    parts.append(table(["status", "kind", "answer"], answers, "Answers", words=True))
    return stack(*parts)


def _kind(field: Mapping[str, Any]) -> str:
    """Return the kind of a field: a word, or its values."""
    if "anyOf" in field:
        return ", ".join(_kind(one) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"several: {_kind(field['items'])}"
    form = field.get("format") or field.get("contentEncoding")
    return _KINDS.get(str(form), str(field.get("type", "")))


def _example(method: str, path: str, media: str, example: Any) -> str:
    text = example if isinstance(example, str) else json.dumps(example)
    body = text.strip()[:_LONGEST_EXAMPLE]
    return f"curl -X {method.upper()} -H 'Content-Type: {media}' -d '{body}' URL{path}"
