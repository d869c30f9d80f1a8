import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
import torch

from infill.pipeline import checkpoints
from infill.pipeline.errors import UserError
from infill.pipeline.registry import (
    CHALLENGER,
    Lineage,
    RegistryConfig,
    champion,
    everywhere,
    list_versions,
    readable,
    register,
    repeat_alias,
    resolve,
    rollback,
)
from infill.pipeline.registry.store import COPYING, EXPERIMENT, open_registry
from infill.pipeline.tracking.mlflow_store import experiment_id


@pytest.fixture(scope="module")
def registry(migrated_database, tmp_path_factory) -> RegistryConfig:
    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(migrated_database, folder / "mlflow.db")
    return RegistryConfig(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )


def checkpoint(folder: Path, step: int) -> str:
    torch.manual_seed(step)
    location = str(folder / f"step-{step:09d}")
    config = {"model": {"architecture": "spn"}, "data": {"image_size_px": 64}}
    checkpoints.export(
        location, {"generator": torch.nn.Linear(3, 3).state_dict()}, config, {"step": step}
    )
    return location


def lineage(**changes) -> Lineage:
    values = {"configuration": {"seed": 7}, "scores": {"hole_psnr": 21.5}, "git_commit": "abc"}
    return Lineage(**{**values, **changes})


def test_registered_champion_is_resolved_with_its_lineage(registry, tmp_path):
    location = checkpoint(tmp_path, 1)
    version = register(registry, location, "first", lineage(manifest_digest="m" * 64))
    for reference in ("first", "first@champion", f"first@{version.number}"):
        found = resolve(registry, reference)
        assert (found.name, found.version) == ("first", str(version.number))
        assert found.digest == checkpoints.digest(location)
        assert checkpoints.verify(found.location) == found.digest
        assert not found.location.startswith(str(tmp_path))
    kept = champion(registry, "first").lineage
    assert kept == lineage(manifest_digest="m" * 64)


def test_scores_of_versions_are_metrics_by_which_mlflow_sorts(registry, tmp_path):
    from infill.pipeline.registry.store import EXPERIMENT
    from infill.pipeline.tracking.mlflow_store import experiment_id, mlflow_client

    scores = (20.0, 23.5, 21.0)
    for step, score in enumerate(scores, start=1):
        evaluated = {"all": {"hole_psnr": score}, "0.1-0.2": {"hole_psnr": score + 3}}
        register(
            registry, checkpoint(tmp_path, step), "sorted", lineage(scores={"scores": evaluated})
        )
    client = mlflow_client(registry)
    found = client.search_runs(
        [experiment_id(client, registry, EXPERIMENT)],
        "metrics.hole_psnr >= 20.5 AND attributes.run_name LIKE 'sorted-%'",
        order_by=["metrics.hole_psnr DESC"],
    )
    assert [run.data.metrics["hole_psnr"] for run in found] == [23.5, 21.0]
    assert found[0].data.metrics["hole_psnr/0.1-0.2"] == 26.5


def test_rollback_restores_champion_before_champion(registry, tmp_path):
    for step in (1, 2, 3):
        register(registry, checkpoint(tmp_path, step), "back", lineage())
    assert rollback(registry, "back").number == 2
    assert resolve(registry, "back").version == "2"
    assert rollback(registry, "back").number == 1
    with pytest.raises(UserError, match="only champion"):
        rollback(registry, "back")
    assert register(registry, checkpoint(tmp_path, 4), "back", lineage()).number == 4
    assert resolve(registry, "back@champion").version == "4"


KILLED_AT = {
    "the checkpoint is being copied": ("log_artifacts", False),
    "the version is being made": ("create_model_version", False),
    "the copy gets its owner": ("delete_tag", True),
    "the alias is being set": ("set_registered_model_alias", True),
}


