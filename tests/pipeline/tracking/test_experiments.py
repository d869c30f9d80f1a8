"""A run in MLflow, as it looks while the training continues."""

import select
import shutil
import socket
import socketserver
import threading
import time
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from infill.pipeline import database_addresses
from infill.pipeline.errors import UserError
from infill.pipeline.tracking import Record, TrackingConfig, attach, tracked

SETTINGS = {"model.channels": 4, "data.seed": 7}
FACTS = {"git": "abc"}


@pytest.fixture(scope="module")
def folder(migrated_database, tmp_path_factory):
    """Return a folder with one database."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(migrated_database, folder / "mlflow.db")
    return folder


@pytest.fixture
def tracking(folder, tmp_path, request):
    """Return an experiment of the test's own."""
    return TrackingConfig(
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        artifacts=str(tmp_path / "artifacts"),
        experiment=request.node.name,
    )


def client_of(tracking):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=database_addresses.database_uri(tracking.tracking_uri))


def runs(tracking):
    """Return all runs there are."""
    client = client_of(tracking)
    [experiment] = [e for e in client.search_experiments() if e.name == tracking.experiment]
    return client.search_runs([experiment.experiment_id])


def losses(step, **values):
    return Record(kind="losses", step=step, values=values)


def numbers(tracking, run, name):
    return {m.step: m.value for m in client_of(tracking).get_metric_history(run.info.run_id, name)}


def until(look, seconds=120):
    """Return the result of ``look`` once it is not empty."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def enter(tracking, tmp_path, warn=print):
    return tracked(tracking, str(tmp_path / "run"), "spn", SETTINGS, FACTS, warn)


def test_numbers_and_pictures_are_there_while_the_run_continues(tracking, tmp_path):
    picture = tmp_path / "step-1.png"
    picture.write_bytes(b"PNG")
    with enter(tracking, tmp_path) as report:
        report(losses(1, hole=0.5, samples_per_s=9.0))
        report(Record(kind="image", step=1, image=str(picture)))
        [run] = runs(tracking)
        assert run.info.status == "RUNNING"
        assert until(lambda: numbers(tracking, run, "hole")) == {1: 0.5}
        assert numbers(tracking, run, "samples_per_s") == {1: 9.0}
        until(lambda: list((tmp_path / "artifacts").rglob("samples/step-1.png")))
    [run] = runs(tracking)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.channels": "4", "data.seed": "7"}
    assert run.data.tags["git"] == "abc"


def test_a_run_that_resumes_keeps_its_entry(tracking, tmp_path):
    with suppress(RuntimeError), enter(tracking, tmp_path) as report:
        report(losses(1, hole=0.5))
        raise RuntimeError("power cut")
    assert [run.info.status for run in runs(tracking)] == ["FAILED"]
    with enter(tracking, tmp_path) as report:
        assert [run.info.status for run in runs(tracking)] == ["RUNNING"]
        report(losses(2, hole=0.25))
    [run] = runs(tracking)
    assert run.info.status == "FINISHED"
    assert numbers(tracking, run, "hole") == {1: 0.5, 2: 0.25}


def test_an_entry_that_was_deleted_is_made_anew(tracking, tmp_path):
    with enter(tracking, tmp_path):
        pass
    [run] = runs(tracking)
    client_of(tracking).delete_run(run.info.run_id)
    with enter(tracking, tmp_path) as report:
        report(losses(1, hole=0.5))
    [again] = runs(tracking)
    assert again.info.run_id != run.info.run_id


class Road(socketserver.BaseRequestHandler):
    """Leads each connection on to the real server, until it is closed."""

    def handle(self):
        with socket.create_connection(self.server.leads_to) as server:
            pairs = {self.request: server, server: self.request}
            while not self.server.closed.is_set():
                for ready in select.select(list(pairs), [], [], 0.1)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pairs[ready].sendall(data)


@contextmanager
def road(server, port=0):
    """Lead to a server from a port of this machine where, afterwards, nobody listens."""

    class Roads(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        closed = threading.Event()
        leads_to = urlsplit(server).hostname, urlsplit(server).port

        def handle_error(self, request, client_address):
            """Say nothing of connections that were cut."""

    with Roads(("127.0.0.1", port), Road) as roads:
        thread = threading.Thread(target=roads.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield roads.server_address[1]
        finally:
            roads.closed.set()
            roads.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_costs_no_number(tmp_path, monkeypatch, mlflow_server):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = []
    with road(mlflow_server) as port:
        tracking = TrackingConfig(tracking_uri=f"http://127.0.0.1:{port}", experiment="away")
        entry = enter(tracking, tmp_path, said.append)
        report = entry.__enter__()
        report(losses(1, hole=0.5))
        [run] = runs(tracking)
        until(lambda: numbers(tracking, run, "hole"))
    report(losses(2, hole=0.25))
    until(lambda: said)
    assert "does not answer" in said[0]
    with road(mlflow_server, port):
        entry.__exit__(None, None, None)
        [run] = runs(tracking)
        assert run.info.status == "FINISHED"
        assert numbers(tracking, run, "hole") == {1: 0.5, 2: 0.25}
    assert len(said) == 1


def test_a_server_that_is_not_there_is_reported_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = TrackingConfig(tracking_uri="http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"tracking\.tracking_uri"), enter(nowhere, tmp_path):
        pass


def test_nothing_is_written_where_no_record_is_wanted(tmp_path):
    with enter(TrackingConfig(tracking_uri=""), tmp_path) as report:
        report(losses(1, hole=0.5))
    assert not (tmp_path / "run").exists()


def test_pages_written_after_a_run_are_added_to_its_entry(tracking, tmp_path):
    run = str(tmp_path / "run")
    with tracked(tracking, run, "search", SETTINGS, FACTS, print):
        pass
    page = tmp_path / "report.html"
    page.write_text("a page")
    lines = []
    attach(run, [str(page)], lines.append)
    [entry] = runs(tracking)
    client = client_of(tracking)
    assert [f.path for f in client.list_artifacts(entry.info.run_id, "report")] == [
        "report/report.html"
    ]
    attach(run, [str(tmp_path / "nowhere.html")], lines.append)
    assert len(lines) == 1
    assert "its run lacks" in lines[0]
    attach(str(tmp_path / "another"), [str(page)], lines.append)
    assert len(lines) == 1


def test_postgresql_gets_the_driver_that_the_extra_installs(monkeypatch):
    from sqlalchemy.engine import make_url

    uri = database_addresses.database_uri("postgresql://mlflow@database:5432/mlflow")
    assert make_url(uri).get_dialect().import_dbapi().__name__ == "psycopg2"
    assert database_addresses.database_uri(uri) == uri
    monkeypatch.setattr("infill.pipeline.database_addresses._has_psycopg2", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'infill\[postgres\]'"):
        database_addresses.database_uri(uri)


def test_password_of_a_database_belongs_into_the_environment():
    with pytest.raises(UserError, match="set PGPASSWORD in the environment") as refused:
        TrackingConfig(tracking_uri="postgresql://mlflow:secret@database/mlflow")
    assert "secret" not in str(refused.value)
