import copy
import hashlib
import json
import shutil
import types
from pathlib import Path

import pytest
import torch

from infill.models.architecture import Batch, load
from infill.models.layers import at_rest
from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints, storage
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError

CONFIG = {"model": to_dict(SPNConfig.tiny()), "data": {"image_size_px": 32}}


def write(location, objective, average, config, state):
    """Write a checkpoint of a training as it stands."""
    whole = checkpoints.snapshot(objective, average)
    return checkpoints.write(location, whole, config, state)


def trained():
    """Return networks and optimisers that have taken one step, and the batch of it."""
    torch.manual_seed(0)
    built = load("spn").objective(SPNConfig.tiny(), lambda network: network)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 4:9, 4:9] = 1
    batch = Batch(image=image, mask=mask)
    built.step(batch)
    return built, batch


@pytest.fixture(scope="module")
def objective():
    """Return networks and optimisers that have taken one step, for tests that only read them."""
    return trained()[0]


@pytest.fixture
def run(objective, tmp_path):
    """Return a run with checkpoints at steps 1 and 2."""
    for step in (1, 2):
        location = checkpoints.step_location(str(tmp_path), step)
        write(location, objective, None, CONFIG, {"step": step, "scores": {}})
    return str(tmp_path)


def damage(location, name):
    path = Path(location) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_restored_checkpoint_holds_the_same_weights_and_optimiser_state(run, objective):
    other = load("spn").objective(SPNConfig.tiny(), lambda network: network)
    state = checkpoints.restore(checkpoints.step_location(run, 2), other, None)
    assert state["step"] == 2
    for role, network in objective.networks.items():
        ours, theirs = network.state_dict(), other.networks[role].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        before = objective.optimizers[role].state_dict()["state"]
        after = other.optimizers[role].state_dict()["state"]
        assert torch.equal(before[0]["exp_avg"], after[0]["exp_avg"])
        assert after[0]["step"] == 1


def test_the_served_generator_predicts_what_the_trained_one_predicts(run, objective):
    loaded = checkpoints.load_generator(run)
    image, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    with torch.no_grad():
        expected = at_rest(copy.deepcopy(objective.generator))(image, mask).final
    assert torch.equal(loaded.generator(image, mask).final, expected)
    assert (loaded.architecture, loaded.step, loaded.image_size_px) == ("spn", 2, 32)
    assert not any(p.requires_grad for p in loaded.generator.parameters())


def test_the_training_size_is_read_from_the_checkpoint_that_a_run_names(run):
    for location in (run, checkpoints.step_location(run, 1)):
        assert checkpoints.training_size_px(location) == 32
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoints.training_size_px(f"{run}/elsewhere")
    damage(checkpoints.step_location(run, 1), "config.json")
    with pytest.raises(UserError, match=r"config\.json"):
        checkpoints.training_size_px(checkpoints.step_location(run, 1))


def test_a_changed_byte_is_found_and_the_checkpoint_before_is_taken(run):
    newest = checkpoints.step_location(run, 2)
    damage(newest, "generator.safetensors")
    with pytest.raises(UserError, match=r"generator.safetensors is damaged"):
        checkpoints.verify(newest)
    said = []
    assert checkpoints.latest(run, said.append) == checkpoints.step_location(run, 1)
    assert "using the previous one" in said[0]


def test_a_missing_file_or_unfinished_directory_is_never_taken_for_whole(run):
    newest = checkpoints.step_location(run, 2)
    (Path(newest) / "discriminator.safetensors").unlink()
    with pytest.raises(UserError, match="lacks its discriminator"):
        checkpoints.verify(newest)
    (Path(checkpoints.step_location(run, 1)) / "checksums.json").unlink()
    assert checkpoints.latest(run, lambda sentence: None) is None
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoints.load_generator(run)


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_debris(run, objective, monkeypatch):
    location = checkpoints.step_location(run, 2)
    before = checkpoints.verify(location)

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write(location, objective, None, CONFIG, {"step": 2, "scores": {}})
    assert checkpoints.verify(location) == before
    assert len(storage.names(storage.join(run, "checkpoints"))) == 2


