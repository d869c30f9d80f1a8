"""Requests as odd programs send them, to one service on Ray: each is read, or refused by name."""

import base64
import contextlib
import io
import json
import socket
from collections.abc import Callable
from dataclasses import replace

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.jobs.config import JobsConfig

pytestmark = pytest.mark.slow
LONG_S = 300
"""No event is waited for longer; how long one takes says nothing."""
FORM = {"content-type": "multipart/form-data; boundary=XX"}
JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
V2 = "/v2/models/spn/infer"
OPENAI = "/v1/images/edits"
IOPAINT = "/api/v1/inpaint"

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
HOLE = np.zeros((60, 60), np.uint8)
HOLE[20:30, 20:30] = 255
CLEAR = Image.fromarray(np.dstack([PIXELS, 255 - HOLE]))
"""Its own transparency marks the hole."""
DEEP = np.dstack([PIXELS[..., ::-1], 255 - HOLE]).astype(np.uint16) * 257  # as OpenCV writes it


def file(image: np.ndarray | Image.Image, form: str = "png", **options) -> bytes:
    sink = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(sink, form, **options)
    return sink.getvalue()


FILES = {"image": file(PIXELS), "mask": file(HOLE)}
ERASED = {"image": FILES["image"], "mask": file(CLEAR)}
BASE64 = {name: base64.b64encode(data).decode() for name, data in FILES.items()}
LINE = json.dumps(BASE64).encode() + b"\n"


def part(name: str, data: bytes, more: str = "") -> bytes:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + data + b"\r\n"


def upload(name: str, data: bytes) -> bytes:
    return part(name, data, '; filename="a.png"')


PAIR = upload("image", FILES["image"]) + upload("mask", FILES["mask"])


def of_fields(path: str = "/v1/inpaint", files: dict | None = None, **fields: str) -> dict:
    return {"url": path, "files": FILES if files is None else files, "data": fields}


def of_json(path: str = "/v1/inpaint", **values: object) -> dict:
    return {"url": path, "json": {**BASE64, **values}}


def of_v2(image: dict | None = None, **values: object) -> dict:
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
        for name, text in BASE64.items()
    ]
    return {"url": V2, "json": {"inputs": [tensors[0] | (image or {}), tensors[1]], **values}}


def of_body(content: bytes, headers: dict[str, str], url: str = "/v1/inpaint") -> dict:
    return {"url": url, "content": content, "headers": headers}


