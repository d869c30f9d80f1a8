"""Every kind of file that people bring as weights: read, or named for what it is."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from infill.models.vgg import load_features
from infill.models.weight_files import WeightFileError, network_of, read_weights
from infill.pipeline import checkpoints
from infill.pipeline.errors import UserError
from infill.pipeline.registry import RegistryConfig, resolve


class Settings(dict[str, Any]):
    """A class of another package, as Lightning keeps hyperparameters."""


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4)))


def state() -> dict[str, Tensor]:
    return {k: v for k, v in network().state_dict().items() if v.is_floating_point()}


def rezipped(path: Path) -> None:
    """Pack a file of PyTorch as a person does who has unpacked it."""
    with zipfile.ZipFile(path) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("__MACOSX/._weights", b"\0\5")
        for name, data in parts.items():
            packed.writestr(f"weights/{name}", data)


def write(kind: str, path: Path) -> None:
    tensors, module = state(), network()
    hyper = Settings(rate=0.1)
    epochs = {"epoch": 3, "pytorch-lightning_version": "2.1", "hyper_parameters": hyper}
    if kind == "torchscript":
        torch.jit.trace(module.eval(), torch.zeros(1, 3, 8, 8)).save(str(path))
        return
    if kind == "safetensors":
        save_file(tensors, path)
        return
    contents: Any = {
        "lightning": {**epochs, "state_dict": tensors},
        "module prefix": {f"module.{name}": value for name, value in tensors.items()},
        "compiled": {"model": {f"_orig_mod.module.{n}": v for n, v in tensors.items()}},
        "whole module": module,
        "half": {"state_dict": {name: value.half() for name, value in tensors.items()}},
        "ema": {
            "params": {name: value * 0 for name, value in tensors.items()},
            "params_ema": tensors,
        },
        "flat ema": {
            "state_dict": {f"g.{n}": v * 0 for n, v in tensors.items()}
            | {f"g_ema.{n}": v for n, v in tensors.items()}
        },
        "averaged": AveragedModel(module).state_dict(),
        "legacy": {"state_dict": tensors, "settings": hyper},
        "zipped folder": tensors,
    }[kind]
    torch.save(contents, path, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "zipped folder":
        rezipped(path)


KINDS = (
    "torchscript",
    "safetensors",
    "lightning",
    "module prefix",
    "compiled",
    "whole module",
    "half",
    "ema",
    "flat ema",
    "averaged",
    "legacy",
    "zipped folder",
)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_same_tensors(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    write(kind, path)
    found = network_of(read_weights(path))
    for name, tensor in state().items():
        read = found[f"g.{name}" if kind == "flat ema" else name]
        assert read.dtype == torch.float32
        tolerance = 1e-3 if kind == "half" else 0
        torch.testing.assert_close(read, tensor, rtol=0, atol=tolerance)
    assert not any("ema" in name or name.startswith("module.") for name in found)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (bytes(5000), "only zeros: its download was not finished"),
        (b"\x93NUMPY" + bytes(90), "one array of NumPy"),
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "web page.*browser"),
        (b"\xef\xbb\xbf\n <html>", "web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML answer of a server"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "git lfs pull"),
        (json.dumps({"weight_map": {}}).encode(), "text that begins with"),
        (b"404: Not Found", "text that begins with '404: Not Found'"),
        (b"\x1f\x8b\x08" + bytes(40), "packed by gzip"),
        (b"\x89HDF\r\n" + bytes(40), "HDF5.*npz"),
        (b"PK\x03\x04" + bytes(40), "damaged: the zip has no end"),
        (bytes(range(128, 256)) * 4, "damaged"),
    ],
)
def test_what_is_not_weights_is_named_with_what_to_do(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=sentence) as raised:
        read_weights(path)
    assert str(path) in str(raised.value)
    assert "weights_only" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_truncated_files_are_damaged_and_nothing_advises_to_run_them(tmp_path: Path) -> None:
    write("lightning", tmp_path / "whole.ckpt")
    data = (tmp_path / "whole.ckpt").read_bytes()
    for size in range(1, len(data), 97):
        (tmp_path / "cut.ckpt").write_bytes(data[:size])
        with pytest.raises(WeightFileError, match=r"cut\.ckpt") as raised:
            read_weights(tmp_path / "cut.ckpt")
        assert "weights_only" not in str(raised.value)


def test_folders_and_zips_of_other_files_list_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "gen.pth").write_bytes(b"x")
    with pytest.raises(WeightFileError, match=r"folder, which holds gen\.pth"):
        read_weights(tmp_path / "release")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as packed:
        packed.writestr("release/gen.pth", b"x")
        packed.writestr("release/config.yaml", b"x")
    with pytest.raises(WeightFileError, match=r"zip that holds release/gen\.pth, release/config"):
        read_weights(tmp_path / "release.zip")


def test_a_zip_that_inflates_far_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zeros.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("weights/data.pkl", b"")
        packed.writestr("weights/data/0", bytes(130_000_000))
    with pytest.raises(WeightFileError, match="inflates to 130,"):
        read_weights(tmp_path / "zeros.pth")


def test_objects_without_tensors_are_named_by_their_class(tmp_path: Path) -> None:
    torch.save({"model": Settings()}, tmp_path / "settings.pth")
    with pytest.raises(WeightFileError, match=r"no tensors but an object of .*Settings"):
        read_weights(tmp_path / "settings.pth")


def test_losses_read_their_networks_from_the_same_kinds_of_files(tmp_path: Path) -> None:
    plain = load_features(16, ("relu1_1",), "random").state_dict()
    wrapped = {f"module.{name}": value.double() for name, value in plain.items()}
    torch.save({"state_dict": wrapped, "settings": Settings()}, tmp_path / "vgg.ckpt")
    found = load_features(16, ("relu1_1",), str(tmp_path / "vgg.ckpt")).state_dict()
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor)
    (tmp_path / "page.pth").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="web page"):
        load_features(16, ("relu1_1",), str(tmp_path / "page.pth"))


def test_a_file_in_the_place_of_a_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state(), "gen.pth")
    Path("page.pth").write_bytes(b"<html>")
    for reader in (checkpoints.find, lambda name: resolve(RegistryConfig(), name)):
        with pytest.raises(UserError, match=r"import_weights\.py ARCHITECTURE --from .*gen\.pth"):
            reader("gen.pth")
        with pytest.raises(UserError, match="not a checkpoint but a web page"):
            reader("page.pth")
