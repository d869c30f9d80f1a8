"""A training on two nodes, and the faults it may meet.

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
TRIES_OF_ONE = 5
"""More than the S3 client makes of one request by itself: three, one of them sent twice."""

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1800)]


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


def test_killed_worker_then_killed_node(room, calm, whole, passed):
    """One of two training processes dies, as by the kernel when memory is short.

    Later a machine loses power; the run says that it waits, and goes on once there is another.
    """
    job = room.train("killed")
    job.wait_for("step 20/")  # Past the first checkpoint.
    broken = time.monotonic()
    os.kill(workers_of(room, "cpu")[0], signal.SIGKILL)
    job.wait_for("samples_per_s", after="resuming at step")
    passed("worker killed", time.monotonic() - broken, "nobody acts")
    before = job.said
    room.cluster.kill("gpu-like")
    job.wait_for("waiting for resources", after=before)
    returned = time.monotonic()
    before = job.said
    room.cluster.start_node("gpu-like")
    job.wait_for("samples_per_s", after=before)
    passed("node killed", time.monotonic() - returned, "a node is added (an autoscaler does)")
    job.succeeds()
    assert room.weights("killed") == calm


def test_object_store_out_of_order_for_a_while(room, calm, whole, passed):
    """The object store takes half a second for each answer, then answers 503, then hangs up."""
    job = room.train("store-disturbed")
    job.wait_for("step 5/")
    for mode, times in {"slow": 1, "failing": TRIES_OF_ONE, "gone": TRIES_OF_ONE}.items():
        with room.weather.of(mode):
            room.weather.wait_until_met(job, times)
            held_up = time.monotonic()
            before = job.said
        job.wait_for("step", after=before)
        passed(f"object store {mode}", time.monotonic() - held_up, "nobody acts")
    job.succeeds()
    assert room.weights("store-disturbed") == calm


def test_run_that_cannot_start_says_why_and_starts_once_it_can(room, calm, whole, passed):
    """Three commands end in a sentence: no object store, no MLflow, a damaged shard.

    A bit of a shard flips in the object store: nothing is learnt from it. Once it is mended, the
    same command, without MLflow, trains as if nothing had been.
    """
    with room.weather.of("gone"):
        job = room.train("refused")
        assert job.ends() == "FAILED"
    said = job.said.partition("error: ")[2]
    assert "the object store failed" in said
    assert "in bucket 'infill': AWS Error" in said
    assert "Traceback" not in job.said

    key = room.names("shards/train/")[-1]
    assert key.endswith(".tar")
    sound = room.read(key)
    room.write(key, sound[: len(sound) // 2] + b"?" + sound[len(sound) // 2 + 1 :])
    for node in ("cpu", "gpu-like"):  # What they have kept is sound.
        shutil.rmtree(room.cluster.home(node) / ".cache" / "infill" / "shards", ignore_errors=True)
    job = room.train("refused")
    assert job.ends() == "FAILED"
    said = job.said.partition("error: ")[2]
    assert f"shard s3://infill/{key} has SHA-256" in said
    assert "repair the set with `python jobs/verify_shards.py --repair`" in said
    mending = time.monotonic()
    verify = f"python {ROOT}/jobs/verify_shards.py --shards s3://infill/shards --repair"
    room.submit(verify).succeeds()
    mended = time.monotonic() - mending
    assert room.read(key) == sound
    room.cluster.kill("mlflow")
    try:
        job = room.train("refused", room.tracked)
        assert job.ends() == "FAILED"
        said = job.said.partition("error: ")[2]
        assert "is not writable" in said
        assert 'correct tracking.tracking_uri, or set it to ""' in said
        begin = time.monotonic()
        job = room.train("refused")
        job.wait_for("step 5/")
        again = time.monotonic() - begin
        passed("object store away", again, "the command is given again")
        passed("shard damaged", mended + again, "the set is mended, the command given again")
        passed("no MLflow", again, 'the command is given with ""')
        job.succeeds()
    finally:
        room.cluster.start_mlflow()
    assert room.weights("refused") == calm


def test_damaged_checkpoint_and_mlflow_that_goes_away(room, calm, whole, passed):
    """A run is interrupted, and its newest checkpoint is damaged when it is to go on.

    Then MLflow's server dies under it and comes back before it ends; no metric is missing.
    """
    job = room.train("damaged", room.tracked)
    job.wait_for("step 25/")
    room.cluster.ask(f"/api/jobs/{job.name}/stop", {})
    job.ends()
    newest = room.names("runs/damaged/checkpoints/")[-1].split("/")[3]
    key = f"runs/damaged/checkpoints/{newest}/generator.safetensors"
    data = bytearray(room.read(key))
    data[len(data) // 2] ^= 255
    room.write(key, bytes(data))
    begin = time.monotonic()
    job = room.train("damaged", room.tracked)
    job.wait_for("step", after="using the previous one")
    job.wait_for("samples_per_s", after="using the previous one")
    passed("checkpoint damaged", time.monotonic() - begin, "the command is given again")
    assert f"{newest}: generator.safetensors is damaged" in job.said
    room.cluster.kill("mlflow")
    away = job.said
    missed = int(re.findall(r"step (\d+)/", away)[-1]) + 10  # One may have got through.
    job.wait_for(f"step {missed}/", after=away)
    returned = time.monotonic()
    room.cluster.start_mlflow()
    job.succeeds()
    assert room.weights("damaged") == calm
    steps = numbers_in_mlflow(room, "damaged", "samples_per_s")
    passed("MLflow away", time.monotonic() - returned, "its server is started again")
    assert steps == list(range(5, STEPS + 1, 5))


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


def test_clocks_that_disagree(room, calm, whole, passed):
    """One node's clock is two days ahead, the other's two behind: nothing kept depends on them."""
    usual = dict(room.cluster.settings)
    days = {"gpu-like": 2, "cpu": -2}
    skewed = {"PYTHONPATH": str(Path(__file__).with_name("skewed"))}
    for node, ahead in days.items():
        room.cluster.settings[node] = {**usual[node], **skewed, "CLOCK_DAYS": str(ahead)}
    try:
        start_anew(room, days)
        begin = time.monotonic()
        job = room.train("clocks")
        job.wait_for("step 5/")
        passed("clocks +2 d, -2 d", time.monotonic() - begin, "nobody acts; that is a usual start")
        for node, ahead in days.items():
            [worker] = workers_of(room, node)
            [there] = home_files(room, node, f"clock-{worker}")
            assert abs(float(there.read_text()) - time.time() - ahead * 86400) < 3600
        job.succeeds()
        assert "-" not in re.findall(r"trained in (\S+):", job.said)[0]
        assert room.weights("clocks") == calm
    finally:
        room.cluster.settings.update(usual)
        start_anew(room, days)


def start_anew(room, nodes):
    for node in nodes:
        room.cluster.kill(node)
        room.cluster.start_node(node)
    room.cluster.wait_for_nodes(3)


def test_no_secret_is_written_down(room, calm, whole):
    """After a training with MLflow and all of the above: no log, file, object or row has a key."""
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