REFUSED = {
    "a form without its end": (
        of_body(upload("image", file(CLEAR)) + upload("mask", FILES["mask"])[:-9], FORM),
        "ends before its last boundary",
    ),
    "a batch's form without its end": (
        of_body(PAIR + PAIR, FORM, "/v1/inpaint/batch"),
        "ends before its last boundary",
    ),
    "a file as text": (
        {"url": "/v1/inpaint", "files": {"mask": FILES["mask"]}, "data": {"image": "x"}},
        "field 'image' is not a file: give its part a filename",
    ),
    "an option as file": (
        of_fields(files={**FILES, "mode": ("mode.txt", b"crop")}),
        "field 'mode' is a file",
    ),
    "a third file": (of_fields(files={**FILES, "extra": b"x"}), "field 'extra' is a file"),
    "an option in the query": (of_fields("/v1/inpaint?mode=tile"), "reads no 'mode' in its query"),
    "a batch's option in the query": (
        of_body(LINE, LINES, "/v1/inpaint/batch?mode=tile"),
        "reads no 'mode' in its query",
    ),
    "a mask's option in the query": (
        {"url": "/v1/mask?mask_polarity=black", "files": {"mask": FILES["mask"]}},
        "reads no 'mask_polarity' in its query",
    ),
    "a misspelt field": (of_fields(seeds="1"), "field 'seeds': there is no such field: it is one"),
    "a misspelt field that is null": (of_json(seeds=None), "field 'seeds': there is no such"),
    "a quality of PNG": (of_fields(quality="50"), "field 'quality': 50 is for jpeg and webp"),
    "a rule without a mask": (
        of_fields(files={"image": file(CLEAR)}, mask_polarity="black"),
        "field 'mask_polarity' needs a mask",
    ),
    "a URL": (of_json(image="https://x/y.png"), "field 'image' is a URL"),
    "a data URL without base64": (of_json(image="data:image/png,abc"), "field 'image' is a URL"),
    "a list for a file": (
        of_json(image=["x"]),
        "field 'image' must be text with base64, found list",
    ),
    "JSON in single quotes": (of_body(b"{'a': 1}", JSON), "is not JSON: Expecting property name"),
    "JSON in Latin-1": (of_body(b'{"model": "\xe9"}', JSON), "is not JSON: it is not UTF-8"),
    "a number of 5,000 digits": (
        of_body(b'{"seed": ' + b"9" * 5000 + b"}", JSON),
        "is not JSON: Exceeds the limit",
    ),
    "half a surrogate as model": (
        of_body(json.dumps({**BASE64, "model": "\ud800"}).encode(), JSON),
        "no model '\\ud800'",
    ),
    "an unknown priority": (
        {**of_fields(), "headers": {"x-infill-priority": "high"}},
        "X-Infill-Priority is neither",
    ),
    "floats without a range": (
        of_fields(files={**FILES, "image": file(HOLE.astype(np.float32), "tiff")}),
        "the image cannot be used: float32 pixels of unknown range",
    ),
    "a job's option in the query of JSON": (
        {"url": "/v1/jobs?mode=tile", "json": {"folder": "x"}},
        "reads no 'mode' in its query",
    ),
    "a job's option twice": (
        of_body(LINE, LINES, "/v1/jobs?mode=tile&mode=crop"),
        "field 'mode' is given twice",
    ),
    "a job's quality": (
        of_body(LINE, LINES, "/v1/jobs?output_format=webp&quality=50"),
        "field 'quality': jobs take model, mode, mask_polarity",
    ),
    "a job's samples": (of_body(LINE, LINES, "/v1/jobs?samples=2"), "field 'samples': jobs take"),
    "a job's bad pair": (of_body(LINE + b"{\n", LINES, "/v1/jobs"), "pair 1: the body is not JSON"),
    "a job with an empty key for repeats": (
        of_body(LINE, {**LINES, "idempotency-key": ""}, "/v1/jobs"),
        "header Idempotency-Key: send one, of 1 to 255",
    ),
    "OpenAI's mask as text": (
        {"url": OPENAI, "files": {"image": file(CLEAR)}, "data": {"mask": "x"}},
        "field 'mask' is not a file",
    ),
    "OpenAI's image twice, once as text": (
        of_fields(OPENAI, ERASED, image="x"),
        "field 'image': send one image, not 2",
    ),
    "OpenAI's mask[]": (
        of_fields(OPENAI, {"image": file(CLEAR), "mask[]": FILES["mask"]}),
        "field 'mask[]' is a file: files are image, image[], mask",
    ),
    "OpenAI's n as file": (
        of_fields(OPENAI, {**ERASED, "n": ("n", b"2")}),
        "field 'n' is a file",
    ),
    "OpenAI's unknown field": (of_fields(OPENAI, ERASED, seed="1"), "field 'seed': OpenAI's"),
    "OpenAI's stream": (of_fields(OPENAI, ERASED, stream="yes"), "field 'stream' is neither"),
    "OpenAI's compression of PNG": (
        of_fields(OPENAI, ERASED, output_compression="50"),
        "field 'output_compression': 50 is for jpeg and webp",
    ),
    "OpenAI's response_format": (
        of_fields(OPENAI, ERASED, response_format="b64"),
        "field 'response_format'",
    ),
    "IOPaint's seed as text": (of_json(IOPAINT, sd_seed="7"), "field 'sd_seed' is not a whole"),
    "IOPaint's strategy": (of_json(IOPAINT, hd_strategy="crop"), "field 'hd_strategy' is not one"),
    "v2: a shape of 8,000 digits": (
        of_v2({"shape": [10**4000, 10**4000]}),
        "input 'image': its shape is not a list",
    ),
    "v2: shared memory": (
        of_v2({"parameters": {"shared_memory_region": "x"}}),
        "parameter 'shared_memory_region' of a tensor is not read",
    ),
    "v2: classification": (
        of_v2(outputs=[{"name": "composite", "parameters": {"classification": 3}}]),
        "parameter 'classification' of a tensor is not read",
    ),
    "v2: 'false' for false": (
        of_v2(outputs=[{"name": "composite", "parameters": {"binary_data": "false"}}]),
        "parameter 'binary_data' is neither true nor false",
    ),
    "v2: another model than the path's": (of_v2(parameters={"model": "x"}), "field 'model'"),
    "v2: an option beside the parameters": (of_v2(mode="tile"), "field 'mode': options are"),
    "v2: a superscript two as length": (
        {**of_v2(), "headers": [(b"inference-header-content-length", b"\xb2")]},
        "inference-header-content-length is not a number",
    ),
    "v2: a URL": (of_v2({"data": ["https://x/y.png"]}), "input 'image': its field 'data' is a URL"),
}
READ = {
    "a data URL in capitals": of_json(image=f" DATA:image/png;BASE64,{BASE64['image']}"),
    "a data URL with a name": of_json(image=f"data:image/png;name=a.png;base64,{BASE64['image']}"),
    "a data URL with escapes": of_json(
        image="data:image/png;base64," + BASE64["image"].replace("+", "%2B").replace("/", "%2F")
    ),
    "numbers as text": of_json(seed="5", samples=1.0, mode=None),
    "UTF-16": of_body(json.dumps(BASE64).encode("utf-16"), JSON),
    "a byte order mark": of_body(b"\xef\xbb\xbf" + json.dumps(BASE64).encode(), JSON),
    "a form in capitals": of_body(
        PAIR + b"--XX--\r\n", {"content-type": "Multipart/Form-Data; Boundary=XX"}
    ),
    "a slash behind the path": of_fields("/v1/inpaint/"),
    "a priority in capitals": {**of_fields(), "headers": {"x-infill-priority": "Batch"}},
    "no mask, 16 bits": of_fields(files={"image": cv2.imencode(".png", DEEP)[1].tobytes()}),
    "no mask, an animated PNG": of_fields(
        files={"image": file(CLEAR, save_all=True, append_images=[CLEAR.rotate(90)])}
    ),
    "no mask, TIFF": of_fields(files={"image": file(CLEAR, "tiff")}),
    "IOPaint's seed of -1": of_json(IOPAINT, sd_seed=-1, hd_strategy="Crop"),
    "v2: a data URL": of_v2({"data": [f"data:image/png;base64,{BASE64['image']}"]}),
    "v2: no id": of_v2(id=None),
    "v2: MLServer's content type": of_v2({"parameters": {"content_type": "base64"}}),
    "OpenAI's size and user": of_fields(OPENAI, ERASED, size="auto", user="x", prompt="y"),
    "Azure's version": of_fields(f"{OPENAI}?api-version=1", ERASED),
}


