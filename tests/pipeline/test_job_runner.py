"""Jobs by HTTP and by the client, inpainted by the stages of batch inference in this process."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from infill.pipeline.batch_inference import ray_data
from infill.pipeline.batch_inference.runner import Outcome
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.job_runner import JobRunner, RunnerConfig
from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.jobs.store import JobStore
from infill.pipeline.serving.jobs.webhooks import check_webhook, signature
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.replica import Replica

ANNA, BOB = new_key("anna", 6000), new_key("bob", 6000)
SECRET = b"a secret of the tests"


@pytest.fixture
def config(tmp_path) -> HttpConfig:
    (tmp_path / "secret").write_bytes(SECRET)
    return HttpConfig(
        keys=(ANNA[1], BOB[1]),
        limits=LimitsConfig(max_pixels=10_000),
        jobs=JobsConfig(
            folder=str(tmp_path / "jobs"),
            prefixes=(str(tmp_path / "photos"),),
            max_jobs=2,
            max_pairs=3,
            webhook_secret_file=str(tmp_path / "secret"),
            private_webhooks=True,
            lease_s=60,
        ),
    )


@pytest.fixture(scope="module")
def backend(spn) -> Replica:
    made = Replica(ReplicaConfig())
    made.reconfigure({"models": [vars(spn)]})
    return made


@pytest.fixture
def ask(backend, config):
    """Return what sends one request to the application in this process."""

    def request(method: str, path: str, key: str = ANNA[0], **rest) -> httpx.Response:
        async def main():
            transport = httpx.ASGITransport(create_app(backend, config))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                headers = {"Authorization": f"Bearer {key}", **rest.pop("headers", {})}
                return await client.request(method, path, headers=headers, **rest)

        return asyncio.run(main())

    return request


def by_stages(model, config, pairs):
    """Inpaint pair by pair by the stages of batch inference, without Ray."""
    actor = ray_data.InpaintActor(model, ray_data.replica_config(config))
    for pair in pairs:
        rows = ray_data.columns_of([vars(pair)])
        done = ray_data.finish(actor(ray_data.split_rows(rows, config)), config)
        yield Outcome(name=pair.name, failure=done["failure"][0], model=model.label)


def runner(config: HttpConfig, run=by_stages) -> JobRunner:
    return JobRunner(RunnerConfig(jobs=config.jobs, limits=config.limits), run)


@pytest.fixture
def pairs(make):
    """Two pictures of several sizes with their holes."""
    sizes = [(40, 50), (33, 31)]
    return [
        (make.photograph(*size, seed=n), make.hole(*size, slice(5, 20), slice(10, 30)))
        for n, size in enumerate(sizes)
    ]


def lines_of(make, pairs) -> bytes:
    """Return the body of a job: JSON lines."""
    lines = [
        {
            "id": f"photo/{number}",
            "image": base64.b64encode(make.file(image)).decode(),
            "mask": base64.b64encode(make.file(hole)).decode(),
        }
        for number, (image, hole) in enumerate(pairs)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


LINES = {"content-type": "application/x-ndjson"}


def test_job_of_pairs_is_inpainted_and_read_as_lines_and_files(ask, config, make, pairs, spn):
    made = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=LINES)
    assert made.status_code == 202, made.text
    where = made.headers["location"]
    assert made.json()["status"] == "queued"
    assert made.json()["progress"] == {"total": 2, "done": 0, "failed": 0}
    assert runner(config).run_next()
    job = ask("GET", where).json()
    assert (job["status"], job["error"]) == ("done", "")
    assert job["model"] == "spn@1"
    assert job["progress"] == {"total": 2, "done": 2, "failed": 0}
    answer = ask("GET", f"{where}/results")
    assert answer.headers["content-type"] == "application/x-ndjson"
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in results] == ["photo/0", "photo/1"]
    for line, (image, hole) in zip(results, pairs, strict=True):
        own = ask("POST", "/v1/inpaint", files={"image": make.file(image), "mask": make.file(hole)})
        got = base64.b64decode(line["image"])
        np.testing.assert_array_equal(make.pixels(got), make.pixels(own.content))
        file = ask("GET", f"{where}/results/{line['file']}")
        assert (file.content, file.headers["content-type"]) == (got, "image/png")
    assert not runner(config).run_next()


def test_form_with_options_in_the_query_becomes_a_job(ask, config, make, pairs):
    files = [("image", make.file(pairs[0][0])), ("mask", make.file(~pairs[0][1]))]
    path = "/v1/jobs?mask_polarity=black&output_format=webp"
    where = ask("POST", path, files=files).headers["location"]
    runner(config).run_next()
    [line] = ask("GET", f"{where}/results?images=false").text.splitlines()
    assert json.loads(line) == {"id": 0, "file": "000000.webp"}


def test_prefix_that_is_allowed_becomes_a_job_and_no_other(ask, config, make, pairs, tmp_path):
    photos = tmp_path / "photos" / "may"
    photos.mkdir(parents=True)
    (tmp_path / "photos-of-others").mkdir()
    for number, (image, hole) in enumerate(pairs):
        (photos / f"{number}.png").write_bytes(make.file(image))
        (photos / f"{number}_mask.png").write_bytes(make.file(hole))
    (photos / "alone.png").write_bytes(make.file(pairs[0][0]))
    where = ask("POST", "/v1/jobs", json={"folder": str(photos)}).headers["location"]
    runner(config).run_next()
    assert ask("GET", where).json()["progress"] == {"total": 3, "done": 3, "failed": 1}
    lines = [json.loads(line) for line in ask("GET", f"{where}/results").text.splitlines()]
    assert [line["id"] for line in lines] == ["0.png", "1.png", "alone.png"]
    assert "no mask" in lines[2]["error"]
    for place in (f"{photos.parent}-of-others", f"{photos}/../..", "s3://other/photos", "/etc"):
        refused = ask("POST", "/v1/jobs", json={"folder": place})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")


def test_job_of_a_killed_service_goes_on_with_what_is_missing(ask, config, make, pairs):
    where = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=LINES).headers[
        "location"
    ]

    class Killed(BaseException):
        """Ends the runner in the middle, as a signal would."""

    def dying(model, settings, missing):
        yield next(by_stages(model, settings, missing))
        raise Killed

    with pytest.raises(Killed):
        runner(config, dying).run_next()
    assert ask("GET", where).json()["status"] == "running"
    assert not runner(config).run_next()  # its lease has not ended
    late = HttpConfig(
        jobs=JobsConfig(**{**to_dict(config.jobs), "lease_s": 1e-9}), limits=config.limits
    )
    asked = []

    def rest(model, settings, missing):
        asked.extend(pair.name for pair in missing)
        yield from by_stages(model, settings, missing)

    assert runner(late, rest).run_next()
    assert asked == ["000001.png"]
    job = ask("GET", where).json()
    assert (job["status"], job["progress"]["done"]) == ("done", 2)


def test_cancelled_job_ends_at_the_next_image_and_can_be_deleted(ask, config, make, pairs):
    where = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=LINES).headers[
        "location"
    ]

    def interrupted(model, settings, missing):
        stream = by_stages(model, settings, missing)
        yield next(stream)
        assert ask("DELETE", where).json()["error"]["code"] == "job_unfinished"
        assert ask("POST", f"{where}/cancel").json()["status"] == "cancelled"
        yield from stream

    runner(config, interrupted).run_next()
    job = ask("GET", where).json()
    assert (job["status"], job["progress"]["done"]) == ("cancelled", 1)
    assert len(ask("GET", f"{where}/results").text.splitlines()) >= 1
    assert ask("DELETE", where).status_code == 204
    assert ask("GET", where).status_code == 404


def test_requests_at_once_create_no_more_jobs_than_a_key_may_have(backend, config, make, pairs):
    headers = {**LINES, "Authorization": f"Bearer {ANNA[0]}"}
    body = {"content": lines_of(make, pairs), "headers": headers}

    async def main():
        transport = httpx.ASGITransport(create_app(backend, config))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(client.post("/v1/jobs", **body) for _ in range(8)))

    answers = asyncio.run(main())
    assert sorted(one.status_code for one in answers) == [202] * 2 + [429] * 6
    assert {one.headers["retry-after"] for one in answers if one.status_code == 429} == {"60"}
    store = JobStore(config.jobs)
    kept = {job.id for job in store.of_caller("anna")}
    store.close()
    assert {one.name for one in Path(config.jobs.folder).iterdir() if one.is_dir()} == kept


def test_jobs_belong_to_their_key_and_are_limited(ask, config, make, pairs):
    body = {"content": lines_of(make, pairs), "headers": LINES}
    where = [ask("POST", "/v1/jobs", **body).headers["location"] for _ in range(2)]
    refused = ask("POST", "/v1/jobs", **body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_jobs")
    assert ask("GET", where[0], key=BOB[0]).status_code == 404
    assert ask("GET", "/v1/jobs", key=BOB[0]).json() == {"jobs": []}
    assert len(ask("GET", "/v1/jobs").json()["jobs"]) == 2
    ask("POST", f"{where[0]}/cancel")
    assert ask("POST", "/v1/jobs", **body).status_code == 202
    for name in ("../jobs.db", "%2e%2e/%2e%2e/secret", "000000_mask.png", "a.png"):
        assert ask("GET", f"{where[0]}/results/{name}").status_code == 404


def test_a_repeated_request_gets_the_job_that_it_created(ask, config, make, pairs):
    keyed = {**LINES, "idempotency-key": '"8e03978e"'}
    first = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=keyed)
    assert "idempotent-replayed" not in first.headers
    assert ask("POST", "/v1/jobs", content=lines_of(make, pairs[:1]), headers=LINES).is_success
    form = [
        part
        for image, hole in pairs
        for part in (("image", make.file(image)), ("mask", make.file(hole)))
    ]
    form += [("id", (None, f"photo/{number}")) for number in range(2)]
    both = [
        ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=keyed),
        ask("POST", "/v1/jobs", files=form, headers={"idempotency-key": '"8e03978e"'}),
    ]  # Though the caller has as many jobs as are allowed.
    for again in both:
        assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        assert again.headers["location"] == first.headers["location"]
        assert again.json() == first.json()
    assert len(ask("GET", "/v1/jobs").json()["jobs"]) == 2
    assert len([path for path in config_folder(config).iterdir() if path.is_dir()]) == 2
    runner(config).run_next()
    done = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=keyed)
    assert (done.json()["id"], done.json()["status"]) == (first.json()["id"], "done")
    others = ask("POST", "/v1/jobs", BOB[0], content=lines_of(make, pairs), headers=keyed)
    assert others.json()["id"] != first.json()["id"]


def test_a_repeat_that_comes_while_its_job_is_added_is_no_further_job(
    ask, make, pairs, monkeypatch
):
    """The caller may have two jobs: the request's own, and another, are added in the meantime."""
    keyed = {**LINES, "idempotency-key": "a"}
    usual = JobStore.unfinished

    def meanwhile(store: JobStore, caller: str) -> int:
        monkeypatch.setattr(JobStore, "unfinished", usual)
        for headers in (keyed, LINES):
            ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=headers)
        return usual(store, caller)

    monkeypatch.setattr(JobStore, "unfinished", meanwhile)
    again = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=keyed)
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (202, "true")
    refused = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=LINES)
    assert refused.status_code == 429


