"""Every record goes to each logger that a run names, under the same names."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.tracking import LOGGERS, Record, RunInfo, TrackingConfig, logged
from infill.pipeline.tracking.mlflow_store import experiment_id, mlflow_client

LOSSES = {"hole": 0.5, "learning_rate/generator": 1e-4, "samples_per_s": 9.0}
SCORES = {"hole_psnr": 21.5, "hole_psnr/0.1-0.2": 24.0}


def info_of(tmp_path, lines, *loggers):
    config = TrackingConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        artifacts=str(tmp_path / "artifacts"),
        loggers=loggers,
    )
    return RunInfo(
        config=config,
        run=str(tmp_path / "run"),
        name="spn smoke",
        architecture="spn",
        steps=9,
        settings={"model.channels": 4},
        log=lines.append,
    )


def runs(config):
    client = mlflow_client(config)
    return client.search_runs([experiment_id(client, config, config.experiment)])


def events(folder):
    """Return name, step and value of everything in TensorBoard's files, by their own format."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in Path(folder).iterdir():
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_terminal_files_tensorboard_and_mlflow_have_one_set_of_names(tmp_path):
    picture = tmp_path / "grid.png"
    cv2.imwrite(str(picture), np.full((8, 12, 3), 200, np.uint8))
    lines = []
    info = info_of(tmp_path, lines, "terminal", "jsonl", "mlflow", "tensorboard")
    with logged(info) as report:
        report(Record(kind="losses", step=4, values=LOSSES))
        report(Record(kind="image", step=4, text="a grid", image=str(picture)))
        report(Record(kind="scores", step=4, values=SCORES))
    [file] = Path(info.run).glob("progress-000000000.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    names = set(LOSSES) | set(SCORES)
    assert {name for record in records for name in record["values"]} == names
    [run] = runs(info.config)
    assert set(run.data.metrics) == names
    assert run.info.run_name.startswith("spn smoke 20")
    written = events(Path(info.run, "tensorboard"))
    numbers = {tag: (step, value.simple_value) for tag, step, value in written}
    assert names <= set(numbers)
    assert numbers["hole_psnr"] == (4, 21.5)
    [image] = [value.image for tag, _, value in written if tag == "samples"]
    assert (image.height, image.width) == (8, 12)
    shown = "\n".join(lines)
    assert all(name in shown for name in names if "/" not in name)


def test_records_are_appended_with_each_validation_and_never_written_twice(tmp_path, monkeypatch):
    written = []

    def count(location, data):
        written.append(data)
        Path(location).parent.mkdir(exist_ok=True)
        with open(location, "ab") as file:
            file.write(data)

    monkeypatch.setattr("infill.pipeline.storage.append", count)
    info = info_of(tmp_path, [], "jsonl")
    with logged(info) as report:
        for step in range(1, 10):
            report(Record(kind="losses", step=step, values=LOSSES))
            if step % 3 == 0:
                report(Record(kind="scores", step=step, values=SCORES))
    [file] = Path(info.run).iterdir()
    assert b"".join(written) == file.read_bytes()
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert [data.count(b"\n") for data in written] == [4, 4, 4]


def test_no_record_is_lost_while_another_thread_writes_them(tmp_path, monkeypatch):
    """Validation ends in a thread of its own, while training goes on."""
    writing, reported = threading.Event(), threading.Event()
    append = storage.append

    def slow(location, data):
        append(location, data)
        writing.set()
        reported.wait(0.5)  # Then the other thread waits for its turn.

    monkeypatch.setattr("infill.pipeline.storage.append", slow)
    info = info_of(tmp_path, [], "jsonl")
    with logged(info) as report:

        def validate():
            report(Record(kind="scores", step=1, values=SCORES))

        validating = threading.Thread(target=validate)
        validating.start()
        writing.wait()
        report(Record(kind="losses", step=2, values=LOSSES))
        reported.set()
        validating.join()
    [file] = Path(info.run).iterdir()
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert steps == [1, 2]


def test_a_store_without_appending_gets_a_file_for_each_validation(bucket, tmp_path):
    info = replace(info_of(tmp_path, [], "jsonl"), run=f"{bucket}/run", first_step=2)
    with logged(info) as report:
        for step in (3, 4, 5):
            report(Record(kind="losses", step=step, values=LOSSES))
            if step < 5:
                report(Record(kind="scores", step=step, values=SCORES))
    names = [f"progress-{step:09d}.jsonl" for step in (2, 3, 4)]
    assert storage.names(info.run) == names
    steps = [
        json.loads(line)["step"]
        for name in names
        for line in storage.read(f"{info.run}/{name}").splitlines()
    ]
    assert steps == [3, 3, 4, 4, 5]


def test_only_the_loggers_named_take_records(tmp_path):
    lines = []
    with logged(info_of(tmp_path, lines, "terminal")) as report:
        report(Record(kind="losses", step=1, values=LOSSES))
    # Between progress lines; with the time left from the first report on.
    assert re.fullmatch(r"spn  step 1/9  hole 0\.5  samples_per_s 9  \S+ left", lines[1])
    assert list(tmp_path.iterdir()) == []


def test_a_logger_that_cannot_be_is_refused_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no logger 'telegraph'; there are terminal, .*jsonl"):
        TrackingConfig(loggers=("terminal", "telegraph"))
    with pytest.raises(UserError, match="names one twice"):
        TrackingConfig(loggers=("jsonl", "jsonl"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'infill\[wandb\]'"):
        logged(info_of(tmp_path, [], "wandb")).__enter__()


def test_error_of_a_logger_ends_the_run_and_names_the_logger(tmp_path, monkeypatch):
    def take(record):
        raise KeyError(record.kind)

    @contextmanager
    def broken(info, warn):
        yield take

    monkeypatch.setitem(LOGGERS, "broken", broken)
    with pytest.raises(KeyError) as raised, logged(info_of(tmp_path, [], "broken")) as report:
        report(Record(kind="losses", step=1, values=LOSSES))
    assert raised.value.__notes__ == [
        "from the logger 'broken': mend it, or leave it out of tracking.loggers"
    ]


PROGRAM = """
import sys, time
from infill.pipeline.tracking import TrackingConfig, tracked

uri, artifacts, run = sys.argv[1:]
config = TrackingConfig(tracking_uri=uri, artifacts=artifacts)
with tracked(config, run, "spn", {}, {}, print):
    print("inside", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_run_that_a_signal_stops_is_killed_and_not_failed(tmp_path, number):
    config = info_of(tmp_path, []).config
    arguments = [config.tracking_uri, config.artifacts, str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "inside\n"
        os.kill(process.pid, number)
        assert process.wait(120) != 0
    assert [run.info.status for run in runs(config)] == ["KILLED"]