@pytest.fixture(scope="module")
def config(config, tmp_path_factory) -> ServeConfig:
    folder = str(tmp_path_factory.mktemp("jobs"))
    limits = replace(
        config.limits, max_waiting=4, body_grace_s=LONG_S, request_timeout_s=2 * LONG_S
    )
    jobs = JobsConfig(folder=folder)
    return replace(config, jobs=jobs, ingress_replicas=2, limits=limits)


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=LONG_S, follow_redirects=False) as client:
        yield client


def message_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return error if isinstance(error, str) else error["message"]


def test_nothing_is_left_out_in_silence(client):
    wrong = {}
    for name, (request, sentence) in REFUSED.items():
        answer = client.request("POST", **request)
        if not 400 <= answer.status_code < 500 or sentence not in message_of(answer):
            wrong[name] = answer.status_code, answer.text[:200]
    assert not wrong


def test_odd_but_plain_requests_are_read(client):
    known, wrong = HOLE == 0, {}
    for name, request in READ.items():
        answer = client.request("POST", **request)
        if answer.status_code != 200:
            wrong[name] = answer.status_code, answer.text[:200]
        elif answer.headers["content-type"] == "image/png":
            with Image.open(io.BytesIO(answer.content)) as got:
                pixels = np.asarray(got)[..., :3]
            np.testing.assert_array_equal(pixels[known], PIXELS[known], name)
            assert (pixels[~known] != PIXELS[~known]).any(), name
    assert not wrong