def test_checksums_of_another_form_are_damage_and_the_last_resort_is_named(run):
    newest, oldest = checkpoints.step_location(run, 2), checkpoints.step_location(run, 1)
    Path(newest, "checksums.json").write_text("[]")
    damage(oldest, "generator.safetensors")
    said = []
    assert checkpoints.latest(run, said.append) is None
    assert "checksums.json is damaged: it does not list config.json" in said[0]
    assert said[0].endswith("using the previous one")
    assert said[1].endswith("there is none before it")


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    torch.manual_seed(0)
    layers = {"first": torch.nn.Linear(2, 3), "second": torch.nn.Linear(3, 1)}
    location = str(tmp_path / "step-1")
    tensors = {"generator": torch.nn.ModuleDict(layers).state_dict()}
    checkpoints.export(location, tensors, CONFIG, {"step": 1})

    def refusal(**others: torch.nn.Module) -> str:
        other = types.SimpleNamespace(networks={"generator": torch.nn.ModuleDict(others)})
        with pytest.raises(UserError) as refused:
            checkpoints.initialize(location, other)
        start = f"{location}/generator.safetensors belongs to another network than this config"
        assert str(refused.value).startswith(f"{start}uration's: ")
        return str(refused.value).partition("'s: ")[2]

    assert refusal(first=torch.nn.Linear(2, 3), second=torch.nn.Linear(4, 1)) == (
        "1 have other shapes, such as second.weight: [1, 3] in the file, [1, 4] in the network"
    )
    third = {"third": torch.nn.Linear(1, 1), "fourth": torch.nn.Linear(1, 1)}
    assert refusal(**layers, **third) == "it lacks 4 of 8 tensors, such as third.weight"
    assert refusal(zero=torch.nn.Linear(2, 3, bias=False)) == (
        "it lacks 1 of 1 tensors, such as zero.weight; "
        "it has 4 that the network has not, such as first.bias"
    )


def test_a_snapshot_stays_as_it_was_while_the_training_goes_on(tmp_path):
    built, batch = trained()
    taken = checkpoints.snapshot(built, built.networks["generator"])
    tensors = {
        (file, name): value.clone()
        for file, values in taken.tensors.items()
        for name, value in values.items()
    }
    settings = copy.deepcopy(taken.optimizers)
    for optimizer in built.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] *= 2
            group["betas"] = (0.1, 0.2)
    built.step(batch)
    assert all(torch.equal(taken.tensors[f][n], value) for (f, n), value in tensors.items())
    assert taken.optimizers == settings
    current = checkpoints.snapshot(built, None)
    assert any(
        not torch.equal(taken.tensors["generator.safetensors"][name], value)
        for name, value in current.tensors["generator.safetensors"].items()
    )
    location = checkpoints.write(str(tmp_path / "step-1"), taken, CONFIG, {"step": 1})
    assert location
    stored = json.loads((tmp_path / "step-1" / "state.json").read_text())
    assert stored["format"] == checkpoints.FORMAT


def test_the_average_is_served_in_place_of_the_last_weights(objective, tmp_path):
    average = load("spn").generator(SPNConfig.tiny())
    location = str(tmp_path / "averaged")
    write(location, objective, average, CONFIG, {"step": 1, "scores": {}})
    loaded = checkpoints.load_generator(location).generator.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in average.state_dict().items())


def test_old_checkpoints_go_and_the_protected_stays(run, objective):
    for step in (3, 4):
        shutil.copytree(checkpoints.step_location(run, 1), checkpoints.step_location(run, step))
    checkpoints.prune(run, keep=1, protected={2})
    assert checkpoints.steps(run) == [2, 4]


