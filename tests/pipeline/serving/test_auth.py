import asyncio
import json
import threading

import httpx
import pytest

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.auth import ApiKeyAuth, add_key, new_key, read_keys, revoke_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.jobs.store import JobStore


def bearer(secret: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {secret}".encode()}


def test_known_keys_come_in_by_either_header_and_others_do_not():
    secret, key = new_key("alice", 60)
    other, other_key = new_key("bob", 60)
    door = ApiKeyAuth([key, other_key])
    assert asyncio.run(door.admit(bearer(secret))) == "alice"
    assert asyncio.run(door.admit({b"x-api-key": other.encode()})) == "bob"
    for headers in ({}, bearer(secret + "x"), bearer(""), {b"authorization": b"Basic " + b"x"}):
        with pytest.raises(RequestError) as caught:
            asyncio.run(door.admit(headers))
        assert (caught.value.status_code, caught.value.code) == (401, "unauthorized")


def test_without_keys_everyone_comes_in():
    assert asyncio.run(ApiKeyAuth([]).admit({})) == ""


def test_rate_is_refilled_evenly_and_counted_for_each_key():
    now = [0.0]
    (first, key), (second, other) = new_key("alice", 6), new_key("bob", 6)
    door = ApiKeyAuth([key, other], clock=lambda: now[0])
    for _ in range(6):
        asyncio.run(door.admit(bearer(first)))
    with pytest.raises(RequestError) as caught:
        asyncio.run(door.admit(bearer(first)))
    assert (caught.value.status_code, caught.value.retry_after_s) == (429, 10)
    assert asyncio.run(door.admit(bearer(second))) == "bob"
    now[0] = 9.9
    with pytest.raises(RequestError):
        asyncio.run(door.admit(bearer(first)))
    now[0] = 10.1
    assert asyncio.run(door.admit(bearer(first))) == "alice"


def test_file_keeps_hashes_only_and_names_once(tmp_path):
    place = str(tmp_path / "keys.jsonl")
    secrets = []
    for name in ("alice", "bob"):
        secret, key = new_key(name, 10)
        add_key(place, key)
        secrets.append(secret)
    text = (tmp_path / "keys.jsonl").read_text()
    assert not any(secret in text or secret[7:] in text for secret in secrets)
    assert asyncio.run(ApiKeyAuth(read_keys(place)).admit(bearer(secrets[1]))) == "bob"
    with pytest.raises(UserError, match="has a key for 'bob' already"):
        add_key(place, new_key("bob", 10)[1])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no key"),
        ("nonsense", "is not a key file"),
        (json.dumps({"name": "x", "sha256": "short"}), "64 hexadecimal digits"),
        (json.dumps({"name": "x"}), "is not a key file"),
    ],
)
def test_files_that_are_no_key_files_are_named(tmp_path, text, sentence):
    place = tmp_path / "keys.jsonl"
    place.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_keys(str(place))
    with pytest.raises(UserError, match="there is no key file"):
        read_keys(str(tmp_path / "other"))


@pytest.mark.parametrize("kind", ["path", "s3"])
def test_keys_are_added_and_revoked_while_the_service_runs(tmp_path, request, kind):
    folder = str(tmp_path) if kind == "path" else request.getfixturevalue("bucket")
    place, now, secrets = f"{folder}/keys.jsonl", [100.0], {}
    secrets["alice"], key = new_key("alice", 60)
    add_key(place, key)
    auth = ApiKeyAuth(read_keys(place), place, clock=lambda: now[0])
    secrets["bob"], key = new_key("bob", 60)
    add_key(place, key)

    def admitted(name: str) -> bool:
        async def ask() -> str:
            now[0] += 9
            await auth.refresh()
            return await auth.admit({b"x-api-key": secrets[name].encode()})

        try:
            return asyncio.run(ask()) == name
        except RequestError as refused:
            return refused.code != "unauthorized"

    assert admitted("bob")
    revoke_key(place, "bob")
    assert not admitted("bob")
    storage.write(place, b"half a li")
    assert admitted("alice")
    storage.write(place, b"")
    assert not admitted("alice")


def test_keys_that_are_fresh_enough_are_read_beside_the_requests(tmp_path):
    place, now = str(tmp_path / "keys.jsonl"), [0.0]
    secret, key = new_key("alice", 60)
    add_key(place, key)
    auth = ApiKeyAuth((key,), place, clock=lambda: now[0])
    reads, released = [], threading.Event()

    def slow_read() -> None:
        reads.append(now[0])
        released.wait()

    auth.read_again = slow_read

    async def main() -> None:
        now[0] = 1.0
        await auth.refresh()
        assert not reads
        now[0] = 3.0
        await asyncio.gather(*(auth.refresh() for _ in range(50)))  # None waits for the read.
        assert not released.is_set()
        released.set()
        now[0] = 9.0
        await asyncio.gather(*(auth.refresh() for _ in range(50)))
        assert reads[0] == 3.0
        assert len(reads) <= 2

    asyncio.run(main())


def test_admin_sees_keys_and_jobs_of_all_and_others_do_not(replica, spn, tmp_path):
    (operator, admin), (secret, key) = new_key("root", 60, admin=True), new_key("alice", 60)
    jobs = JobsConfig(folder=str(tmp_path / "jobs"))
    store = JobStore(jobs)
    job = store.add("a" * 32, "alice", {"name": "spn", "version": "1"}, {"pairs": 1}, "")
    paths = ("/v1/admin/keys", "/v1/admin/jobs", f"/v1/jobs/{job.id}", "/v1/jobs")

    async def ask(keys, secret: str) -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(replica, HttpConfig(keys=keys, jobs=jobs)))
        headers = {"authorization": f"Bearer {secret}"}
        client = httpx.AsyncClient(transport=transport, base_url="http://t", headers=headers)
        async with client:
            return [await client.get(path) for path in paths]

    keys, everyone_s, one, own = asyncio.run(ask((admin, key), operator))
    assert [each["name"] for each in keys.json()["keys"]] == ["root", "alice"]
    assert [each["left"] for each in keys.json()["keys"]] == [59, 60]
    assert "sha256" not in keys.text
    assert [each["caller"] for each in everyone_s.json()["jobs"]] == ["alice"]
    assert (one.status_code, own.json()) == (200, {"jobs": []})
    answers = asyncio.run(ask((admin, key), secret))
    assert [answer.status_code for answer in answers] == [403, 403, 200, 200]
    open_service = asyncio.run(ask((), ""))
    assert [answer.status_code for answer in open_service[:3]] == [403, 403, 404]
