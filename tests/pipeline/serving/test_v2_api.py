"""The Open Inference Protocol, by Triton's own client over real HTTP."""

import base64

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig

SECRET, KEY = new_key("anna", 1000)


def key() -> dict[str, str]:
    """Return the headers of a request; Triton's client adds its own to them."""
    return {"Authorization": f"Bearer {SECRET}"}


def post(client, path, **body):
    url = f"http://{client._parsed_url.host}:{client._parsed_url.port}{path}"
    return httpx.post(url, headers=key(), **body)


@pytest.fixture
def v2(serving, replica):
    """A client of a service that asks for a key."""
    config = HttpConfig(keys=(KEY,), limits=LimitsConfig(max_pixels=4_000))
    with serving(replica, config) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        yield client
        client.close()


@pytest.fixture
def pair(make):
    image, hole = make.photograph(40, 50), make.hole(40, 50, slice(5, 20), slice(10, 30))
    return image, hole


def tensor(name, values, datatype, binary=True):
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def infer(client, image, mask, binary=True, model="spn", **options):
    outputs = [triton.InferRequestedOutput("composite", binary_data=binary)]
    answer = client.infer(model, [image, mask], outputs=outputs, headers=key(), **options)
    return answer.as_numpy("composite")


def test_triton_s_client_finds_the_server_its_model_and_versions(v2, spn):
    assert v2.is_server_live()
    assert v2.is_server_ready()
    assert v2.is_model_ready("spn", headers=key())
    assert v2.is_model_ready("spn", spn.version, headers=key())
    assert not v2.is_model_ready("spn", "77", headers=key())
    assert not v2.is_model_ready("other", headers=key())
    assert v2.get_server_metadata(headers=key())["extensions"] == ["binary_tensor_data"]
    about = v2.get_model_metadata("spn", spn.version, headers=key())
    assert (about["name"], about["versions"]) == ("spn", [spn.version])
    assert [one["name"] for one in about["inputs"]] == ["image", "mask"]


@pytest.mark.parametrize("binary", [True, False])
def test_levels_give_the_composite_of_our_own_route(v2, make, pair, binary):
    image, hole = pair
    answer = infer(
        v2,
        tensor("image", image[None], "UINT8", binary),
        tensor("mask", hole[None, ..., None].astype(np.uint8) * np.uint8(255), "UINT8", binary),
        binary,
        model_version="1",
        request_id="mine",
    )
    own = post(v2, "/v1/inpaint", files={"image": make.file(image), "mask": make.file(hole)})
    np.testing.assert_array_equal(answer[0], make.pixels(own.content))


def test_floats_keep_known_pixels_exactly(v2, pair):
    image, hole = pair
    values = (image / 255 * 0.999).astype(np.float32)
    answer = infer(v2, tensor("image", values, "FP32"), tensor("mask", hole, "BOOL"))
    assert answer.shape == values.shape
    np.testing.assert_array_equal(answer[~hole], values[~hole])
    assert (answer[hole] != values[hole]).any()


def test_files_of_several_images_come_back_as_files(v2, make, pair):
    image, hole = pair
    images = np.array([make.file(image), make.file(image[::-1])], dtype=np.object_)
    masks = np.array([make.file(hole)], dtype=np.object_)
    answer = infer(
        v2,
        tensor("image", images, "BYTES"),
        tensor("mask", masks, "BYTES"),
        parameters={"output_format": "webp", "mask_polarity": "white"},
    )
    assert len(answer) == 2
    assert all(bytes(file).startswith(b"RIFF") for file in answer)
    np.testing.assert_array_equal(make.pixels(bytes(answer[1]))[~hole], image[::-1][~hole])


def test_files_in_json_are_base64(v2, make, pair):
    files = (make.file(one) for one in pair)
    inputs = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [1],
            "data": [base64.b64encode(file).decode()],
        }
        for name, file in zip(("image", "mask"), files, strict=True)
    ]
    body = post(v2, "/v2/models/spn/infer", json={"id": "a", "inputs": inputs}).json()
    assert (body["model_name"], body["id"]) == ("spn", "a")
    [output] = body["outputs"]
    got = make.pixels(base64.b64decode(output["data"][0]))
    np.testing.assert_array_equal(got[~pair[1]], pair[0][~pair[1]])


def test_refusals_have_the_protocol_s_shape_and_a_sentence(v2, pair):
    image, hole = pair

    def refusal(image_tensor, mask_tensor, status, text, **options):
        with pytest.raises(InferenceServerException, match=text) as refused:
            infer(v2, image_tensor, mask_tensor, **options)
        assert refused.value.status() == str(status)

    good, mask = tensor("image", image, "UINT8"), tensor("mask", hole, "BOOL")
    refusal(good, mask, 404, "no model 'other' is served", model="other")
    refusal(good, tensor("holes", hole, "BOOL"), 400, "input 'holes'")
    refusal(good, tensor("mask", hole[:20], "BOOL"), 400, "send a mask of the image's size")
    refusal(good, tensor("mask", hole & False, "BOOL"), 400, "empty_mask")
    refusal(good, mask, 400, "field 'mode'", parameters={"mode": "guess"})
    refusal(tensor("image", image.astype(np.float32), "FP32"), mask, 400, "values of 0 to 1")
    wide = np.zeros((1, 5_000, 3), np.uint8)
    refusal(tensor("image", wide, "UINT8"), mask, 413, "at most 4,000 are accepted")
    with pytest.raises(InferenceServerException, match="send a known key") as refused:
        v2.infer("spn", [good, mask])
    assert refused.value.status() == "401"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"inputs": 3}',
        b'{"inputs": [3]}',
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, -1], "data": []}]}',
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2], "data": [1, 300]}]}',
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [3], "data": [[], [1]]}]}',
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": ["a"]}]}',
        b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [null]}]}',
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [9],'
        b' "parameters": {"binary_data_size": 9}}]}',
    ],
)
def test_malformed_requests_are_refused_in_a_sentence(v2, body):
    answer = post(v2, "/v2/models/spn/infer", content=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)