def test_a_key_of_another_request_is_refused(ask, config, make, pairs, tmp_path):
    (tmp_path / "photos").mkdir()
    keyed = {**LINES, "idempotency-key": "a"}
    body = {"folder": str(tmp_path / "photos"), "mode": "auto"}
    assert ask("POST", "/v1/jobs", json=body, headers={"idempotency-key": "b"}).status_code == 202
    assert ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=keyed).status_code == 202
    reordered = dict(reversed(body.items()))
    again = ask("POST", "/v1/jobs", json=reordered, headers={"idempotency-key": "b"})
    assert again.headers["idempotent-replayed"] == "true"
    for refused in (
        ask("POST", "/v1/jobs", json=body | {"mode": "resize"}, headers={"idempotency-key": "b"}),
        ask("POST", "/v1/jobs?mode=resize", content=lines_of(make, pairs), headers=keyed),
        ask("POST", "/v1/jobs", content=lines_of(make, pairs[::-1]), headers=keyed),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "key_reused")
        assert "Idempotency-Key" in refused.json()["error"]["message"]
    assert len([path for path in config_folder(config).iterdir() if path.is_dir()]) == 1
    for wrong in ("", "x" * 256, "caf\xe9"):
        headers = {**keyed, "idempotency-key": wrong.encode("latin-1")}
        refused = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=headers)
        assert refused.status_code == 400
        assert "1 to 255 printable ASCII characters" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("", lambda two: two + two.replace(b"photo/", b"other/"), 413, "at most 3 pairs"),
        ("", lambda two: b"", 400, "no pairs"),
        ("", lambda two: two + b'{"id": 7, "image": "eA==", "mask": "eA=="}', 415, "pair 7"),
        ("?samples=2", lambda two: two, 400, "field 'samples': jobs take model"),
        ("?mode=guess", lambda two: two, 400, "field 'mode'"),
        ("?model=other", lambda two: two, 404, "no model 'other'"),
        ("?webhook=ftp://a/b", lambda two: two, 400, "not an http or https URL"),
    ],
)
def test_wrong_jobs_are_refused_and_leave_nothing(
    ask, config, make, pairs, path, body, status, text
):
    content = body(lines_of(make, pairs))
    refused = ask("POST", f"/v1/jobs{path}", content=content, headers=LINES)
    assert refused.status_code == status
    assert text in refused.json()["error"]["message"]
    assert ask("GET", "/v1/jobs").json() == {"jobs": []}
    assert not [path for path in config_folder(config).iterdir() if path.is_dir()]


