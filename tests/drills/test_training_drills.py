"""A training on two nodes, and what may happen to it on the way.

Whatever happens, the weights that come out are those of a run that nothing happened to, to the bit.
"""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = 60

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


def workers_of(room, node):
    """Return the training workers that run on a node."""
    found = []
    for pid in room.cluster.processes(node):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in words:
            found.append(pid)
    return found


def home_files(room, node, name):
    return sorted(room.cluster.home(node).rglob(name))


def test_killed_worker(room, calm, whole, passed):
    """One of two training processes dies, as by the kernel when memory is short."""
    job = room.train("worker-killed")
    job.wait_for("step 20/")
    broken = time.monotonic()
    os.kill(workers_of(room, "cpu")[0], signal.SIGKILL)
    job.wait_for("samples_per_s", after="going on from step")
    passed("worker killed", time.monotonic() - broken, "nobody acts")
    job.succeeds()
    assert room.weights("worker-killed") == calm


def test_killed_node(room, calm, whole, passed):
    """A machine loses power; the run says that it waits, and goes on once there is another."""
    job = room.train("node-killed")
    job.wait_for("step 20/")
    room.cluster.kill("gpu-like")
    job.wait_for("waiting for room")
    returned = time.monotonic()
    room.cluster.start_node("gpu-like")
    job.wait_for("samples_per_s", after="waiting for room")
    passed("node killed", time.monotonic() - returned, "a node is added (an autoscaler does)")
    job.succeeds()
    assert room.weights("node-killed") == calm


@pytest.mark.parametrize("mode", ["slow", "failing", "gone"])
def test_object_store_out_of_order_for_a_while(room, calm, whole, passed, mode):
    """The object store takes half a second for each answer, answers 503, or hangs up."""
    job = room.train(f"store-{mode}")
    job.wait_for("step 20/")
    with room.weather.of(mode):
        while not room.weather.met:  # At the next checkpoint, at the latest.
            assert job.status == "RUNNING", job.said[-3000:]
            time.sleep(0.1)
        time.sleep(8)
        held_up = time.monotonic()
        before = job.said
    job.wait_for("step", after=before)
    passed(f"object store {mode}", time.monotonic() - held_up, "nobody acts")
    job.succeeds()
    assert room.weights(f"store-{mode}") == calm


def test_object_store_that_stays_away(room, calm, whole, passed):
    """The object store does not answer at all when a run starts: the job ends with a sentence."""
    with room.weather.of("gone"):
        job = room.train("store-away")
        assert job.ends() == "FAILED"
    assert "error: " in job.said
    assert "the object store does not do what is asked" in job.said.partition("error: ")[2]
    assert "in bucket 'infill': AWS Error" in job.said
    assert "Traceback" not in job.said
    begin = time.monotonic()
    job = room.train("store-away")
    job.wait_for("step 5/")
    passed("object store away", time.monotonic() - begin, "the command is given again")
    job.succeeds()
    assert room.weights("store-away") == calm


