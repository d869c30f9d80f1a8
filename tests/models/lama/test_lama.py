"""LaMa: published sizes, the released network's pictures and names, losses by hand."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch, Released
from infill.models.lama.config import LaMaConfig
from infill.models.lama.networks import Discriminator, FourierUnit, Generator
from infill.models.lama.objective import LaMaObjective, distances
from infill.models.lama.perceptual import DilatedResNet, load_encoder
from infill.models.lama.weights import names, networks_of, read_release, write_release

TINY = LaMaConfig.tiny()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def numbered(network: nn.Module) -> nn.Module:
    """Give every tensor values of its own, statistics too."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            predicted = torch.rand_like(tensor)
            tensor.copy_(predicted + 0.5 if "running_var" in name else (predicted - 0.5) * 0.6)
    return network


def released(config: LaMaConfig) -> tuple[dict[str, Tensor], Generator]:
    generator = numbered(Generator(config).double()).eval()
    states = {
        "generator": generator.state_dict(),
        "discriminator": numbered(Discriminator(config.discriminator_channels)).state_dict(),
    }
    return write_release(Released(config=config, states=states)), generator


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 40), (24, 56)])
@torch.no_grad()
def test_imported_weights_predict_what_the_released_network_predicts(
    height: int, width: int
) -> None:
    spec = importlib.util.spec_from_file_location("lama", Path(__file__).with_name("reference.py"))
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    file, _ = released(TINY)
    read = read_release({"state_dict": file})
    generator = Generator(read.config).double().eval()
    generator.load_state_dict(read.states["generator"])
    image = torch.rand(2, 3, height, width, dtype=torch.float64)
    mask = torch.zeros(2, 1, height, width, dtype=torch.float64)
    mask[..., 4:12, 3:9] = 1
    predicted = (generator(image * 2 - 1, mask).final + 1) / 2
    expected = reference.released_forward(file, image, mask)
    assert expected.std() > 0.01
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-10)


def test_every_tensor_comes_back_and_the_configuration_is_read_off() -> None:
    config = LaMaConfig(channels=8, num_blocks=3, global_share=0.5, discriminator_channels=6)
    file, _ = released(config)
    aside = {"loss_resnet_pl.impl.conv1.weight": torch.zeros(1), "val_evaluator.x": torch.zeros(1)}
    read = read_release({**file, **aside})
    expected = replace(LaMaConfig(), channels=8, num_blocks=3, global_share=0.5)
    assert read.config == replace(expected, discriminator_channels=6)
    back = write_release(read)
    assert back.keys() == {**file, **aside}.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in file.items())
    alone = {name: tensor for name, tensor in file.items() if name.startswith("generator")}
    assert list(read_release(alone).states) == ["generator"]


def test_reading_builds_each_network_twice_whatever_the_number_of_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[LaMaConfig] = []

    class Counted(Generator):
        def __init__(self, config: LaMaConfig) -> None:
            built.append(config)
            super().__init__(config)

    file, _ = released(TINY)
    monkeypatch.setattr("infill.models.lama.weights.Generator", Counted)
    assert len(read_release(file).states["generator"]) == len(file) - 32
    assert len(built) == 3  # once for the shapes, once for the names of each role


def test_big_lama_has_the_public_checkpoint_s_layers() -> None:
    config = LaMaConfig()
    tables = {role: names(role, config) for role in ("generator", "discriminator")}
    shapes = {
        tables[role][name]: tuple(tensor.shape)
        for role, network in networks_of(config).items()
        for name, tensor in network.state_dict().items()
    }
    for name, shape in {
        "generator.model.1.ffc.convl2l.weight": (64, 4, 7, 7),
        "generator.model.4.ffc.convl2g.weight": (384, 256, 3, 3),
        "generator.model.4.bn_g.running_mean": (384,),
        "generator.model.5.conv1.ffc.convg2g.conv1.0.weight": (192, 384, 1, 1),
        "generator.model.5.conv1.ffc.convg2g.fu.conv_layer.weight": (384, 384, 1, 1),
        "generator.model.22.conv2.ffc.convg2g.conv2.weight": (384, 192, 1, 1),
        "generator.model.22.conv2.bn_l.num_batches_tracked": (),
        "generator.model.24.weight": (512, 256, 3, 3),
        "generator.model.31.bias": (64,),
        "generator.model.34.weight": (3, 64, 7, 7),
        "discriminator.model0.0.weight": (64, 3, 4, 4),
        "discriminator.model4.1.weight": (512,),
        "discriminator.model5.0.weight": (1, 512, 4, 4),
    }.items():
        assert shapes[name] == shape, name


