"""Released files, in their authors' names, become checkpoints that everything else accepts."""

import hashlib
import io
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from infill.models.architecture import Batch, ModelConfig, Released, load, names
from infill.models.layers import at_rest
from infill.pipeline import checkpoints
from infill.pipeline.errors import UserError
from infill.pipeline.weight_import import (
    ImportConfig,
    import_weights,
    read_tensors,
    translate,
)

States = dict[str, dict[str, Tensor]]
Release = Callable[[str], tuple[Path, dict[str, nn.Module]]]
HOLE = np.zeros((64, 64), np.uint8)
HOLE[10:30, 10:30] = 255


def small(name: str) -> ModelConfig:
    """Return a configuration as narrow as the tests' and as deep as the release."""
    paper = load(name)
    if paper.paper == "none":  # Its files have the default configuration.
        return paper.config()
    config = paper.config.tiny()
    if name == "spn":
        return replace(config, teacher="random")
    if name == "deepgin":
        return replace(paper.config(), channels=4, perceptual_weights="random")
    return replace(config, num_dilated=4) if name.startswith("deepfill") else config


every_writer = pytest.mark.parametrize("name", names())


def tiny_states(name: str) -> tuple[States, dict[str, nn.Module]]:
    """Return the state dicts of untrained tiny networks, and the networks."""
    torch.manual_seed(3)
    networks = load(name).objective(small(name), lambda network: network).networks
    return {role: network.state_dict() for role, network in networks.items()}, networks


def released_file(name: str, folder: Path) -> tuple[Path, dict[str, nn.Module]]:
    """Write a file as the authors would have, of tiny networks; return these too."""
    states, networks = tiny_states(name)
    released = load(name).write_release(Released(config=small(name), states=states))
    if name.startswith("deepfill"):
        path = folder / f"{name}.npz"
        np.savez(path, **{key: tensor.numpy() for key, tensor in released.items()})
    else:
        path = folder / f"{name}.pth"
        torch.save(released, path)
    return path, networks


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Return a function that gives an architecture's file and its networks; tests only read them.

    Each file is written once.
    """

    @cache
    def write(name: str) -> tuple[Path, dict[str, nn.Module]]:
        return released_file(name, tmp_path_factory.mktemp(name))

    return write


@pytest.fixture(scope="module")
def imported(released: Release, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that gives the checkpoint of an architecture's file, for tests to read."""

    @cache
    def write(name: str) -> str:
        path, _ = released(name)
        out = str(tmp_path_factory.mktemp(name) / "imported")
        config = ImportConfig(architecture=name, weights=(str(path),), out=out, image_size_px=64)
        return import_weights(config)

    return write


def pennet_file() -> dict[str, Any]:
    states, _ = tiny_states("pennet")
    return load("pennet").write_release(Released(config=small("pennet"), states=states))


@every_writer
@torch.no_grad()
def test_imported_generator_predicts_what_the_file_s_network_predicts(
    name: str, released: Release, imported: Callable[[str], str]
) -> None:
    (path, networks), location = released(name), imported(name)
    loaded = checkpoints.load_generator(location)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 8:30] = 1
    predicted = loaded.generator(image, mask).final
    # The same weights under the switches of the release.
    own = load(name).generator(loaded.config)
    own.load_state_dict(networks["generator"].state_dict())
    torch.testing.assert_close(predicted, at_rest(own)(image, mask).final, rtol=0, atol=1e-6)
    assert predicted.std() > 0
    assert loaded.image_size_px == 64
    assert checkpoints.read_state(location)["imported_from"] == [str(path)]


