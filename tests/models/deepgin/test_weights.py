"""DeepGIN's released names, and the predictions of imported weights."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infill.models.architecture import Released
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import Discriminators, Generator
from infill.models.deepgin.weights import names, read_release, write_release

LIST = Path(__file__).parents[2] / "data" / "state_dicts" / "deepgin.json"


def released_tensors() -> dict[str, Tensor]:
    """Return both files' tensors, each a view of one number of its own."""
    shapes = {k: s for part in json.loads(LIST.read_text()).values() for k, s in part.items()}
    return {
        name: torch.tensor(float(index)).expand(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def test_released_names_and_shapes_are_exactly_ours() -> None:
    config = DeepGINConfig()
    with torch.device("meta"):
        networks = {"generator": Generator(config), "discriminator": Discriminators(config)}
    for role, network in networks.items():
        shapes = {names(role)[k]: list(v.shape) for k, v in network.state_dict().items()}
        assert shapes == json.loads(LIST.read_text())[role]


def test_released_tensors_come_back_unchanged() -> None:
    there = released_tensors()
    ours = read_release(there)
    assert ours.config == DeepGINConfig()
    back = write_release(ours)
    assert back.keys() == there.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in there.items())


@torch.no_grad()
def test_imported_weights_predict_what_the_released_network_predicts() -> None:
    spec = importlib.util.spec_from_file_location("ref", Path(__file__).with_name("reference.py"))
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    torch.manual_seed(0)
    own = Generator(replace(DeepGINConfig(), channels=8, initial_gain=1.0)).double()
    released = write_release(
        Released(config=DeepGINConfig(channels=8), states={"generator": own.state_dict()})
    )
    read = read_release(released)
    generator = Generator(read.config).double().eval()
    generator.load_state_dict(read.states["generator"])
    image = torch.rand(2, 3, 64, 80, dtype=torch.float64)
    mask = torch.zeros(2, 1, 64, 80, dtype=torch.float64)
    mask[0, :, 10:40, 20:60] = 1
    mask[1, :, :, 70:] = 1
    predicted = generator(image * 2 - 1, mask)
    expected = reference.released_forward(released, image, mask)
    for name in ("final", "unclipped", "coarse", "small"):
        torch.testing.assert_close(
            getattr(predicted, name), getattr(expected, name), rtol=1e-9, atol=1e-9
        )


@torch.no_grad()
def test_weights_of_seven_channels_are_read_written_and_see_the_label_map_last() -> None:
    spec = importlib.util.spec_from_file_location("ref", Path(__file__).with_name("reference.py"))
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    torch.manual_seed(0)
    config = DeepGINConfig(channels=8, initial_gain=1.0, segmentation_guided=True)
    own = Generator(config).double()
    released = write_release(Released(config=config, states={"generator": own.state_dict()}))
    for name in ("lr_coarse_tinker.1.weight", "r_en_conv1.weight"):
        assert released[name].shape == (8, 7, 7, 7)
    read = read_release(released)
    assert read.config == DeepGINConfig(channels=8, segmentation_guided=True)
    generator = Generator(read.config).double().eval()
    generator.load_state_dict(read.states["generator"])
    image, labels = torch.rand(2, 1, 3, 64, 64, dtype=torch.float64)
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    mask[..., 10:40, 20:60] = 1
    predicted = generator(image * 2 - 1, mask, labels * 2 - 1)
    expected = reference.released_forward(released, image, mask, labels)
    for name in ("final", "unclipped", "coarse", "small"):
        torch.testing.assert_close(
            getattr(predicted, name), getattr(expected, name), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("name", ["r_md_mres5.fusion5.conv.bias", "layer0.4.module.weight_u"])
def test_what_is_missing_misshapen_or_left_over_is_named(name: str) -> None:
    there = released_tensors()
    with pytest.raises(ValueError, match=f"lacks 1 tensor, first {name}"):
        read_release({key: value for key, value in there.items() if key != name})
    with pytest.raises(ValueError, match=f"{name} should have the shape"):
        read_release({**there, name: torch.zeros(1, 7)})
    with pytest.raises(ValueError, match=r"1 tensor too many, first extra"):
        read_release({**there, "extra": torch.zeros(1)})


def test_one_file_or_named_networks_are_taken_and_nothing_else() -> None:
    there = released_tensors()
    generator = {k: v for k, v in there.items() if not k.startswith("layer")}
    assert list(read_release(generator).states) == ["generator"]
    assert list(read_release({"netG": generator}).states) == ["generator"]
    with pytest.raises(ValueError, match="empty"):
        read_release({})
    with pytest.raises(ValueError, match=r"lacks lr_coarse_tinker\.1\.weight"):
        read_release({"other": torch.zeros(1)})


def test_ablations_were_never_released() -> None:
    config = DeepGINConfig(back_projection=False)
    with torch.device("meta"):
        state = Generator(config).state_dict()
    with pytest.raises(ValueError, match="never released"):
        write_release(Released(config=config, states={"generator": state}))
