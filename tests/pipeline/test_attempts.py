"""Workers that die at their work, again and again or once; one whose memory Ray takes for full."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from infill.pipeline.attempts import MOST_ATTEMPTS, NAMESPACE, NOT_COUNTED, counted_attempts
from infill.pipeline.batch_inference.ray_data import split_rows
from infill.pipeline.errors import UserError
from infill.pipeline.ray_messages import line_of
from infill.pipeline.sharding.parallel_map import parallel_map

JOBS = Path(__file__).parents[2] / "jobs"
ENDED_BY_RAY = """Task _map_task failed due to oom. There are 3 oom retries remaining, so the task
will be retried. Error: 1 worker(s) were killed due to the node running low on memory. Memory on the
node (IP: 10.0.0.2, ID: 17f7) was 22.94GB used / 23.54GB limit (0.974)
OOM kill reason: Memory usage 1349955584B exceeded threshold""".replace("the\nnode (", "the node (")


def left_in_store(job: str = "") -> set[bytes]:
    """Return the counts of a job, or of all jobs: killed ones have left theirs."""
    from ray.experimental import internal_kv

    return set(internal_kv._internal_kv_list(job.encode(), namespace=NAMESPACE))


@pytest.mark.slow
def test_a_worker_that_is_lost_at_its_work_is_replaced_a_few_times_only(ray_local, tmp_path):
    """As the kernel ends one for its memory."""

    def dies(number: int) -> dict[str, int]:
        lives = tmp_path / str(number)
        lives.mkdir(exist_ok=True)
        earlier = len(list(lives.iterdir()))
        (lives / str(earlier)).touch()
        if earlier < number:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": number}

    before = left_in_store()
    assert sorted(done["number"] for done in parallel_map(dies, 2)) == [0, 1]
    with pytest.raises(UserError, match="has lost 5 workers of this job at part 0, .* memory"):
        list(parallel_map(lambda number: dies(10**6), 1))
    assert len(list((tmp_path / str(10**6)).iterdir())) == MOST_ATTEMPTS
    assert left_in_store() == before


def test_an_attempt_that_ends_is_forgotten_and_lost_ones_are_refused(ray_local):
    from ray.experimental import internal_kv

    with counted_attempts() as attempts:
        for _ in range(MOST_ATTEMPTS + 1):
            with suppress(KeyError), attempts.at("a piece"):
                assert left_in_store(attempts.job)
                raise KeyError
            assert not left_in_store(attempts.job)
        key = f"{attempts.job}/a.png (reading)".encode()
        internal_kv._internal_kv_put(key, b"5", namespace=NAMESPACE)
        rows = {"name": ["a.png"], "output": [b"a.png"]}
        [refusal] = split_rows(rows, None, attempts)["refusal"]
        assert "has lost 5 workers of this job at a.png (reading)" in refusal
    assert not left_in_store(attempts.job)
    before = left_in_store()
    with NOT_COUNTED.at("a piece"):
        assert left_in_store() == before


def test_a_message_of_ray_is_one_line():
    assert line_of(ENDED_BY_RAY) == (
        "Ray's memory monitor has ended a worker of this job: its node 10.0.0.2 used 22.9 of "
        "23.5 GB; its work is done again, 3 times at most"
    )
    assert line_of("Task A.b failed. Error: The actor is temporarily unavailable: IOError") == ""
    assert line_of("A worker died.\nMore of it") == "Ray: A worker died."


FAILS_BESIDE_THE_WORK = """
import sys
import ray
from infill.pipeline.cluster import connect
from infill.pipeline.progress import show_everything

class Statistics:
    def fail(self):
        raise KeyError("dataset_0")

    def work(self):
        return "worked"

if sys.argv[1:]:
    show_everything()
with connect():
    statistics = ray.remote(num_cpus=0)(Statistics).remote()
    failed = statistics.fail.remote()
    print(ray.get(statistics.work.remote()))
    del failed
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--verbose"]], ids=["as it is", "verbose"])
def test_a_failed_call_that_nobody_waits_for_is_told_to_those_who_ask(words, ray_local, tmp_path):
    """Such calls count for Ray Data, at an actor that Ray may have ended for its memory."""
    import ray

    (tmp_path / "program.py").write_text(FAILS_BESIDE_THE_WORK)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )
    assert "worked" in ended.stdout
    assert ("dataset_0" in ended.stdout + ended.stderr) == bool(words)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_jobs_whose_workers_ray_ends_for_memory_end_in_one_sentence_and_resume(
    jobs_in_one_process, tmp_path
):
    """By a Ray whose memory is always too full: it ends every worker at its first look.

    Every path is relative to the job's folder, in its workers too. There are so many photographs
    that the work on a shard takes longer than the time until the next look.
    """
    photographs, few, chance = tmp_path / "photographs", tmp_path / "few", np.random.default_rng(0)
    photographs.mkdir()
    few.mkdir()
    for number in range(600):
        picture = chance.integers(0, 255, (72, 72, 3), np.uint8)
        cv2.imwrite(str((photographs if number > 8 else few) / f"{number}.png"), picture)
    (tmp_path / "masks").mkdir()
    hole = np.zeros((64, 64), np.uint8)
    hole[16:32, 16:48] = 255
    cv2.imwrite(str(tmp_path / "masks" / "hole.png"), hole)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    full = {
        "RAY_memory_usage_threshold": "0",
        "RAY_memory_monitor_refresh_ms": "20",
        "RAY_task_oom_retries": "1",
        "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "15",
    }

    def run(words: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**environment, **full},
            check=False,
        )

    sharding = [f"{JOBS}/make_shards.py", "folder", "--source", str(photographs), "--out", "set"]
    sharding += ["--val-share", "0.02", "--test-share", "0.02"]
    training = [f"{JOBS}/train_spn.py", "smoke", "--data.shards", "set", "--storage", "run"]
    training += ["--tracking.tracking-uri", "", "--num-workers", "1", "--max-failures", "1"]
    training += ["--data.masks.recipe", "files", "--data.masks.folder", "masks"]
    inference = [f"{JOBS}/batch_inpaint.py", "--generate-masks"]
    of_folder, of_set = [*inference, "few", "filled"], [*inference, "set/val", "filled-set"]
    evaluation = [f"{JOBS}/evaluate.py", "--checkpoint", "run", "--shards", "set/test"]
    evaluation += ["--num-images", "8"]
    (tmp_path / "space.json").write_text('{"model.image_weight": {"low": 1, "high": 10}}')
    search = [f"{JOBS}/tune.py", "spn", "--space", "space.json", "--scale", "smoke"]
    search += ["--train.steps", "2", "--train.save-every-steps", "2", "--train.data.shards", "set"]
    search += ["--train.data.masks.recipe", "files", "--train.data.masks.folder", "masks"]
    search += ["--num-trials", "2", "--concurrent-trials", "1"]
    searches = [[*search, "--algorithm", name, "--storage", name] for name in ("random", "pbt")]
    jobs = (sharding, of_folder, of_set, training, [*evaluation, "--num-actors", "1"], *searches)
    run_again = jobs_in_one_process(environment)
    for words in jobs:
        ended = run(words)
        assert ended.returncode == 1, ended.stdout
        last = ended.stderr.splitlines()[-1]
        assert last.startswith("error: "), ended.stderr
        assert "memory" in last, last
        assert "same command" in last, last
        said = ended.stdout + ended.stderr
        assert "Traceback" not in said
        assert max(map(len, said.splitlines())) < 500, said
        assert len(said.splitlines()) < 40, said
        status, printed = run_again(words)
        assert status == 0, printed
