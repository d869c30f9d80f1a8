"""Programs of others, as their authors ship them, against our service over real HTTP."""

import base64
import io

import httpx
import numpy as np
import openai
import pytest

from infill.jobs.batch_inpaint import batch_inpaint
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.errors import UserError
from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig


@pytest.fixture
def pair(make):
    """A photograph, its hole, and the same hole as OpenAI's clients send it: transparent."""
    image, hole = make.photograph(40, 50), make.hole(40, 50, slice(5, 20), slice(10, 30))
    opaque = np.where(hole, 0, 255).astype(np.uint8)
    return image, hole, make.file(np.dstack([image, opaque]))


def test_openai_s_own_client_edits_a_picture(serving, replica, make, pair):
    image, hole, mask = pair
    secret, key = new_key("anna", 1000)
    with serving(replica, HttpConfig(keys=(key,))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
        answer = client.images.edit(
            image=("image.png", io.BytesIO(make.file(image))),
            mask=("mask.png", io.BytesIO(mask)),
            prompt="nobody reads it",
            model="spn",
        )
        got = make.pixels(base64.b64decode(answer.data[0].b64_json))
        ours = httpx.post(
            f"{url}/v1/inpaint",
            files={"image": make.file(image), "mask": make.file(hole)},
            headers={"X-API-Key": secret},
        )
        stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.images.edit(image=("a.png", make.file(image)), prompt="a", model="spn")
        with pytest.raises(openai.NotFoundError):
            client.images.edit(
                image=("image.png", make.file(image)), mask=("m.png", mask), prompt="a", model="x"
            )
        assert client.models.list() is not None
        stranger.close()
        client.close()
    np.testing.assert_array_equal(got[~hole], image[~hole])
    np.testing.assert_array_equal(got, make.pixels(ours.content))
    assert "send a known key" in str(refused.value)


def test_folder_goes_to_an_endpoint_that_asks_for_a_key(serving, replica, make, tmp_path):
    """The key comes from a file, since a command line is seen by others."""
    secret, key = new_key("anna", 1000)
    (tmp_path / "key").write_text(f"{secret}\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(make.file(make.photograph(40, 50)))
    with serving(replica, HttpConfig(keys=(key,))) as url:

        def filled(out, key_file):
            where = {"folder": str(tmp_path / "photos"), "out": str(tmp_path / out)}
            return batch_inpaint(
                BatchInferenceConfig(
                    **where, endpoint=url, draw=True, api_key_file=str(tmp_path / key_file)
                )
            )

        assert filled("out", "key").filled == 1
        (tmp_path / "wrong").write_text("wrong")
        with pytest.raises(UserError):
            filled("refused", "wrong")
        with pytest.raises(UserError, match="api_key_file: there is no file .*/missing"):
            filled("nowhere", "missing")
    written = [place.read_bytes() for place in (tmp_path / "out").rglob("*") if place.is_file()]
    assert len(written) >= 1
    assert not any(secret.encode() in data for data in written)
