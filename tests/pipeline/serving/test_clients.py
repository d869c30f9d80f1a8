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


def test_openai_s_client_lists_and_retrieves_models_by_name_and_alias(serving, replica):
    config = HttpConfig(aliases=("gpt-image-1=spn",), licences=("spn=CC-BY-4.0",))
    with serving(replica, config) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        listed = [model.id for model in client.models.list()]
        found = client.models.retrieve("gpt-image-1")
        with pytest.raises(openai.NotFoundError, match="no model 'dall-e-2' is served"):
            client.models.retrieve("dall-e-2")
        [ours] = httpx.get(f"{url}/v1/models").json()["models"]
        client.close()
    assert listed[-1] == found.id == "gpt-image-1"
    assert len(listed) == 2
    assert found.model_extra["version"] == ours["version"] == "1"
    assert ours["architecture"] == "spn"
    assert ours["image_size_px"] == 64
    assert (ours["several_samples"], ours["max_samples"]) == (False, 1)
    assert ours["licence"] == "CC-BY-4.0"
    assert ours["aliases"] == ["gpt-image-1"]
    assert ours["output_formats"] == ["png", "jpeg", "webp"]
    assert "location" not in ours


def test_openai_s_client_streams_finished_pictures(serving, imaginative, make, pair):
    image, hole, mask = pair
    with serving(imaginative, HttpConfig(aliases=("gpt-image-1=spn",))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        options = {"prompt": "a", "model": "gpt-image-1", "n": 2, "mask": ("m.png", mask)}
        events = list(
            client.images.edit(
                image=("a.png", make.file(image)), stream=True, partial_images=2, **options
            )
        )
        client.close()
    assert [event.type for event in events] == ["image_edit.completed"] * 2
    pictures = [make.pixels(base64.b64decode(event.b64_json)) for event in events]
    for picture in pictures:
        np.testing.assert_array_equal(picture[~hole], image[~hole])
    assert (pictures[0] != pictures[1]).any()
    assert events[0].size == "50x40"


def test_openai_s_client_chooses_format_and_compression(serving, replica, make, pair):
    image, _, mask = pair
    with serving(replica, HttpConfig()) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        def edit(**options):
            sent = {"image": ("a.png", make.file(image)), "mask": ("m.png", mask)}
            answer = client.images.edit(prompt="a", model="spn", **sent, **options)
            return answer.output_format, base64.b64decode(answer.data[0].b64_json)

        best, small = (edit(output_format="webp", output_compression=share) for share in (100, 20))
        jpeg = edit(output_format="jpeg", output_compression=0)
        client.close()
    assert (best[0], small[0], jpeg[0]) == ("webp", "webp", "jpeg")
    assert best[1][:4] == small[1][:4] == b"RIFF"
    assert len(small[1]) < len(best[1])
    assert jpeg[1][:3] == b"\xff\xd8\xff"


def test_openai_s_client_reads_refusals_with_their_parameter(serving, replica, make, pair):
    image, _, mask = pair
    sent = {"image": ("a.png", make.file(image)), "mask": ("m.png", mask)}
    cases = [
        ({"image": [("a.png", make.file(image))] * 2}, "image", "one image, not 2"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_compression": 101}, "output_compression", "100"),
        ({"n": 11}, "n", "at most 10"),
    ]
    with serving(replica, HttpConfig()) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for options, parameter, text in cases:
            with pytest.raises(openai.BadRequestError, match=text) as refused:
                client.images.edit(prompt="a", model="spn", **{**sent, **options})
            assert refused.value.param == parameter
            assert refused.value.type == "invalid_request_error"
            assert refused.value.code == "bad_request"
        with pytest.raises(openai.NotFoundError, match="/v1/images/edits"):
            client.images.generate(prompt="a", model="spn")
        client.close()


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
                    **where,
                    endpoint=url,
                    generate_masks=True,
                    api_key_file=str(tmp_path / key_file),
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