def test_best_is_the_whole_checkpoint_with_the_highest_score_and_the_newest_of_equals(
    objective, tmp_path
):
    run = str(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint; train first"):
        checkpoints.best(run, "psnr")
    for step, scores in enumerate(({}, {"psnr": 9.0}, {"psnr": 7.0}, {"psnr": 7.0}), 1):
        location = checkpoints.step_location(run, step)
        write(location, objective, None, CONFIG, {"step": step, "scores": scores})
    assert checkpoints.best(run, "psnr") == (checkpoints.step_location(run, 2), {"psnr": 9.0})
    assert checkpoints.best(run, "ssim")[0] == checkpoints.step_location(run, 4)
    (Path(checkpoints.step_location(run, 2)) / "state.json").unlink()
    assert checkpoints.best(run, "psnr")[0] == checkpoints.step_location(run, 4)


def test_nothing_in_a_checkpoint_is_pickled(run):
    for path in Path(checkpoints.step_location(run, 1)).iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix == ".safetensors"
            size = int.from_bytes(path.read_bytes()[:8], "little")
            json.loads(path.read_bytes()[8 : 8 + size])


def test_an_exported_checkpoint_is_read_served_and_fine_tuned_from(objective, tmp_path):
    location = str(tmp_path / "exported")
    weights = objective.generator.state_dict()
    state = {"step": 3, "source": "elsewhere"}
    digest = checkpoints.export(location, {"generator": weights}, CONFIG, state)
    assert digest == checkpoints.digest(location) == checkpoints.verify(location)
    assert checkpoints.read_config(location) == CONFIG
    assert checkpoints.read_state(location) == state
    other = load("spn").objective(SPNConfig.tiny(), lambda network: network)
    discriminator = copy.deepcopy(other.networks["discriminator"].state_dict())
    checkpoints.initialize(location, other)
    for name, tensor in other.generator.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, tensor in other.networks["discriminator"].state_dict().items():
        assert torch.equal(tensor, discriminator[name]), name


def test_training_continues_from_weights_and_average_and_fine_tuning_from_the_average(
    objective, tmp_path
):
    torch.manual_seed(9)
    average, location = load("spn").generator(SPNConfig.tiny()), str(tmp_path / "averaged")
    write(location, objective, average, CONFIG, {"step": 1, "scores": {}})
    other = load("spn").objective(SPNConfig.tiny(), lambda network: network)
    theirs = load("spn").generator(SPNConfig.tiny())
    checkpoints.restore(location, other, theirs)
    for name, tensor in average.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name
    for name, tensor in objective.generator.state_dict().items():
        assert torch.equal(other.generator.state_dict()[name], tensor), name
    checkpoints.initialize(location, other)
    for name, tensor in average.state_dict().items():
        assert torch.equal(other.generator.state_dict()[name], tensor), name
    for name, tensor in objective.networks["discriminator"].state_dict().items():
        assert torch.equal(other.networks["discriminator"].state_dict()[name], tensor), name


@pytest.mark.parametrize("settings", [True, False])
def test_learning_rates_are_the_checkpoint_s_or_stay(run, settings):
    other = load("spn").objective(SPNConfig.tiny(), lambda network: network)
    [group] = other.optimizers["generator"].param_groups
    saved, group["lr"] = group["lr"], 0.125
    location = checkpoints.step_location(run, 2)
    checkpoints.restore(location, other, None, *([] if settings else [False]))
    [group] = other.optimizers["generator"].param_groups
    assert group["lr"] == (saved if settings else 0.125)
    moments = other.optimizers["generator"].state_dict()["state"][0]
    assert moments["step"] == 1


def test_only_folders_of_steps_are_steps(run):
    folder = Path(checkpoints.step_location(run, 1)).parent
    for name in ("step-000000003.partial", "4", "step-five"):
        (folder / name).mkdir()
        (folder / name / "checksums.json").write_text("{}")
    assert checkpoints.steps(run) == [1, 2]


def test_a_checkpoint_that_is_written_again_is_the_new_one(run, objective):
    location = checkpoints.step_location(run, 2)
    (Path(location) / "of-before").write_text("")
    write(location, objective, None, CONFIG, {"step": 2, "scores": {"hole_psnr": 9.0}})
    assert checkpoints.read_state(location)["scores"] == {"hole_psnr": 9.0}
    assert not (Path(location) / "of-before").exists()
    assert len(list(Path(location).parent.iterdir())) == 2


def test_a_reference_is_a_checkpoint_a_run_or_a_model_of_the_package(run):
    newest = checkpoints.step_location(run, 2)
    assert checkpoints.find(run) == newest
    first = checkpoints.step_location(run, 1)
    shutil.copytree(newest, Path(first, Path(newest).name))  # A checkpoint is no run.
    assert checkpoints.find(first) == first
    packaged = checkpoints.find("infill-base")
    assert Path(packaged).name == "infill-base"
    assert checkpoints.load_generator("infill-base").architecture == "unet"


def test_a_file_in_the_place_of_a_checkpoint_is_named_for_what_it_is(tmp_path):
    page = tmp_path / "model.pth"
    page.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(UserError, match=r"model\.pth is not a checkpoint but a web page"):
        checkpoints.find(str(page))
    torch.save({"weight": torch.zeros(1)}, page)
    with pytest.raises(UserError, match=r"model\.pth is a file of weights and not a checkpoint"):
        checkpoints.find(str(page))


def test_a_checkpoint_of_a_later_format_is_refused_by_its_place(run):
    location = checkpoints.step_location(run, 2)
    state = Path(location, "state.json")
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 99}))
    sums = Path(location, "checksums.json")
    listed = json.loads(sums.read_text())
    listed["state.json"] = hashlib.sha256(state.read_bytes()).hexdigest()
    sums.write_text(json.dumps(listed))
    with pytest.raises(UserError, match="99") as refused:
        checkpoints.read_state(location)
    assert f"the checkpoint {location}" in str(refused.value)