@every_writer
def test_fine_tuning_starts_from_every_imported_network(
    name: str, released: Release, imported: Callable[[str], str]
) -> None:
    (_, networks), location = released(name), imported(name)
    torch.manual_seed(99)
    objective = load(name).objective(small(name), lambda network: network)
    checkpoints.initialize(location, objective)
    for role, network in objective.networks.items():
        for key, tensor in network.state_dict().items():
            if name == "deepfill2" and key.endswith(".v"):
                continue  # the file has one of a power iteration's two vectors
            torch.testing.assert_close(tensor, networks[role].state_dict()[key], msg=key)
    side = 64
    image, mask = torch.zeros(2, 3, side, side), torch.zeros(2, 1, side, side)
    mask[..., 16:48, 16:48] = 1
    keys = tuple(map(str, range(2)))
    losses = objective.step(Batch(image=image, mask=mask, keys=keys, mask_ids=keys))
    assert all(value.isfinite() for value in losses.values())


def test_nothing_resumes_from_imported_weights_as_if_they_were_a_run(
    imported: Callable[[str], str],
) -> None:
    location = imported("pennet")
    paper = load("pennet")
    objective = paper.objective(paper.config.tiny(), lambda network: network)
    with pytest.raises(UserError, match=r"optimizers\.safetensors"):
        checkpoints.restore(location, objective, None)


def test_job_takes_several_files_and_says_where_the_checkpoint_is(tmp_path: Path, run_job) -> None:
    released = pennet_file()
    files = [str(tmp_path / name) for name in ("gen_00001.pth", "dis_00001.pth")]
    for file, network in zip(files, ("netG", "netD"), strict=True):
        torch.save({network: released[network]}, file)
    out = tmp_path / "imported"
    done = run_job("import_weights", "pennet", "--from", *files, "--out", str(out))
    assert done.returncode == 0, done.stderr
    inpaint = f"python jobs/inpaint.py photo.jpg mask.png --model {out}"
    assert done.stdout.endswith(f"a checkpoint at {out}\nnext:\n  {inpaint}\n")
    assert (out / "generator.safetensors").exists()
    assert (out / "discriminator.safetensors").exists()
    checkpoints.verify(str(out))


def test_job_ends_in_one_sentence_that_names_the_tensor(tmp_path: Path, run_job) -> None:
    released = pennet_file()
    released["netG"]["extra.weight"] = torch.zeros(1)
    torch.save(released, tmp_path / "gen.pth")
    done = run_job(
        "import_weights",
        "pennet",
        "--from",
        str(tmp_path / "gen.pth"),
        "--out",
        str(tmp_path / "out"),
    )
    assert done.returncode == 1
    assert "extra.weight" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


class Intruder:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("intruder-was-here"),))


def test_a_file_that_wants_code_to_run_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"netG": Intruder()}, "gen.pth")
    Path("bare.pth").write_bytes(pickle.dumps(Intruder(), protocol=2))
    np.savez("objects.npz", weights=np.array([Intruder()], dtype=object))
    for name in ("gen.pth", "bare.pth", "objects.npz"):
        with pytest.raises(UserError, match=name):
            read_tensors(Path(name))
    assert not Path("intruder-was-here").exists()


@pytest.mark.parametrize("suffix", ["pth", "npz", "safetensors"])
def test_damaged_and_foreign_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    for content in (b"", b"not weights at all", b"PK\x03\x04" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"weights\."):
            read_tensors(path)


def test_what_lies_among_the_tensors_and_is_none_is_named(tmp_path: Path) -> None:
    released = pennet_file()
    for holder in (released["netG"], flat := dict(released["netG"])):
        holder["iteration"] = 5
        torch.save(released if holder is not flat else flat, tmp_path / "gen.pth")
        config = ImportConfig(
            architecture="pennet", weights=(str(tmp_path / "gen.pth"),), out=str(tmp_path / "o")
        )
        with pytest.raises(UserError, match=r"gen\.pth: iteration is not a tensor but of type int"):
            import_weights(config)