def test_missing_misshapen_and_left_over_tensors_are_named() -> None:
    file, _ = released(TINY)
    name = "generator.model.5.conv2.bn_g.bias"
    with pytest.raises(ValueError, match=f"lacks 1 tensor, first {name}"):
        read_release({key: value for key, value in file.items() if key != name})
    with pytest.raises(ValueError, match=f"{name} should have the shape"):
        read_release({**file, name: torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 tensor too many, first extra"):
        read_release({**file, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="not a released checkpoint of LaMa"):
        read_release({"other": torch.zeros(1)})


@torch.no_grad()
def test_one_pixel_reaches_the_whole_frame_in_one_unit() -> None:
    unit, image = FourierUnit(4).eval(), torch.randn(1, 4, 12, 10)
    changed = image.clone()
    changed[0, 0, 3, 4] += 1
    assert ((unit(image) - unit(changed))[0].abs().amax(0) > 1e-5).all()


def batch() -> Batch:
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24, 8:20] = 1
    return Batch(image=image, mask=mask)


def test_only_known_pixels_cost_l1() -> None:
    objective, one = LaMaObjective(TINY), batch()
    image = (one.image + 1) / 2
    wrong_in_the_hole = torch.where(one.mask.bool(), 1 - image, image)
    losses = objective.generator_losses(wrong_in_the_hole, image, one.mask)
    assert losses["known"] == 0
    off = objective.generator_losses(image + 0.1 * (1 - one.mask), image, one.mask)
    share = 1 - one.mask.mean().item()
    assert off["known"].item() == pytest.approx(10 * 0.1 * share, rel=1e-4)


def test_pictures_outside_the_hole_count_as_original() -> None:
    objective, one = LaMaObjective(TINY), batch()
    discriminator = objective.networks["discriminator"].eval()
    image = (one.image + 1) / 2
    predicted = torch.rand_like(image)
    losses = objective.discriminator_losses(predicted, image, one.mask)
    real, fake = discriminator(image)[0], discriminator(predicted)[0]
    hole = functional.interpolate(one.mask, fake.shape[2:], mode="nearest")
    assert 0 < hole.mean() < 1
    expected = -functional.logsigmoid(real).mean()
    fake_losses = -hole * functional.logsigmoid(-fake) - (1 - hole) * functional.logsigmoid(fake)
    torch.testing.assert_close(losses["discriminator"], expected + fake_losses.mean())


def test_penalty_is_the_squared_slope_at_originals() -> None:
    objective, one = LaMaObjective(replace(TINY, penalty_weight=3.0)), batch()
    discriminator = objective.networks["discriminator"].double().eval()
    image = ((one.image + 1) / 2).double()
    penalty = objective.discriminator_losses(image, image, one.mask.double())["penalty"]
    slope = torch.zeros(2, dtype=torch.float64)
    for sample in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: discriminator(x)[0].sum(), image[sample : sample + 1]
        )
        slope[sample] = jacobian.square().sum()
    torch.testing.assert_close(penalty, 3.0 * slope.mean())


def test_equal_pictures_match_in_every_feature() -> None:
    objective, one = LaMaObjective(TINY), batch()
    objective.networks["discriminator"].eval()
    image = (one.image + 1) / 2
    assert objective.generator_losses(image, image, one.mask)["matching"] == 0
    maps = (torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 1, 1))
    others = (torch.full((1, 2, 2, 2), 2.0), torch.ones(1, 1, 1, 1))
    assert [one.item() for one in distances(maps, others)] == [4.0, 1.0]


