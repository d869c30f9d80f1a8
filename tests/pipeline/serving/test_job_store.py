"""The database of jobs, in SQLite and in PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from infill.pipeline import database_addresses
from infill.pipeline.errors import UserError
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.jobs.idempotency import IdempotentRequest
from infill.pipeline.serving.jobs.store import JobStore, new_id

MODEL = {"name": "spn", "version": "1"}
PROCESSES = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request, tmp_path) -> JobsConfig:
    """Return settings with a database that does not exist yet, as a deployment passes them on."""
    place = "" if request.param == "sqlite" else request.getfixturevalue("postgres")()
    config = JobsConfig(folder=str(tmp_path / "jobs"), database=place, lease_s=10, keep_days=1)
    return config.everywhere("sqlite:///registry.db")


def at_once(act, stores):
    """Call ``act`` with every store at the same moment; return the results."""
    together = threading.Barrier(len(stores))

    def one(store):
        together.wait()
        return act(store)

    with ThreadPoolExecutor(len(stores)) as pool:
        return list(pool.map(one, stores))


def test_a_job_lives_from_its_request_to_its_end(config):
    now = [100.0]
    store = JobStore(config, lambda: now[0])
    added = store.add(new_id(), "anna", MODEL, {"pairs": 3, "mode": "auto"}, "https://a/b")
    assert (added.status, added.total, added.settings["mode"]) == ("queued", 3, "auto")
    assert store.claim("one") == added
    assert store.claim("two") is None
    now[0] = 111.0  # Without a sign of life for longer than the lease, another runner takes it.
    assert store.claim("two").id == added.id
    assert not store.advance(added, "one", 3, 1, 0)
    assert store.advance(added, "two", 3, 2, 1)
    assert store.unfinished("anna") == 1
    assert store.finish(added, "two", "done")
    done = store.get(added.id)
    assert (done.status, done.done, done.failed, done.finished) == ("done", 2, 1, 111.0)
    assert [job.id for job in store.due_webhooks()] == [added.id]
    store.webhook_sent(done, delivered=True)
    assert store.due_webhooks() == []
    later = store.add(new_id(), "anna", MODEL, {"folder": "s3://a"}, "")
    store.cancel(later.id)
    assert [job.status for job in store.of_caller("anna")] == ["cancelled", "done"]
    assert [job.id for job in store.newest(1)] == [later.id]
    now[0] += 86400 + 1
    assert {job.id for job in store.expired()} == {added.id, later.id}
    store.delete(added.id)
    assert store.get(added.id) is None
    store.close()


def test_processes_that_start_at_once_create_the_tables_once(config):
    stores = at_once(lambda _: JobStore(config), range(PROCESSES))
    assert [store.newest() for store in stores] == [[]] * PROCESSES


def test_one_of_many_runners_gets_a_job(config):
    stores = [JobStore(config) for _ in range(PROCESSES)]
    job = stores[0].add(new_id(), "anna", MODEL, {}, "")
    got = at_once(lambda store: store.claim(new_id()), stores)
    assert [one.id for one in got if one is not None] == [job.id]


def test_one_key_creates_one_job_whoever_receives_the_request(config):
    stores = [JobStore(config) for _ in range(PROCESSES)]
    request = IdempotentRequest("key 1", "a" * 64)

    def add(store, caller="anna", request=request):
        return store.add(new_id(), caller, MODEL, {}, "", request)

    first, *others = at_once(add, stores)
    assert {job.id for job in others} == {first.id}
    assert [job.id for job in stores[0].of_caller("anna")] == [first.id]
    assert stores[1].created_by("anna", request) == first
    with pytest.raises(RequestError, match=f"created job {first.id} of another") as refused:
        add(stores[2], request=IdempotentRequest("key 1", "b" * 64))
    assert (refused.value.status_code, refused.value.code) == (422, "key_reused")
    assert add(stores[3], caller="bob").id != first.id  # A key is its caller's own.
    assert add(stores[3], request=IdempotentRequest("key 2", "a" * 64)).id != first.id
    stores[0].delete(first.id)
    assert stores[1].created_by("anna", request) is None
    assert add(stores[2]).id != first.id  # It lives as long as its job.


def test_requests_at_once_give_a_caller_no_more_jobs_than_allowed(config):
    config = replace(config, max_jobs=3)
    stores = [JobStore(config) for _ in range(4 * PROCESSES)]

    def add(store, caller="anna"):
        try:
            return store.add(new_id(), caller, MODEL, {}, "")
        except RequestError as error:
            return error.code

    added = at_once(add, stores)
    assert added.count("too_many_jobs") == len(stores) - 3
    assert stores[0].unfinished("anna") == 3
    assert add(stores[0], "bob").status == "queued"  # The jobs of others do not count.
    stores[1].cancel(stores[0].of_caller("anna")[0].id)
    assert at_once(add, stores).count("too_many_jobs") == len(stores) - 1
    assert stores[0].unfinished("anna") == 3


def test_other_databases_and_a_missing_driver_are_refused(monkeypatch):
    with pytest.raises(UserError, match="jobs.database mysql://a/b: give sqlite:///PATH, postgres"):
        JobsConfig(folder="jobs", database="mysql://a/b")
    monkeypatch.setattr(database_addresses, "_has_psycopg2", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'infill\[postgres\]'"):
        JobsConfig(folder="jobs", database="postgresql://a@b/c").everywhere("")