@pytest.mark.parametrize(
    "names", ["optimizer", "optG", "opt_d", "adam", "generator_solver", "all_of_them/g"]
)
def test_optimizer_states_of_older_pytorch_are_passed_over(names: str, tmp_path: Path) -> None:
    """Files of PyTorch 1.x count Adam's steps as integers among tensors; names are anyone's."""
    states, networks = tiny_states("madf")
    model = load("madf").write_release(Released(config=small("madf"), states=states))
    adam = {"step": 300_000, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    optimizer = {"state": {0: adam}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    name, _, inner = names.partition("/")
    kept = {inner: optimizer} if inner else optimizer
    torch.save({"n_iter": 300_000, "model": model, name: kept}, tmp_path / "madf.pth")
    config = ImportConfig(
        architecture="madf", weights=(str(tmp_path / "madf.pth"),), out=str(tmp_path / "o")
    )
    loaded = checkpoints.load_generator(import_weights(config))
    for name, tensor in networks["generator"].state_dict().items():
        assert torch.equal(loaded.generator.state_dict()[name], tensor), name


@pytest.mark.parametrize("prefix", ["model.", "netG.", "module.netG.", "trainer.generator."])
def test_prefixes_of_a_trainer_s_own_are_removed(prefix: str, tmp_path: Path) -> None:
    states, _ = tiny_states("madf")
    model = load("madf").write_release(Released(config=small("madf"), states=states))
    renamed = {prefix + name: tensor for name, tensor in model.items()}
    torch.save(renamed, tmp_path / "madf.pth")
    released = translate((str(tmp_path / "madf.pth"),), None)
    assert released.config.architecture == "madf"
    assert released.states["generator"].keys() == states["generator"].keys()
    some = dict(list(renamed.items())[1:])
    torch.save(some, tmp_path / "madf.pth")
    with pytest.raises(UserError, match="madf.pth: "):
        translate((str(tmp_path / "madf.pth"),), "madf")


@pytest.mark.parametrize(("name", "side"), [("madf", 512), ("pennet", 256), ("lama", 256)])
def test_size_that_a_file_was_trained_for_is_kept_with_it(
    name: str, side: int, released: Release, tmp_path: Path
) -> None:
    path, _ = released(name)
    config = ImportConfig(architecture=name, weights=(str(path),), out=str(tmp_path / "o"))
    assert checkpoints.load_generator(import_weights(config)).image_size_px == side


def test_discriminators_of_the_port_of_deepfill_are_refused_in_a_sentence(tmp_path: Path) -> None:
    config = replace(load("deepfill").config.port(), channels=4)
    torch.manual_seed(3)
    state = load("deepfill").generator(config).state_dict()
    torch.save(
        load("deepfill").write_release(Released(config=config, states={"generator": state})),
        tmp_path / "gen_00430000.pt",
    )
    torch.save({"localD": {"conv1.weight": torch.zeros(1)}}, tmp_path / "dis_00430000.pt")
    files = tuple(str(tmp_path / f"{network}_00430000.pt") for network in ("gen", "dis"))
    settings = {"architecture": "deepfill", "out": str(tmp_path / "o")}
    with pytest.raises(UserError, match=r"'localD' .*discriminators.*generator's file alone"):
        import_weights(ImportConfig(weights=files, **settings))
    import_weights(ImportConfig(weights=files[:1], **settings))


def test_safetensors_are_read_and_lists_refused(tmp_path: Path) -> None:
    save_file({"one": torch.ones(2)}, tmp_path / "one.safetensors")
    assert torch.equal(read_tensors(tmp_path / "one.safetensors")["one"], torch.ones(2))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": ()}, "--from"),
        ({"weights": ("nothing.pth",)}, r"no file .*nothing\.pth"),
        ({"weights": ("https://example.org/gen.pth",)}, "SHA-256"),
        ({"sha256": ("0" * 64, "1" * 64)}, "2 checksums for 1 files"),
        ({"sha256": ("0" * 64,)}, "expected 0000"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    changes: dict[str, Any], sentence: str, released: Release, tmp_path: Path
) -> None:
    path, _ = released("pennet")
    settings = {"architecture": "pennet", "weights": (str(path),), "out": str(tmp_path / "o")}
    with pytest.raises(UserError, match=sentence):
        import_weights(ImportConfig(**(settings | changes)))
    assert not (tmp_path / "o").exists()


def test_one_tensor_in_two_files_and_a_missing_generator_are_refused(
    released: Release, tmp_path: Path
) -> None:
    path, _ = released("pennet")
    settings = {"architecture": "pennet", "out": str(tmp_path / "o")}
    with pytest.raises(UserError, match="'netD', which an earlier file holds"):
        import_weights(ImportConfig(weights=(str(path), str(path)), **settings))
    discriminator = tmp_path / "dis.pth"
    torch.save({"netD": read_tensors(path)["netD"]}, discriminator)
    with pytest.raises(UserError, match="no generator"):
        import_weights(ImportConfig(weights=(str(discriminator),), **settings))


def test_checksum_of_the_file_is_compared(released: Release, tmp_path: Path) -> None:
    path, _ = released("madf")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    config = ImportConfig(
        architecture="madf", weights=(str(path),), sha256=(checksum,), out=str(tmp_path / "o")
    )
    assert checkpoints.load_generator(import_weights(config)).architecture == "madf"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_imported_checkpoint_is_evaluated_served_and_fine_tuned(
    tmp_path: Path, ray_local: None, run_job: Callable[..., Any]
) -> None:
    """The four commands a person types, one after the other, from a released file."""

    def job(name: str, *words: str) -> str:
        done = run_job(name, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    path, _ = released_file("pennet", tmp_path)
    job("import_weights", "pennet", "--from", path.name, "--image-size-px", "64")
    imported = "runs/imported/pennet"
    small = "--num-workers 0 --no-use-gpu --steps 3 --data.batch-size 2 --data.image-size-px 64"
    small += " --data.source bundled --data.loader threads --model.channels 4"
    small += " --model.discriminator-channels 4"
    said = job("train_pennet", "finetune", *small.split())
    assert f"starting from the weights of {tmp_path / imported}" in said
    checkpoints.verify(str(tmp_path / "runs/pennet-finetuned/checkpoints/step-000000003"))
    words = ("--shards", "runs/pennet-finetuned/shards/test", "--num-images", "3")
    words += ("--num-actors", "0")
    table = job("evaluate", "--checkpoint", imported, *words, "--buckets", "0.1", "0.3")
    assert re.search(r"\| all pairs +\| +pennet \|", table)
    with sending_one_request_then_interrupting() as (printed, responses):
        done = run_job("serve", "--model", imported, "--port", "0", cwd=tmp_path)
    assert done.returncode == 130
    assert re.search(r"^serving pennet@.* at http://\S+$", printed.getvalue(), re.MULTILINE)
    [response] = responses
    assert response.status_code == 200
    filled = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert (filled[HOLE == 0] == 90).all()
    assert (filled[HOLE > 0] != 90).any()


class Printed(io.StringIO):
    """The lines a job has printed; whether one was an address."""

    def __init__(self) -> None:
        super().__init__()
        self.addressed = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "http://" in text:
            self.addressed.set()
        return written


@contextmanager
def sending_one_request_then_interrupting() -> Iterator[tuple[Printed, list[httpx.Response]]]:
    """Send the service that the block starts one request, then end it as Ctrl-C does."""
    printed, responses = Printed(), list[httpx.Response]()
    files = {
        name: cv2.imencode(".png", pixels)[1].tobytes()
        for name, pixels in (("image", np.full((64, 64, 3), 90, np.uint8)), ("mask", HOLE))
    }
    ended = threading.Event()

    def send() -> None:
        printed.addressed.wait()
        if ended.is_set():
            return
        try:
            url = re.search(r"http://\S+", printed.getvalue()).group()
            responses.append(httpx.post(f"{url}/v1/inpaint", files=files, timeout=60))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    # A test run in a shell's background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with redirect_stdout(printed):
            yield printed, responses
    finally:
        ended.set()
        printed.addressed.set()
        sender.join()
        signal.signal(signal.SIGINT, before)
