"""Released weights, by the published lists of names and shapes, to ours and back."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.architecture import Released
from infill.models.deepfill.config import DeepFillConfig
from infill.models.deepfill.networks import Critics, Generator
from infill.models.deepfill.weights import (
    configuration_of,
    from_released,
    read_release,
    write_release,
)

LISTS = Path(__file__).parents[2] / "data" / "state_dicts"


def released(form: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = json.loads((LISTS / f"deepfill_{form}.json").read_text())
    return {name: torch.rand(shape) - 0.5 for name, shape in shapes.items()}


@pytest.mark.parametrize("form", ["tensorflow", "port"])
def test_every_released_tensor_goes_to_ours_and_back_unchanged(form: str) -> None:
    there = released(form)
    read = read_release(there)
    Generator(DeepFillConfig()).load_state_dict(read.states["generator"])
    back = write_release(read)
    assert set(back) == set(there)
    assert all(torch.equal(back[name], tensor) for name, tensor in there.items())


def test_ours_goes_to_tensorflow_and_back_unchanged() -> None:
    torch.manual_seed(0)
    config = DeepFillConfig(channels=4, image_size_px=64, local_size_px=32)
    ours = {
        "generator": Generator(config).state_dict(),
        "discriminator": Critics(config).state_dict(),
    }
    there = write_release(Released(config=config, states=ours))
    back = from_released(there)
    for role, state in ours.items():
        assert set(back[role]) == set(state)
        assert all(torch.equal(back[role][name], tensor) for name, tensor in state.items())
    read = configuration_of(there)
    assert (read.channels, read.image_size_px, read.local_size_px) == (4, 64, 32)


def test_critics_of_the_released_file_fit_the_paper_s_sizes() -> None:
    states = from_released(released("tensorflow"))
    Critics(DeepFillConfig()).load_state_dict(states["discriminator"])


def test_arrays_and_names_without_output_numbers_are_taken_too() -> None:
    there = released("tensorflow")
    arrays = {name.removesuffix(":0"): tensor.numpy() for name, tensor in there.items()}
    assert isinstance(arrays["inpaint_net/conv1/kernel"], np.ndarray)
    ours, again = from_released(there)["generator"], from_released(arrays)["generator"]
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_each_file_gets_the_configuration_it_was_trained_with() -> None:
    assert configuration_of(released("tensorflow")) == DeepFillConfig.released()
    assert configuration_of(released("port")) == DeepFillConfig.port()


@torch.no_grad()
def test_blue_green_red_kernels_do_the_same_on_red_green_blue_images() -> None:
    there = released("tensorflow")
    ours = from_released(there)["generator"]
    image = torch.rand(1, 3, 8, 8)
    rest = torch.rand(1, 2, 8, 8)

    def theirs(layer: str, features: Tensor) -> Tensor:
        kernel = there[f"inpaint_net/{layer}/kernel:0"].permute(3, 2, 0, 1)
        return functional.conv2d(features, kernel, there[f"inpaint_net/{layer}/bias:0"])

    def mine(layer: str, features: Tensor) -> Tensor:
        return functional.conv2d(features, ours[f"{layer}.weight"], ours[f"{layer}.bias"])

    for layer, name in (
        ("coarse.conv1", "conv1"),
        ("refine.imagine.conv1", "xconv1"),
        ("refine.match.pm1", "pmconv1"),
    ):
        turned = torch.cat([image.flip(1), rest], 1)
        torch.testing.assert_close(mine(layer, torch.cat([image, rest], 1)), theirs(name, turned))
    for layer, name in (("coarse.merge17", "conv17"), ("refine.merge.merge17", "allconv17")):
        features = torch.rand(1, 16, 8, 8)
        torch.testing.assert_close(mine(layer, features), theirs(name, features).flip(1))


@torch.no_grad()
def test_critics_last_layers_read_maps_in_our_order() -> None:
    there = released("tensorflow")
    ours = from_released(there)["discriminator"]
    maps = torch.rand(2, 512, 8, 8)
    theirs = maps.permute(0, 2, 3, 1).flatten(1) @ there["discriminator/dout_local_fc/kernel:0"]
    mine = maps.flatten(1) @ ours["window.head.weight"].T
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("form", ["tensorflow", "port"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (72, 128)])
def test_imported_weights_predict_what_the_released_network_predicts(
    form: str, height: int, width: int
) -> None:
    spec = importlib.util.spec_from_file_location("ref", Path(__file__).with_name("reference.py"))
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    torch.manual_seed(5)
    shapes = json.loads((LISTS / f"deepfill_{form}.json").read_text())
    there = {}
    for name, shape in shapes.items():
        inputs = shape[:-1] if form == "tensorflow" else shape[1:]
        deviation = 0.1 if len(shape) == 1 else float(np.prod(inputs)) ** -0.5
        if "discriminator" not in name:
            there[name] = torch.randn(shape, dtype=torch.float64) * deviation
    read = read_release(there)
    generator = Generator(read.config).double().eval()
    generator.load_state_dict(read.states["generator"])
    image = torch.rand(2, 3, height, width, dtype=torch.float64) * 2 - 1
    mask = torch.zeros(2, 1, height, width, dtype=torch.float64)
    mask[0, :, 16:40, 16:48] = 1
    mask[1, :, 5:21, 30:61] = 1
    predicted = generator(image, mask)
    final, coarse = reference.released_forward(there, form, image, mask)
    for picture in (final, coarse):
        assert picture.std() > 0.01
        assert (picture.abs() < 1).double().mean() > 0.2
    torch.testing.assert_close(predicted.coarse, coarse, rtol=0, atol=1e-9)
    torch.testing.assert_close(predicted.final, final, rtol=0, atol=1e-7)


def test_missing_misshapen_and_left_over_tensors_are_named() -> None:
    there = released("port")
    lacking = {k: v for k, v in there.items() if k != "fine_generator.allconv12.conv.bias"}
    with pytest.raises(ValueError, match=r"1 missing.*fine_generator\.allconv12\.conv\.bias"):
        from_released(lacking)
    with pytest.raises(ValueError, match=r"1 left over.*fine_generator\.extra"):
        from_released({**there, "fine_generator.extra": torch.zeros(1)})
    wrong = {**there, "coarse_generator.conv3.conv.bias": torch.zeros(63)}
    with pytest.raises(ValueError, match=r"conv3\.conv\.bias.*\(64,\).*\(63,\)"):
        from_released(wrong)
    with pytest.raises(ValueError, match="something"):
        from_released({"something": torch.zeros(1)})


def test_states_that_are_not_the_released_networks_are_refused() -> None:
    read = read_release(released("tensorflow"))
    with pytest.raises(ValueError, match="discriminator"):
        write_release(replace(read, config=DeepFillConfig.port()))
    del read.states["generator"]["coarse.conv3.bias"]
    with pytest.raises(ValueError, match=r"coarse\.conv3\.bias"):
        write_release(read)
