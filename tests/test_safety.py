"""Nothing that comes from elsewhere is executed: by reading the source, and by trying."""

import ast
import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from infill.jobs import make_shards
from infill.pipeline import storage
from infill.pipeline.checkpoints import load_generator
from infill.pipeline.config import run
from infill.pipeline.errors import UserError
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.tuning.spaces import read_space
from infill.pipeline.weight_import import read_tensors

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for room in ("models", "pipeline", "jobs") for p in (ROOT / room).rglob("*.py"))
EXECUTING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
"""Modules whose readers execute their input."""


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Return every call of a file with the dotted name of its function."""
    tree = ast.parse(path.read_text())
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def given(call: ast.Call, name: str) -> object:
    values = {word.arg: word.value for word in call.keywords}
    return ast.literal_eval(values[name]) if name in values else None


def test_source_has_no_reader_that_executes():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & EXECUTING, path
        for name, call in calls(path):
            assert name not in ("eval", "exec", "os.system", "yaml.load", "torch.jit.load"), path
            if name == "torch.load":
                assert given(call, "weights_only") is True, path
            if name == "np.load":
                assert given(call, "allow_pickle") is False, path
            assert given(call, "shell") is not True, path


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:geheim@bucket/runs",
        "http://anna:geheim@mlflow:5000",
        "postgresql://anna:geheim@host/mlflow",
    ],
)
def test_address_with_a_password_is_refused_and_not_repeated(address):
    """Every field that takes an address: a password would be in logs, checkpoints and MLflow."""
    for take in (
        storage.filesystem,
        lambda uri: TrackingConfig(tracking_uri=uri),
        lambda uri: RegistryConfig(tracking_uri=uri),
    ):
        with pytest.raises(UserError, match=r"contains a password.* in the environment") as raised:
            take(address)
        assert "geheim" not in str(raised.value)


def test_addresses_without_a_password_are_not_refused():
    for address in ("http://anna@mlflow:5000/a:b@c", "sqlite:///a:b@c.db", "", "C:/a@b"):
        assert TrackingConfig(tracking_uri=address).tracking_uri == address


def test_file_of_weights_that_holds_code_is_refused_and_does_not_run(tmp_path):
    ran = tmp_path / "ran"
    for name in ("plain.pth", "torch.pth", "arrays.npz"):
        place = tmp_path / name
        if name == "plain.pth":
            place.write_bytes(pickle.dumps({"weight": Bomb(ran)}))
        elif name == "torch.pth":
            torch.save({"weight": torch.zeros(1), "more": Bomb(ran)}, place)
        else:
            np.savez(place, weight=np.array([Bomb(ran)], dtype=object))
        with pytest.raises(UserError, match="code in it is not run"):
            read_tensors(place)
        assert not ran.exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert ran.exists()  # It would have.


def test_checkpoint_with_a_pickle_in_place_of_its_weights_is_refused(checkpoint_copy, tmp_path):
    ran = tmp_path / "ran"
    [weights] = checkpoint_copy.glob("generator*.safetensors")
    weights.write_bytes(pickle.dumps(Bomb(ran)))
    with pytest.raises(UserError):
        load_generator(str(checkpoint_copy))
    assert not ran.exists()


def test_space_in_python_is_read_and_never_run(tmp_path):
    ran = tmp_path / "ran"
    for number, text in enumerate(
        (
            f"import os\nos.mkdir({str(ran)!r})\nSPACE = {{'model.num_blocks': [1, 2]}}\n",
            f"SPACE = {{'model.num_blocks': [__import__('os').mkdir({str(ran)!r})]}}\n",
        )
    ):
        place = tmp_path / f"space{number}.py"
        place.write_text(text)
        with contextlib.suppress(UserError):
            read_space(str(place), "spn")
        assert not ran.exists()


def test_space_in_yaml_builds_no_objects(tmp_path):
    ran = tmp_path / "ran"
    place = tmp_path / "space.yaml"
    place.write_text(f"model.num_blocks: !!python/object/apply:os.mkdir [{str(ran)!r}]\n")
    with pytest.raises((UserError, yaml.YAMLError)):
        read_space(str(place), "spn")
    assert not ran.exists()


def test_archive_s_members_that_point_outside_write_nothing_there(tmp_path, ray_local, monkeypatch):
    import io

    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(picture, "png")
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("../../escaped.png", picture.getvalue())
        for number in range(4):
            archive.writestr(f"{number}.png", picture.getvalue()[:-1] + bytes([number]))
    words = ["folder", "--source", "photos.zip", "--out", "shards", "--min-side-px", "32"]
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):  # Any other exception would be a traceback.
        run(make_shards.main, words)
    assert not list(tmp_path.rglob("escaped*"))
    assert {one.name for one in tmp_path.iterdir()} == {"deep"}


def test_secrets_of_the_environment_reach_no_record_of_a_run(two_steps_run):
    for place in two_steps_run.rglob("*"):
        if place.is_file():
            assert b"s3cr3t-of-the-cloud" not in place.read_bytes(), place


@pytest.fixture
def checkpoint_copy(tmp_path) -> Path:
    from infill.models.architecture import load
    from infill.pipeline import checkpoints
    from infill.pipeline.config import to_dict
    from infill.pipeline.loading import BatchConfig

    architecture = load("spn")
    config = architecture.config.tiny()
    values = {"model": to_dict(config), "data": to_dict(BatchConfig(image_size_px=48))}
    networks = {"generator": architecture.generator(config).state_dict()}
    place = tmp_path / "checkpoint"
    checkpoints.export(str(place), networks, values, {"step": 1})
    load_generator(str(place))
    return place


@pytest.fixture
def two_steps_run(tmp_path, shards, migrated_database) -> Path:
    """A tiny training with MLflow, by a process of its own with cloud keys in its environment."""
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    words = ["smoke", "--data.shards", shards, "--data.image-size-px", "32", "--steps", "2"]
    words += ["--num-workers", "0", "--tracking.tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    keys = {"AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-cloud", "AWS_ACCESS_KEY_ID": "someone"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "train_spn.py"), *words],
        cwd=tmp_path,
        env={**os.environ, **keys},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "said.json").write_text(json.dumps([done.stdout, done.stderr]))
    assert (tmp_path / "mlflow.db").exists()
    return tmp_path
