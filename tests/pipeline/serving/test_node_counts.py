"""What several processes count together: each number here is the count of one of them."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from infill.pipeline.serving import node_counts
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.auth import ApiKeyAuth, new_key
from infill.pipeline.serving.node_counts import CountsThread, NodeCounts, ProcessNumber


@pytest.fixture
def number(tmp_path):
    """Return a function that takes a number as another process would."""
    taken = []

    def take() -> ProcessNumber:
        taken.append(ProcessNumber(tmp_path / "counts"))
        return taken[-1]

    yield take
    for one in taken:
        one.release()


def test_limit_of_requests_means_all_processes_together(number):
    first, second = NodeCounts(number()), NodeCounts(number())
    assert first.enter(2)
    assert second.enter(2)
    assert not first.enter(2)
    assert not second.enter(2)
    second.leave()
    assert (first.requests(), second.requests()) == (1, 1)
    assert first.enter(2)


def test_requests_of_a_process_that_ended_are_forgotten_and_its_number_is_taken_again(number):
    own, other = number(), number()
    first, second = NodeCounts(own), NodeCounts(other)
    assert second.enter(9)
    assert first.requests() == 1
    assert not list(own.dead())
    other.release()
    assert first.requests() == 0
    assert list(own.dead()) == [1]
    assert number().number == 1
    assert not list(own.dead())


def test_number_of_a_killed_process_is_free(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from infill.pipeline.serving.node_counts import NodeCounts, ProcessNumber\n"
        "counts = NodeCounts(ProcessNumber(Path(sys.argv[1])))\n"
        "print(counts.enter(9), counts.process.number, flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"True 0\n"
        own = ProcessNumber(tmp_path)
        counts = NodeCounts(own)
        assert (own.number, counts.requests()) == (1, 1)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert counts.requests() == 0
    own.release()


def test_key_makes_its_pictures_once_whichever_process_is_asked(number):
    now = [0.0]
    secret, key = new_key("alice", 6)
    both = [CountsThread(NodeCounts(number())) for _ in range(2)]
    auths = [ApiKeyAuth([key], clock=lambda: now[0], counts=counts) for counts in both]
    header = {b"x-api-key": secret.encode()}

    async def main():
        for turn in range(6):
            await auths[turn % 2].admit(header)
        for auth in auths:
            assert (await auth.usage())[0]["left"] == 0
            with pytest.raises(RequestError, match="more than 6 images"):
                await auth.admit(header)
        now[0] = 10.0
        assert (await auths[1].usage())[0]["left"] == 1
        await auths[0].admit(header)
        with pytest.raises(RequestError):
            await auths[1].admit(header)

    asyncio.run(main())


def test_transaction_of_another_process_does_not_hold_the_event_loop(number, monkeypatch):
    monkeypatch.setattr(node_counts, "_LOCKED_S", 300)
    counts, other = CountsThread(NodeCounts(number())), NodeCounts(number())
    other._db.execute("begin immediate")

    async def main():
        entering, turned = asyncio.create_task(counts.enter(1)), asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, turned.set)
        await turned.wait()
        assert not entering.done()
        other._db.execute("rollback")
        assert await entering
        assert not await counts.enter(1)
        counts.leave()
        assert await counts.requests() == 0

    asyncio.run(main())


def test_process_whose_file_cannot_be_used_counts_on_its_own(number, caplog):
    process = number()
    counts = NodeCounts(process)
    assert counts.enter(2)
    counts._db.execute("drop table inside")
    assert counts.enter(2)
    assert "counts on its own" in caplog.text
    assert not counts.enter(2)
    counts.leave()
    assert counts.requests() == 1


METRICS = """
import sys
from pathlib import Path
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.node_counts import NodeCounts, ProcessNumber
process = ProcessNumber(Path(sys.argv[1]))
metrics, counts = RequestMetrics(process), NodeCounts(process)
metrics.inside.inc()
metrics.count("/healthz", 200, "", 0.1)
sys.stdout.write(metrics.text().decode().replace("\\n", "|") + "\\n"); sys.stdout.flush()
for _ in sys.stdin:
    sys.stdout.write(metrics.text().decode().replace("\\n", "|") + "\\n"); sys.stdout.flush()
"""


def test_metrics_are_summed_and_a_killed_process_stays_in_counters_only(tmp_path):
    def begin() -> subprocess.Popen:
        words = [sys.executable, "-c", METRICS, str(tmp_path)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def lines(process: subprocess.Popen) -> list[str]:
        return process.stdout.readline().split("|")

    counter = 'infill_requests_total{{route="/healthz",status="200"}} {}'
    with begin() as first:
        assert counter.format("1.0") in lines(first)
        with begin() as second:
            found = lines(second)
            assert counter.format("2.0") in found
            assert 'infill_request_seconds_count{route="/healthz"} 2.0' in found
            assert "infill_requests_inside 2.0" in found
            second.kill()
        first.stdin.write("\n")
        first.stdin.flush()
        found = lines(first)
        assert counter.format("2.0") in found
        assert "infill_requests_inside 1.0" in found
        with begin() as third:
            found = lines(third)
            third.kill()
        assert counter.format("3.0") in found
        assert "infill_requests_inside 2.0" in found
        first.kill()
