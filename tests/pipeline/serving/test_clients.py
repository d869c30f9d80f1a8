"""Programs of others, as their authors ship them, against our service over real HTTP."""

import base64
import io

import httpx
import numpy as np
import openai
import pytest

from pipeline.serving.keys import new_key
from pipeline.serving.work import AppConfig


@pytest.fixture
def pair(make):
    """A photograph, its hole, and the same hole as OpenAI's clients send it: transparent."""
    image, hole = make.photograph(40, 50), make.hole(40, 50, slice(5, 20), slice(10, 30))
    opaque = np.where(hole, 0, 255).astype(np.uint8)
    return image, hole, make.file(np.dstack([image, opaque]))


def test_openai_s_own_client_edits_a_picture(serving, replica, make, pair):
    image, hole, mask = pair
    secret, key = new_key("anna", 1000)
    with serving(replica, AppConfig(keys=(key,))) as url:
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