def test_a_loaded_generator_comes_with_its_settings_and_digest(run):
    loaded = checkpoints.load_generator(run)
    location = checkpoints.step_location(run, 2)
    assert loaded.config == SPNConfig.tiny()
    assert (loaded.step, loaded.image_size_px) == (2, 32)
    assert loaded.digest == checkpoints.digest(location)


def test_a_wrong_field_or_device_is_named(objective, tmp_path):
    location = checkpoints.step_location(str(tmp_path), 1)
    config = {**CONFIG, "model": {**CONFIG["model"], "num_blocks": "many"}}
    write(location, objective, None, config, {"step": 1, "scores": {}})
    with pytest.raises(UserError, match=rf"{location}: model.num_blocks"):
        checkpoints.load_generator(location)
    with pytest.raises(UserError, match="nowhere"):
        checkpoints.load_generator(location, "nowhere")


def test_a_checkpoint_in_a_store_is_whole_only_when_its_last_file_is_there(
    bucket, objective, monkeypatch
):
    """Written over another one of the same step, as by a run that was resumed."""
    location = checkpoints.step_location(bucket, 1)
    write(location, objective, None, CONFIG, {"step": 1, "scores": {}})
    assert checkpoints.find(bucket) == location
    store = storage.write

    def stop(path, data):
        if path.endswith("state.json"):
            raise OSError("cut")
        return store(path, data)

    monkeypatch.setattr(storage, "write", stop)
    with pytest.raises(OSError, match="cut"):
        write(location, objective, None, CONFIG, {"step": 1, "scores": {}})
    with pytest.raises(UserError):
        checkpoints.find(bucket)
    monkeypatch.setattr(storage, "write", store)
    digest = write(location, objective, None, CONFIG, {"step": 1, "scores": {}})
    assert checkpoints.verify(checkpoints.find(bucket)) == digest
