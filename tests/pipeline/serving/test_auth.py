import json

import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.auth import ApiKeyAuth, add_key, new_key, read_keys


def bearer(secret: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {secret}".encode()}


def test_known_keys_come_in_by_either_header_and_others_do_not():
    secret, key = new_key("alice", 60)
    other, other_key = new_key("bob", 60)
    door = ApiKeyAuth([key, other_key])
    assert door.admit(bearer(secret)) == "alice"
    assert door.admit({b"x-api-key": other.encode()}) == "bob"
    for headers in ({}, bearer(secret + "x"), bearer(""), {b"authorization": b"Basic " + b"x"}):
        with pytest.raises(RequestError) as caught:
            door.admit(headers)
        assert (caught.value.status_code, caught.value.code) == (401, "unauthorized")


def test_without_keys_everyone_comes_in():
    assert ApiKeyAuth([]).admit({}) == ""


def test_rate_is_refilled_evenly_and_counted_for_each_key():
    now = [0.0]
    (first, key), (second, other) = new_key("alice", 6), new_key("bob", 6)
    door = ApiKeyAuth([key, other], clock=lambda: now[0])
    for _ in range(6):
        door.admit(bearer(first))
    with pytest.raises(RequestError) as caught:
        door.admit(bearer(first))
    assert (caught.value.status_code, caught.value.retry_after_s) == (429, 10)
    assert door.admit(bearer(second)) == "bob"
    now[0] = 9.9
    with pytest.raises(RequestError):
        door.admit(bearer(first))
    now[0] = 10.1
    assert door.admit(bearer(first)) == "alice"


def test_file_keeps_hashes_only_and_names_once(tmp_path):
    place = str(tmp_path / "keys.jsonl")
    secrets = []
    for name in ("alice", "bob"):
        secret, key = new_key(name, 10)
        add_key(place, key)
        secrets.append(secret)
    text = (tmp_path / "keys.jsonl").read_text()
    assert not any(secret in text or secret[7:] in text for secret in secrets)
    assert ApiKeyAuth(read_keys(place)).admit(bearer(secrets[1])) == "bob"
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