def killed_promotion(registry, location, name, call):
    """In a process of its own: promote, and be killed before a call of MLflow's client."""
    from mlflow import MlflowClient

    def end(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(MlflowClient, call, end)
    register(registry, location, name, lineage())


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_promotion_killed_at_any_moment_is_completed_by_the_next(registry, tmp_path, moment):
    """The alias follows, and copies without a version are deleted."""
    call, has_version = KILLED_AT[moment]
    name = f"killed-{call}"
    register(registry, checkpoint(tmp_path, 1), name, lineage())
    process = multiprocessing.get_context("fork").Process(
        target=killed_promotion, args=(registry, checkpoint(tmp_path, 2), name, call)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert champion(registry, name).number == 1 + has_version
    repeat_alias(registry, name)
    with open_registry(registry) as client:
        assert int(client.get_model_version_by_alias(name, "champion").version) == 1 + has_version
    register(registry, checkpoint(tmp_path, 3), name, lineage())
    copies = {Path(v.location).parent.parent.name for v in list_versions(registry, name)}
    with open_registry(registry) as client:
        found = client.search_runs(
            [experiment_id(client, registry, EXPERIMENT)], f"attributes.run_name LIKE '{name}-%'"
        )
    assert {run.info.run_id for run in found} == copies
    assert all(COPYING not in run.data.tags for run in found)
    files = Path(registry.artifacts).rglob("checkpoint/checksums.json")
    with open_registry(registry) as client:
        kept = {path.parents[2].name for path in files}
        ours = {run for run in kept if client.get_run(run).info.run_name.startswith(f"{name}-")}
    assert ours == copies


def test_a_rollback_killed_before_the_alias_withdraws_one_version(registry, tmp_path, monkeypatch):
    for step in (1, 2, 3):
        register(registry, checkpoint(tmp_path, step), "twice", lineage())

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("infill.pipeline.registry.versions._settle", killed)
        with pytest.raises(KeyboardInterrupt):
            rollback(registry, "twice")
    assert rollback(registry, "twice").number == 2
    assert resolve(registry, "twice").version == "2"
    assert rollback(registry, "twice").number == 1


def test_challenger_leaves_champion_in_place(registry, tmp_path):
    register(registry, checkpoint(tmp_path, 1), "pair", lineage())
    register(registry, checkpoint(tmp_path, 2), "pair", lineage(), alias=CHALLENGER)
    assert resolve(registry, "pair").version == "1"
    assert resolve(registry, "pair@challenger").version == "2"


def test_promotion_that_another_overtook_is_refused_and_registered(registry, tmp_path):
    register(registry, checkpoint(tmp_path, 1), "race", lineage())
    register(registry, checkpoint(tmp_path, 2), "race", lineage(), successor_to=1)
    with pytest.raises(UserError, match="race@2 became champion during"):
        register(registry, checkpoint(tmp_path, 3), "race", lineage(), successor_to=1)
    assert resolve(registry, "race").version == "2"
    assert [v.number for v in list_versions(registry, "race")] == [1, 2, 3]
    assert rollback(registry, "race").number == 1


def promote(registry, location, barrier, results):
    from infill.pipeline import registry as room

    before = room.champion(registry, "crowd").number
    barrier.wait()
    try:
        version = room.register(
            registry, location, "crowd", Lineage(configuration={}), "champion", before
        )
        results.put(version.number)
    except UserError as error:
        results.put(str(error))


def require_one_winner(registry: RegistryConfig, folder: Path) -> None:
    """Promote three versions at once: one becomes champion, and the others are refused."""
    register(registry, checkpoint(folder, 1), "crowd", lineage())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["infill.pipeline.registry.versions"])  # once for all three
    barrier, results = context.Barrier(3), context.Queue()
    rivals = [
        context.Process(target=promote, args=(registry, checkpoint(folder, step), barrier, results))
        for step in (2, 3, 4)
    ]
    for rival in rivals:
        rival.start()
    answers = [results.get(timeout=300) for _ in rivals]
    for rival in rivals:
        rival.join()
    won = [answer for answer in answers if isinstance(answer, int)]
    assert len(won) == 1, answers
    assert all("became champion during" in a for a in answers if isinstance(a, str)), answers
    assert resolve(registry, "crowd@champion").version == str(won[0])
    assert rollback(registry, "crowd").number == 1


def test_of_promotions_at_once_exactly_one_wins(registry, tmp_path):
    require_one_winner(registry, tmp_path)


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_registry_in_postgresql_keeps_the_same_promises(postgres, tmp_path):
    registry = RegistryConfig(tracking_uri=postgres(), artifacts=str(tmp_path / "artifacts"))
    location = checkpoint(tmp_path, 7)
    version = register(registry, location, "first", lineage())
    found = resolve(registry, "first@champion")
    assert (found.version, found.digest) == (str(version.number), checkpoints.digest(location))
    assert champion(registry, "first").lineage == lineage()
    register(registry, checkpoint(tmp_path, 8), "first", lineage(), alias=CHALLENGER)
    assert resolve(registry, "first").version == "1"
    with pytest.raises(UserError, match="no model 'second'.*first"):
        resolve(registry, "second@champion")
    require_one_winner(registry, tmp_path)


def test_champion_of_promotion_that_died_before_the_alias_is_still_champion(registry, tmp_path):
    from mlflow import MlflowClient

    register(registry, checkpoint(tmp_path, 1), "dead", lineage())
    second = register(registry, checkpoint(tmp_path, 2), "dead", lineage())
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.set_registered_model_alias("dead", "champion", "1")  # as if it died just before
    assert resolve(registry, "dead@champion").version == str(second.number)
    register(registry, checkpoint(tmp_path, 3), "dead", lineage())
    assert client.get_model_version_by_alias("dead", "champion").version == 3


def test_path_is_resolved_without_a_registry(tmp_path):
    nowhere = RegistryConfig(tracking_uri=f"sqlite:///{tmp_path}/none.db")
    location = checkpoint(tmp_path, 5)
    found = resolve(nowhere, location)
    assert (found.name, found.version) == ("spn", "step-000000005")
    assert found.digest == checkpoints.digest(location)
    assert not (tmp_path / "none.db").exists()


def test_unknown_references_say_what_there_is(registry, tmp_path):
    register(registry, checkpoint(tmp_path, 1), "known", lineage())
    with pytest.raises(UserError, match="no model 'unknown'.*known"):
        resolve(registry, "unknown@champion")
    with pytest.raises(UserError, match="no version @7; it has @champion, @1"):
        resolve(registry, "known@7")
    with pytest.raises(UserError, match="no version @best"):
        resolve(registry, "known@best")
    with pytest.raises(UserError, match="is not a checkpoint"):
        resolve(registry, str(tmp_path / "nothing"))
    nowhere = RegistryConfig(tracking_uri=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(UserError, match="there is no registry at"):
        resolve(nowhere, "spn")
    assert not (tmp_path / "none.db").exists()


def test_an_alias_that_names_no_promoted_version_is_refused_with_the_reason(registry, tmp_path):
    kept = register(registry, checkpoint(tmp_path, 1), "aliased", lineage(), alias=CHALLENGER)
    with open_registry(registry) as client:
        client.set_registered_model_alias("aliased", "champion", str(kept.number))
    with pytest.raises(UserError, match=r"alias @champion .* version 1, which was not promoted"):
        resolve(registry, "aliased")
    database = registry.tracking_uri.removeprefix("sqlite:///")
    with sqlite3.connect(database) as connection:  # MLflow deletes a version with its aliases.
        connection.execute(
            "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)",
            ("aliased", "lost", 9),
        )
    with pytest.raises(UserError, match=r"@lost .* version 9, which does not exist .* \(@1\)"):
        resolve(registry, "aliased@lost")


def test_changed_or_missing_files_of_a_version_are_not_served(registry, tmp_path):
    register(registry, checkpoint(tmp_path, 1), "harmed", lineage())
    weights = Path(resolve(registry, "harmed").location) / "generator.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match="harmed@1 .* missing or damaged"):
        resolve(registry, "harmed")
    other = checkpoint(tmp_path, 2)
    for file in Path(other).iterdir():
        (weights.parent / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="differ from the registered ones"):
        resolve(registry, "harmed")


def test_damaged_checkpoint_is_not_registered(registry, tmp_path):
    location = checkpoint(tmp_path, 1)
    (Path(location) / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state.json is damaged"):
        register(registry, location, "damaged", lineage())
    assert list_versions(registry, "damaged") == []


def test_relative_database_lies_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RegistryConfig()
    register(config, checkpoint(tmp_path, 1), "spn", lineage())
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    location = resolve(config, "spn").location
    assert location.startswith(str(tmp_path / "runs" / "mlartifacts"))


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "two words"])
def test_names_that_references_could_not_spell_are_refused(registry, tmp_path, name):
    with pytest.raises(UserError, match="cannot name a model"):
        register(registry, checkpoint(tmp_path, 1), name, lineage())


@pytest.fixture
def server(mlflow_server) -> RegistryConfig:
    return RegistryConfig(tracking_uri=mlflow_server, artifacts="")


def test_files_that_only_a_server_reaches_are_fetched_by_whoever_needs_them(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "one-node"))
    location = checkpoint(tmp_path, 1)
    register(server, location, "far", lineage())
    found = resolve(server, "far@champion")
    assert found.address.startswith(f"{server.tracking_uri}/mlflow-artifacts:/")
    assert found.location.startswith(str(tmp_path / "one-node"))
    # Another node knows the address alone.
    monkeypatch.setenv("HOME", str(tmp_path / "another-node"))
    place = readable(found.address, found.digest)
    assert place.startswith(str(tmp_path / "another-node"))
    assert checkpoints.verify(place) == checkpoints.digest(location)
    copied = everywhere(found.address, found.digest, str(tmp_path / "copy"))
    assert copied == str(tmp_path / "copy")
    assert checkpoints.verify(copied) == found.digest


def test_files_that_a_server_has_lost_are_reported(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    address = f"{server.tracking_uri}/mlflow-artifacts:/9/nothing/artifacts/checkpoint"
    with pytest.raises(UserError, match="cannot fetch the files of a version from .*9/nothing"):
        readable(address, "d" * 64)
    assert not (tmp_path / "home/.cache/infill/versions" / ("d" * 64)).exists()