def test_damaged_checkpoint(room, calm, whole, passed):
    """A run is interrupted, and its newest checkpoint is damaged when it is to go on."""
    job = room.train("checkpoint-damaged")
    job.wait_for("step 25/")
    room.cluster.ask(f"/api/jobs/{job.name}/stop", {})
    job.ends()
    newest = room.names("runs/checkpoint-damaged/checkpoints/")[-1].split("/")[3]
    key = f"runs/checkpoint-damaged/checkpoints/{newest}/generator.safetensors"
    data = bytearray(room.read(key))
    data[len(data) // 2] ^= 255
    room.write(key, bytes(data))
    begin = time.monotonic()
    job = room.train("checkpoint-damaged")
    job.wait_for("step", after="taking the one before")
    job.wait_for("samples_per_s")
    passed("checkpoint damaged", time.monotonic() - begin, "the command is given again")
    assert f"{newest}: generator.safetensors is damaged" in job.said
    job.succeeds()
    assert room.weights("checkpoint-damaged") == calm


def test_damaged_shard(room, calm, whole, passed):
    """A bit of a shard flips in the object store: nothing is learnt from it."""
    key = room.names("shards/train/")[-1]
    assert key.endswith(".tar")
    sound = room.read(key)
    room.write(key, sound[: len(sound) // 2] + b"?" + sound[len(sound) // 2 + 1 :])
    for node in ("cpu", "gpu-like"):  # What they have kept is sound.
        shutil.rmtree(room.cluster.home(node) / ".cache" / "infill" / "shards", ignore_errors=True)
    job = room.train("shard-damaged")
    assert job.ends() == "FAILED"
    said = job.said.partition("error: ")[2]
    assert f"shard s3://infill/{key} has SHA-256" in said
    assert "mend the set with `python jobs/verify_shards.py --repair`" in said
    begin = time.monotonic()
    verify = f"python {ROOT}/jobs/verify_shards.py --shards s3://infill/shards --repair"
    room.submit(verify).succeeds()
    assert room.read(key) == sound
    job = room.train("shard-damaged")
    job.wait_for("step 5/")
    passed("shard damaged", time.monotonic() - begin, "the set is mended, the command given again")
    job.succeeds()
    assert room.weights("shard-damaged") == calm


def test_mlflow_away(room, calm, whole, passed):
    """MLflow's server dies under a run and comes back before it ends; no number is missing."""
    tracked = "--tracking.tracking-uri $MLFLOW_TRACKING_URI"
    job = room.train("mlflow-away", tracked)
    job.wait_for("step 20/")
    room.cluster.kill("mlflow")
    job.wait_for("step 35/")
    returned = time.monotonic()
    room.cluster.start_mlflow()
    job.succeeds()
    assert room.weights("mlflow-away") == calm
    steps = numbers_in_mlflow(room, "mlflow-away", "samples_per_s")
    passed("MLflow away", time.monotonic() - returned, "its server is started again")
    assert steps == list(range(5, STEPS + 1, 5))


def test_mlflow_away_from_the_start(room, whole, passed):
    """A run that could not be written down says so before it starts, and how to do without."""
    room.cluster.kill("mlflow")
    try:
        job = room.train("mlflow-missing", "--tracking.tracking-uri $MLFLOW_TRACKING_URI")
        assert job.ends() == "FAILED"
        said = job.said.partition("error: ")[2]
        assert "cannot be written to" in said
        assert 'correct tracking.tracking_uri, or set it to ""' in said
        begin = time.monotonic()
        job = room.train("mlflow-missing", steps=10)
        job.wait_for("step 5/")
        passed("no MLflow", time.monotonic() - begin, 'the command is given with ""')
        job.succeeds()
    finally:
        room.cluster.start_mlflow()


def numbers_in_mlflow(room, run, metric):
    """Return the steps that MLflow has a metric of, for the run whose folder is given."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=room.cluster.environment["MLFLOW_TRACKING_URI"])
    entry = json.loads(room.read(f"runs/{run}/mlflow.json"))
    history = client.get_metric_history(entry["run_id"], metric)
    return sorted({point.step for point in history})


def test_full_object_store_of_ray(room, calm, whole, passed):
    """Another job holds more than both nodes' stores can: blocks go to disk, and results stay."""
    evaluate = (
        f"python {ROOT}/jobs/evaluate.py --checkpoint {room.place('calm')} "
        "--shards s3://infill/shards/test --out s3://infill/evaluation-{name}"
    )
    room.submit(evaluate.format(name="calm")).succeeds()
    hog = room.submit(f"python {Path(__file__).with_name('one_hog.py')}")
    hog.wait_for("full")
    try:
        assert all(home_files(room, node, "ray_spilled_objects*/*") for node in ("cpu", "gpu-like"))
        begin = time.monotonic()
        room.submit(evaluate.format(name="full")).succeeds()
        passed("Ray's store full", time.monotonic() - begin, "nobody acts; slower by the disk")
    finally:
        room.cluster.ask(f"/api/jobs/{hog.name}/stop", {})
        hog.ends()
    scores = [json.loads(room.read(f"evaluation-{n}/scores.json")) for n in ("calm", "full")]
    assert scores[0]["scores"] == scores[1]["scores"]


@pytest.mark.parametrize("days", [2, -2])
def test_clocks_that_disagree(room, calm, whole, passed, days):
    """One node's clock is two days ahead or behind: nothing that is kept depends on it."""
    usual = room.cluster.settings["gpu-like"]
    skewed = {"PYTHONPATH": str(Path(__file__).with_name("skewed")), "CLOCK_DAYS": str(days)}
    room.cluster.settings["gpu-like"] = {**usual, **skewed}
    try:
        room.cluster.kill("gpu-like")
        room.cluster.start_node("gpu-like")
        room.cluster.wait_for_nodes(3)
        begin = time.monotonic()
        job = room.train(f"clock{days:+d}")
        job.wait_for("step 5/")
        passed(f"clock {days:+d} d", time.monotonic() - begin, "nobody acts; that is a usual start")
        [worker] = workers_of(room, "gpu-like")
        [there] = home_files(room, "gpu-like", f"clock-{worker}")
        assert abs(float(there.read_text()) - time.time() - days * 86400) < 3600
        job.succeeds()
        assert "-" not in re.findall(r"trained in (\S+):", job.said)[0]
        assert room.weights(f"clock{days:+d}") == calm
    finally:
        room.cluster.settings["gpu-like"] = usual
        room.cluster.kill("gpu-like")
        room.cluster.start_node("gpu-like")


def test_no_secret_is_written_down(room, whole):
    """After all of the above: no log, file, object or row of MLflow has a key in it."""
    room.train("secrets", "--tracking.tracking-uri $MLFLOW_TRACKING_URI", steps=10).succeeds()
    cluster = room.cluster
    secrets = [(cluster.folder / name).read_bytes() for name in ("token", "store-key")]
    theirs = {"token", "store-key", "environment"}
    written = [
        place
        for folder in (cluster.folder, cluster.home("head").parent)
        for place in folder.rglob("*")
        if place.is_file() and place.name not in theirs
    ]
    assert any(place.name.startswith("job-driver-") for place in written)
    assert cluster.folder / "mlflow.db" in written
    texts = {str(place): place.read_bytes() for place in written}
    texts |= {name: room.read(name) for name in room.names("")}
    assert len(texts) > 100
    assert [name for name, text in texts.items() if any(key in text for key in secrets)] == []