def test_encoder_has_the_public_layout_and_halves_three_times() -> None:
    with torch.device("meta"):
        network = DilatedResNet()
        maps = network(torch.zeros(1, 3, 64, 64))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert [one.shape[1:] for one in maps] == [
        *((256, 16, 16), (512, 8, 8), (1024, 8, 8), (2048, 8, 8))
    ]
    assert shapes["conv3.weight"] == (128, 64, 3, 3)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 128, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    dilations = [
        block.conv2.dilation[0] for stage in (network.layer3, network.layer4) for block in stage
    ]
    assert dilations == [1, 2, 2, 2, 2, 2, 2, 4, 4]


def test_encoder_s_file_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    network = DilatedResNet()
    torch.save({**network.state_dict(), "fc.weight": torch.zeros(1)}, path)
    read = load_encoder(str(path), None)
    assert torch.equal(read.layer2[1].conv1.weight, network.layer2[1].conv1.weight)
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    with pytest.raises(ValueError, match="SHA-256"):
        load_encoder(str(path), "0" * 64)
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match="first bn1"):
        load_encoder(str(path), None)
    with pytest.raises(ValueError, match="no file"):
        load_encoder(str(tmp_path / "nothing"), None)
    with pytest.raises(ValueError, match="perceptual_weights"):
        LaMaObjective(replace(TINY, perceptual_weight=30.0))


def test_perceptual_loss_is_there_when_asked_for() -> None:
    config = replace(TINY, perceptual_weight=2.0, perceptual_weights="random")
    objective, one = LaMaObjective(config), batch()
    losses = objective.step(one)
    assert losses["perceptual"] > 0
    image = (one.image + 1) / 2
    assert objective.generator_losses(image, image, one.mask)["perceptual"] == 0


def test_discriminator_learns_from_the_updated_generator_unless_told_otherwise() -> None:
    """As released; the generator's own losses and gradients do not depend on it."""
    found = {}
    for again in (True, False):
        torch.manual_seed(1)
        objective = LaMaObjective(replace(TINY, generates_again=again, learning_rate=0.1))
        seen: list[Tensor] = []
        original = objective.discriminator_losses

        def watched(predicted: Tensor, *rest: Tensor, keep=seen, then=original) -> dict:
            keep.append(predicted)
            return then(predicted, *rest)

        objective.discriminator_losses = watched
        torch.manual_seed(2)
        one = batch()
        losses = objective.step(one)
        found[again] = (losses, seen[0], objective.generator(one.image, one.mask).final)
    for name in ("known", "adversarial", "matching"):
        assert torch.equal(found[True][0][name], found[False][0][name])
    assert not torch.equal(found[True][0]["discriminator"], found[False][0]["discriminator"])
    updated = (found[True][2] + 1) / 2  # in training mode, with the statistics of this batch
    torch.testing.assert_close(found[True][1], updated)
    assert not torch.allclose(found[False][1], updated, atol=1e-3)


def test_without_adversarial_and_matching_losses_there_is_no_discriminator() -> None:
    image, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., 8:16, 8:16] = 1
    weights = {"adversarial_weight": 0.0, "matching_weight": 0.0}
    objective = LaMaObjective(replace(TINY, hole_weight=1.0, **weights))
    assert set(objective.networks) == set(objective.optimizers) == {"generator"}
    assert set(objective.step(Batch(image=image, mask=mask))) == {"known", "hole"}
    for name in weights:
        kept = LaMaObjective(replace(TINY, **(weights | {name: 1.0})))
        assert "discriminator" in kept.networks


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"channels": 0}, "channels"),
        ({"global_share": 1.0}, "global_share"),
        ({"matching_weight": -1.0}, "matching_weight"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_impossible_numbers_are_refused(fields: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LaMaConfig(**fields)