@pytest.fixture
def exchange(url) -> Callable[[bytes, bytes], bytes]:
    """Send bytes to the service, and return its bytes until it closes the connection."""
    address = url.removeprefix("http://").split(":")

    def send(head: bytes, body: bytes = b"") -> bytes:
        with socket.create_connection((address[0], int(address[1])), timeout=LONG_S) as caller:
            caller.sendall(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)
            found = b""
            while piece := caller.recv(2**16):
                found += piece
        return found

    return send


POST = b"POST /v1/inpaint HTTP/1.1\nContent-Type: multipart/form-data; boundary=XX\n"
BODY = PAIR + b"--XX--\r\n"
CLOSE = b"\nConnection: close"


@pytest.mark.parametrize(
    ("head", "body", "status", "sentence"),
    [
        (POST + b"Content-Length: %d" % len(BODY) + CLOSE, BODY, 400, b"one Host header"),
        (POST + b"Host: a\nHost: b\nContent-Length: %d" % len(BODY) + CLOSE, BODY, 400, b"not 2"),
        (
            POST + b"Host: a\nTransfer-Encoding: gzip, chunked" + CLOSE,
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            415,
            b"without compression",
        ),
        (POST + b"Host: a\nTransfer-Encoding: chunked", b"zz\r\n", 400, b"Invalid HTTP"),
        (
            POST.replace(b"1.1", b"1.0") + b"Content-Length: %d" % len(BODY),
            BODY,
            200,
            b"\x89PNG",
        ),
        (
            POST + b"Host: a\nExpect: 100-continue\nTransfer-Encoding: chunked" + CLOSE,
            b"%x;a=b\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(BODY), BODY),
            200,
            b"\x89PNG",
        ),
        (b"GET /healthz/ HTTP/1.0", b"", 200, b"alive"),
        (b"GET //healthz HTTP/1.0", b"", 200, b"alive"),
        (b"GET /nothing HTTP/1.0", b"", 404, b"/docs lists the paths"),
        (b"HEAD /v1/models/ HTTP/1.0", b"", 200, b""),
    ],
    ids=[
        "no host",
        "two hosts",
        "gzip",
        "no chunk",
        "1.0",
        "1.1",
        "slash",
        "slashes",
        "404",
        "HEAD",
    ],
)
def test_bytes_of_old_and_careless_clients(exchange, head, body, status, sentence):
    found = exchange(head, body)
    first = found.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), found[:300]
    assert sentence in found


@pytest.mark.parametrize("path", ["/v1/inpaint/batch", "/healthz", "/"])
def test_http_1_0_gets_no_chunks(exchange, path):
    """As ApacheBench asks: an answer of known length, or one that ends with the connection."""
    sent = f"GET {path} HTTP/1.0\nConnection: Keep-Alive".encode(), b""
    if path == "/v1/inpaint/batch":
        head = f"POST {path} HTTP/1.0\nExpect: 100-continue\nContent-Length: {len(LINE)}\n".encode()
        sent = head + b"Content-Type: application/x-ndjson", LINE
    head, _, body = exchange(*sent).partition(b"\r\n\r\n")
    status, *lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert status == b"http/1.1 200 ok"
    assert b"transfer-encoding" not in headers
    assert headers[b"connection"] == b"close"
    if path == "/v1/inpaint/batch":
        assert b"content-length" not in headers
        [line] = body.splitlines()
        assert "image" in json.loads(line)
    else:
        assert len(body) == int(headers[b"content-length"]) > 0


def test_many_who_send_slowly_do_not_hold_the_health_check(url, config):
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /v1/inpaint HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
    with contextlib.ExitStack() as held:
        slow = []
        for _ in range(20 * config.limits.max_waiting * config.ingress_replicas):
            slow.append(held.enter_context(socket.create_connection((host, int(port)), LONG_S)))
            slow[-1].sendall(head)
        for _ in range(8):  # Of both ingresses, most likely.
            assert httpx.get(f"{url}/healthz", timeout=LONG_S).status_code == 200
        for one in slow:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
