"""The service's description of itself: its examples work, and its page needs nobody else."""

import asyncio
import json

import httpx
import pytest

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.inpaint_service import HttpConfig

TILING = TilingConfig(sides_px=(32, 64, 128), least_crop_px=64)


@pytest.fixture
def app(replica):
    """Return the application of one small model."""
    return create_app(replica, HttpConfig(tiling=TILING))


def test_openapi_documents_errors_and_the_form(app):
    operation = app.openapi()["paths"]["/v1/inpaint"]["post"]
    assert {"200", "400", "413", "415", "503"} <= set(operation["responses"])
    assert "422" not in operation["responses"]
    assert "multipart/form-data" in operation["requestBody"]["content"]


def test_every_example_of_the_description_is_answered(app):
    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            document = (await client.get("/openapi.json")).json()
            found = []
            for path, methods in document["paths"].items():
                for about in methods.values():
                    for media, content in about.get("requestBody", {}).get("content", {}).items():
                        if "example" in content:
                            example = content["example"]
                            body = example if isinstance(example, str) else json.dumps(example)
                            answer = await client.post(
                                path, content=body, headers={"content-type": media}
                            )
                            found.append((path, answer))
            return found, await client.get("/docs")

    found, page = asyncio.run(main())
    assert {path for path, _ in found} == {"/v1/inpaint", "/v1/inpaint/batch"}
    for _, answer in found:
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.text[:200]
    assert page.status_code == 200
    for expected in ("POST /v1/inpaint/batch", "mask_polarity", "file in base64", "GET /readyz"):
        assert expected in page.text
    assert "https://" not in page.text
    assert "//cdn" not in page.text
