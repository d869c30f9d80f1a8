import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.networks import Discriminator, Generator
from infill.models.pennet.weights import from_released, names, read_release, write_release

RELEASE = Path(__file__).parents[2] / "data" / "state_dicts" / "pennet.json"


def released_shapes() -> dict[str, dict[str, list[int]]]:
    return json.loads(RELEASE.read_text())


def released_checkpoint() -> dict[str, dict[str, Tensor]]:
    """Return the authors' names and shapes, each tensor a view of one number of its own."""
    return {
        network: {
            name: torch.tensor(float(index)).expand(shape)
            for index, (name, shape) in enumerate(shapes.items())
        }
        for network, shapes in released_shapes().items()
    }


def test_released_names_and_shapes_are_exactly_ours() -> None:
    with torch.device("meta"):
        networks = {
            "netG": ("generator", Generator(PENNetConfig())),
            "netD": ("discriminator", Discriminator(PENNetConfig())),
        }
    for theirs, (role, network) in networks.items():
        state = network.state_dict()
        translated = {names(role)[name]: list(tensor.shape) for name, tensor in state.items()}
        assert translated == released_shapes()[theirs]


def test_released_checkpoint_comes_back_unchanged() -> None:
    checkpoint = released_checkpoint()
    ours = from_released(checkpoint)
    assert set(ours) == {"generator", "discriminator"}
    back = write_release(Released(config=PENNetConfig(), states=ours))
    assert back.keys() == checkpoint.keys()
    for network, state in checkpoint.items():
        assert back[network].keys() == state.keys()
        assert all(torch.equal(back[network][name], state[name]) for name in state)


def test_our_networks_come_back_unchanged_and_predict_with_what_was_read() -> None:
    config = PENNetConfig.tiny()
    states = {
        "generator": Generator(config).state_dict(),
        "discriminator": Discriminator(config).state_dict(),
    }
    back = from_released(write_release(Released(config=config, states=states)))
    for role, network in (
        ("generator", Generator(config)),
        ("discriminator", Discriminator(config)),
    ):
        network.load_state_dict(back[role])
        assert list(back[role]) == list(states[role])
        assert all(torch.equal(back[role][name], states[role][name]) for name in states[role])


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128)])
def test_imported_weights_predict_what_the_released_network_predicts(
    reference: ModuleType, height: int, width: int
) -> None:
    own = Generator(PENNetConfig(channels=8)).double()
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.15)
    released = write_release(
        Released(config=PENNetConfig(), states={"generator": own.state_dict()})
    )
    read = read_release(released)
    generator = Generator(read.config).double().eval()
    generator.load_state_dict(read.states["generator"])
    image = torch.rand(2, 3, height, width, dtype=torch.float64) * 2 - 1
    mask = torch.zeros(2, 1, height, width, dtype=torch.float64)
    mask[0, :, 16:48, 16:48] = 1
    mask[1, :, 3:20, 30:61] = 1
    predicted = generator(image, mask)
    expected, pyramid = reference.released_forward(released["netG"], image, mask)
    assert expected.std() > 0.01
    torch.testing.assert_close(predicted.final, expected, rtol=0, atol=1e-7)
    for ours, theirs in zip(predicted.pyramid, pyramid, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("network", "role"), [("netG", "generator"), ("netD", "discriminator")])
def test_one_file_makes_one_role_bare_or_named(network: str, role: str) -> None:
    checkpoint = released_checkpoint()
    for file in ({network: checkpoint[network]}, checkpoint[network]):
        assert list(from_released(file)) == [role]


def test_each_part_lands_where_the_released_network_uses_it() -> None:
    translated = {**names("generator"), **names("discriminator")}
    for ours, theirs in {
        "encoder.0.weight": "dw_conv01.0.weight",
        "encoder.5.bias": "dw_conv06.0.bias",
        "fillers.1.refinement.0.weight": "at_conv04.conv00.0.weight",
        "fillers.4.refinement.3.bias": "at_conv01.conv03.0.bias",
        "decoder.0.weight": "up_conv05.0.weight",
        "decoder.4.weight": "up_conv01.0.weight",
        "heads.0.weight": "torgb5.0.weight",
        "last.weight": "decoder.0.weight",
        "out.bias": "classifier.bias",
        "convs.3.weight": "encoder.6.weight_orig",
        "convs.1.v": "encoder.2.weight_v",
    }.items():
        assert translated[ours] == theirs
    assert names("generator")["out.bias"] == "decoder.2.bias"


@pytest.mark.parametrize("network", ["netG", "netD"])
def test_what_is_missing_misshapen_or_left_over_is_named(network: str) -> None:
    checkpoint, role = released_checkpoint(), dict(netG="generator", netD="discriminator")[network]
    name = "up_conv03.0.bias" if network == "netG" else "encoder.4.weight_u"
    state = checkpoint[network]
    without = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ValueError, match=f"{role} lacks 1 tensor, first {name}"):
        from_released({network: without})
    with pytest.raises(ValueError, match=rf"{role}: {name} should have the shape"):
        from_released({network: {**state, name: torch.zeros(3)}})
    with pytest.raises(ValueError, match=f"{role} has 1 tensor too many, first extra"):
        from_released({network: {**state, "extra": torch.zeros(3)}})


def test_what_is_no_checkpoint_of_pen_net_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match="'netG' or 'netD', not 'optimG'"):
        from_released({**released_checkpoint(), "optimG": {}})
    with pytest.raises(ValueError, match="this is empty"):
        from_released({})
    with pytest.raises(ValueError, match=r"lacks dw_conv01\.0\.weight"):
        from_released({"netG": {}})


def test_ablations_and_unknown_roles_have_no_released_form() -> None:
    plain = Generator(PENNetConfig(channels=4, attention="none"))
    with pytest.raises(ValueError, match=r"generator lacks 32 tensors, first fillers"):
        write_release(Released(config=PENNetConfig(), states={"generator": plain.state_dict()}))
    with pytest.raises(ValueError, match="no 'critic'"):
        write_release(Released(config=PENNetConfig(), states={"critic": {}}))
