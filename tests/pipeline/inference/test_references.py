"""A model is loaded by whatever names it, and importing the predictor is cheap."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import infill
from infill.models.architecture import Released
from infill.models.architecture import load as load_architecture
from infill.pipeline import checkpoints
from infill.pipeline.checkpoints import load_generator
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.inference import load
from infill.pipeline.registry import Lineage, RegistryConfig, register

ROOT = Path(__file__).parents[3]
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
HOLE = np.zeros((64, 64), bool)
HOLE[10:40, 8:50] = True


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_checkpoint_is_loaded_from_its_directory(spn):
    inpaint = load(Path(spn.location))
    assert same(inpaint.predictor.generator, load_generator(spn.location).generator)
    assert inpaint.name == "spn@step-000000001"
    assert repr(inpaint) == "Inpainter('spn@step-000000001', 'cpu', 'float32')"


@pytest.fixture
def run(tmp_path) -> str:
    """A run of two checkpoints, of which the first has the better score."""
    paper = load_architecture("spn")
    config = paper.config.tiny()
    for step, score in ((1, 20.0), (2, 10.0)):
        torch.manual_seed(step)
        checkpoints.export(
            checkpoints.step_location(str(tmp_path / "run"), step),
            {"generator": paper.generator(config).state_dict()},
            {"model": to_dict(config), "data": {"image_size_px": 64}},
            {"step": step, "scores": {"hole_psnr": score}},
        )
    return str(tmp_path / "run")


def test_run_gives_its_newest_checkpoint_or_its_best(run):
    for which, step in (("newest", 2), ("best", 1)):
        inpaint = load(run, checkpoint=which)
        there = load_generator(checkpoints.step_location(run, step)).generator
        assert same(inpaint.predictor.generator, there)


def test_version_is_loaded_by_its_alias_and_by_its_number(
    spn, newer_spn, migrated_database, tmp_path
):
    (tmp_path / "mlflow.db").write_bytes(migrated_database.read_bytes())
    registry = RegistryConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts")
    )
    lineage = Lineage(configuration={})
    for model in (spn, newer_spn):
        register(registry, model.location, "spn", lineage)
    newest, oldest = load_generator(newer_spn.location), load_generator(spn.location)
    for reference, name, expected in (
        ("spn", "spn@2", newest),
        ("spn@champion", "spn@2", newest),
        ("spn@1", "spn@1", oldest),
        ("spn/1", "spn@1", oldest),
    ):
        inpaint = load(reference, registry=registry)
        assert inpaint.name == name
        assert same(inpaint.predictor.generator, expected.generator)
    with pytest.raises(UserError, match="no version @7"):
        load("spn/7", registry=registry)


def released_file(name: str, folder: Path) -> tuple[Path, torch.nn.Module]:
    paper = load_architecture(name)
    config = paper.config.tiny()
    if name == "spn":
        config = replace(config, teacher="random")
    torch.manual_seed(3)
    networks = paper.objective(config, lambda network: network).networks
    states = {role: network.state_dict() for role, network in networks.items()}
    path = folder / f"{name}.pth"
    torch.save(paper.write_release(Released(config=config, states=states)), path)
    return path, networks["generator"]


@pytest.mark.parametrize("name", ["pennet", "lama", "spn", "madf"])
def test_file_of_the_authors_is_recognized_by_the_names_in_it(name, tmp_path):
    path, generator = released_file(name, tmp_path)
    for inpaint in (load(path), load(str(path), architecture=name)):
        assert same(inpaint.predictor.generator, generator)
        result = inpaint(IMAGE, HOLE)
        np.testing.assert_array_equal(result[~HOLE], IMAGE[~HOLE])
    with pytest.raises(UserError, match=str(path)):
        load(path, architecture="deepgin")


def test_what_names_no_model_is_refused_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(3)}, "other.pth")
    with pytest.raises(UserError, match=r"other\.pth is of no released network.*pennet"):
        load("other.pth")
    with pytest.raises(UserError, match="there is no registry at .* promote"):
        load("spn@champion")
    with pytest.raises(UserError, match="there is no model|not a checkpoint"):
        load("runs/nothing")
    with pytest.raises(UserError, match="architecture goes with a file"):
        load("runs/nothing", architecture="spn")
    with pytest.raises(UserError, match="precision is float32"):
        load("runs/nothing", precision="float8")
    with pytest.raises(UserError, match="checkpoint is newest or best, not 'oldest'"):
        load("runs/nothing", checkpoint="oldest")
    with pytest.raises(UserError, match="the name of the model is empty"):
        load("")


def modules_after(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


def test_importing_the_predictor_imports_no_cluster_and_no_tracking_server():
    found = modules_after("from infill.pipeline.inference import load")
    assert "infill.pipeline.inference.references" in found
    heavy = {"ray", "mlflow", "pandas", "matplotlib", "scipy", "fastapi", "torch", "cv2"}
    assert not found & heavy


def test_importing_the_package_imports_the_handler_of_ctrl_c_and_nothing_else():
    found = modules_after("import infill")
    ours = {name for name in found if name.startswith("infill")}
    assert ours == {"infill", "infill.pipeline", "infill.pipeline.interruption"}
    assert not found & {"numpy", "torch"}


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert infill.__version__ == version("infill")


@pytest.mark.parametrize("size_px", [64, 96])  # 96 is none of the usual tiles: the next is 128
def test_network_sees_no_more_pixels_than_an_image_of_its_training_size(size_px, tmp_path):
    paper = load_architecture("spn")
    config = paper.config.tiny()
    location = str(tmp_path / "trained")
    checkpoints.export(
        location,
        {"generator": paper.generator(config).state_dict()},
        {"model": to_dict(config), "data": {"image_size_px": size_px}},
        {"step": 1},
    )
    inpaint = load(location)
    seen = []
    inpaint.predictor.generator.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[-2:].numel())
    )
    hole = np.zeros((size_px, size_px), bool)
    hole[10:40, 8:50] = True
    inpaint(np.zeros((size_px, size_px, 3), np.uint8), hole)
    assert seen == [size_px**2]