def config_folder(config):
    from pathlib import Path

    return Path(config.jobs.folder)


def test_key_without_the_model_creates_no_job(ask, config, backend, make, pairs):
    secret, key = new_key("carl", 6000, ("lama",))
    limited = replace(config, keys=(key,))

    async def main():
        transport = httpx.ASGITransport(create_app(backend, limited))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {**LINES, "Authorization": f"Bearer {secret}"}
            body = lines_of(make, pairs)
            return await client.post("/v1/jobs", content=body, headers=headers)

    refused = asyncio.run(main())
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert not [path for path in config_folder(config).iterdir() if path.is_dir()]


def test_service_without_a_folder_takes_no_jobs(backend):
    async def main():
        transport = httpx.ASGITransport(create_app(backend, HttpConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/jobs", json={"folder": "a"})

    refused = asyncio.run(main())
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_route")
    assert "--jobs.folder" in refused.text


@contextmanager
def receiver(*statuses: int):
    """Receive webhooks, and answer each by the next status."""
    got, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((dict(self.headers), body))
            self.send_response(left.pop(0))
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/hook", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_webhook_is_signed_and_repeated_until_it_is_accepted(ask, config, make, pairs, monkeypatch):
    clock = [0.0]
    with receiver(500, 302, 200) as (url, got):
        body = lines_of(make, pairs)
        made = ask("POST", f"/v1/jobs?webhook={url}", content=body, headers=LINES)
        assert made.status_code == 202, made.text
        running = runner(config)
        running._store.close()
        running._store = JobStore(config.jobs, lambda: clock[0])
        running.run_next()
        while clock[0] < 100:  # the attempts of a minute and a half
            running.send_webhooks()
            clock[0] += 1
    assert len(got) == 3
    for headers, sent in got:
        stamp = headers["X-Infill-Timestamp"]
        expected = hmac.new(SECRET, f"{stamp}.".encode() + sent, hashlib.sha256).hexdigest()
        assert (
            headers["X-Infill-Signature"] == f"sha256={expected}" == signature(SECRET, stamp, sent)
        )
        assert json.loads(sent)["status"] == "done"
        assert json.loads(sent)["id"] == made.json()["id"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a",
        "http://localhost:8000/a",
        "http://[::1]/a",
        "http://[::ffff:10.0.0.1]/a",
        "http://[64:ff9b::a00:1]/a",
        "http://[fd00::1]/a",
        "http://169.254.169.254/latest",
        "http://10.1.2.3/a",
        "http://0.0.0.0/a",
        "http://2130706433/a",
        "http://user:word@8.8.8.8/a",
        "file:///etc/passwd",
        "http://8.8.8.8:notaport/",
        "http:///a",
    ],
)
def test_webhooks_to_private_addresses_are_refused(url):
    with pytest.raises(UserError):
        check_webhook(url, private=False)


def test_public_address_is_accepted():
    assert check_webhook("https://8.8.8.8/hook", private=False) == ["8.8.8.8"]


def test_ended_jobs_are_forgotten_after_their_days(ask, config, make, pairs):
    where = ask("POST", "/v1/jobs", content=lines_of(make, pairs), headers=LINES).headers[
        "location"
    ]
    running = runner(config)
    running.run_next()
    stored = running._store
    running._store = JobStore(config.jobs, lambda: 1e12)
    stored.close()
    running.run_next()
    assert ask("GET", where).status_code == 404
    assert not [path for path in config_folder(config).iterdir() if path.is_dir()]
