import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.architecture import Batch, Released
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Discriminator, deterministic_generator
from infill.models.spn.objective import SPNObjective
from infill.models.spn.prior_teacher import build_any_teacher
from infill.models.spn.teacher import WIDTHS, build_teacher
from infill.models.spn.tresnet import (
    EPSILON,
    BlurPool,
    TResNet,
    folded,
    load_network,
    own_names,
    random_network,
    space_to_depth,
)
from infill.models.spn.weights import write_release


def numbered_network(numbers) -> TResNet:
    """Return TResNet in float64 with the weights the golden values were measured with."""
    network = TResNet().double().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            count = tensor.numel()
            if tensor.dim() > 1:
                predicted = (numbers(count, 0) - 0.5) * 2 / tensor[0].numel() ** 0.5
            elif name.endswith("running_mean"):
                predicted = 0.2 * (numbers(count, 2) - 0.5)
            elif name.endswith("running_var"):
                predicted = 0.5 + numbers(count, 3)
            elif name.endswith("weight"):
                predicted = 2 * (numbers(count, 1) - 0.5)
            else:
                predicted = 0.2 * (numbers(count, 0) - 0.5)
            tensor.copy_(predicted.view(tensor.shape))
    return network


def test_tresnet_has_the_published_parameters_and_tensors() -> None:
    network = TResNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_578_192
    assert len(list(network.parameters())) == 96
    assert len(list(network.buffers())) == 40
    assert len(network.state_dict()) == 136


@torch.no_grad()
def test_numbered_weights_see_what_the_released_teacher_sees(numbers, golden_input) -> None:
    coarse, middle, stem = numbered_network(numbers)(golden_input[0])
    assert (coarse.shape, middle.shape) == ((1, 152, 8, 8), (1, 76, 16, 16))
    found = [stat for seen in (stem, middle, coarse) for stat in (seen.mean(), seen.std())]
    expected = [0.103958, 0.166420, 0.185884, 0.254731, 0.142771, 0.201179]
    torch.testing.assert_close(torch.stack(found).tolist(), expected, rtol=0, atol=1.1e-6)
    assert stem[0, 1, 5, 5].item() == pytest.approx(-0.000702, abs=1.1e-6)


@torch.no_grad()
def test_folding_the_norms_changes_nothing(numbers, golden_input) -> None:
    network = numbered_network(numbers).float()
    seen = network(golden_input[0].float())
    faster = folded(network)
    assert sum("running" in key for key in faster.state_dict()) == 0
    for before, after in zip(seen, faster(golden_input[0].float()), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_sign_of_a_norm_s_weight_changes_nothing(numbers, golden_input) -> None:
    network = numbered_network(numbers)
    before = network(golden_input[0])
    for key, tensor in network.state_dict().items():
        if tensor.dim() == 1 and key.endswith("weight"):
            tensor.neg_()
    for first, second in zip(before, network(golden_input[0]), strict=True):
        assert torch.equal(first, second)


def test_space_to_depth_goes_by_row_then_column_then_colour() -> None:
    image = torch.arange(3 * 8 * 12.0).view(1, 3, 8, 12)
    deep = space_to_depth(image)
    for row, column, colour in ((0, 0, 0), (1, 2, 1), (3, 3, 2)):
        channel = (row * 4 + column) * 3 + colour
        assert torch.equal(deep[0, channel], image[0, colour, row::4, column::4])


def test_blur_pool_weighs_by_one_two_one() -> None:
    features = torch.rand(1, 2, 6, 6)
    blurred = BlurPool()(features)
    by_hand = sum(
        (2 - abs(row)) * (2 - abs(column)) / 16 * features[0, 1, 2 + row, 4 + column]
        for row in (-1, 0, 1)
        for column in (-1, 0, 1)
    )
    assert blurred.shape == (1, 2, 3, 3)
    torch.testing.assert_close(blurred[0, 1, 1, 2], by_hand)


def asl_checkpoint(network: TResNet) -> dict[str, object]:
    """Return a network as the ASL model zoo stores it: the whole classifier, under body."""
    state: dict[str, Tensor] = {f"body.{k}": v for k, v in network.state_dict().items()}
    state |= {
        "body.conv1.1.num_batches_tracked": torch.tensor(7),
        "body.layer3.0.conv1.0.weight": torch.zeros(304, 152, 1, 1),
        "body.layer4.0.conv1.0.weight": torch.zeros(608, 304, 1, 1),
        "head.fc.embedding_generator.0.weight": torch.zeros(2, 2),
        "head.fc.FC.weight": torch.zeros(2, 2),
    }
    return {"model": state, "num_classes": 9605, "idx_to_class": {0: "Tree"}}


def timm_names(network: TResNet) -> dict[str, Tensor]:
    """Return a network as timm stores it: other names, norms' weights already positive."""
    renamed = {}
    for key, tensor in network.state_dict().items():
        name = key.replace("layer2.0.conv1.0.", "layer2.0.conv1.")
        for index, word in (("0", "conv"), ("1", "bn")):
            for layer in ("conv1", "conv2", "downsample.1"):
                name = name.replace(f"{layer}.{index}.", f"{layer}.{word}.")
        renamed[f"body.{name}"] = tensor.abs() + EPSILON if name.endswith("bn.weight") else tensor
    return renamed


@pytest.fixture
def trained(numbers) -> TResNet:
    return numbered_network(numbers).float()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["asl", "plain", "data parallel", "timm"])
def test_every_public_form_of_the_checkpoint_is_read(
    kind: str, trained: TResNet, tmp_path: Path, golden_input
) -> None:
    plain = dict(trained.state_dict())
    file = tmp_path / "teacher.pth"
    torch.save(
        {
            "asl": asl_checkpoint(trained),
            "plain": plain,
            "data parallel": {f"module.body.{k}": v for k, v in plain.items()},
            "timm": timm_names(trained),
        }[kind],
        file,
    )
    expected = trained(golden_input[0].float())
    loaded = load_network(str(file), hashlib.sha256(file.read_bytes()).hexdigest().upper())
    for first, second in zip(expected, loaded(golden_input[0].float()), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_timm_s_names_become_the_checkpoint_s(trained: TResNet) -> None:
    ours = own_names(timm_names(trained))
    assert ours.keys() == trained.state_dict().keys()
    raw = trained.state_dict()["layer2.0.conv1.0.1.weight"].abs()
    torch.testing.assert_close(ours["layer2.0.conv1.0.1.weight"], raw, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fault", ["missing", "misshapen", "unknown"])
def test_a_tensor_that_does_not_fit_is_named(fault: str, trained: TResNet, tmp_path: Path) -> None:
    state = dict(trained.state_dict())
    if fault == "missing":
        del state["layer2.4.se.fc2.bias"]
    elif fault == "misshapen":
        state["layer2.4.se.fc2.bias"] = torch.zeros(3)
    else:
        state["layer2.4.extra.bias"] = torch.zeros(3)
    file = tmp_path / "teacher.pth"
    torch.save({"model": state}, file)
    with pytest.raises(ValueError, match=r"not TResNet-L.*layer2\.4\.(se\.fc2|extra)\.bias"):
        load_network(str(file))


def test_a_missing_or_other_file_is_refused_with_what_to_do(
    trained: TResNet, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"teacher_weights.*TResNet.*'filterbank'"):
        build_teacher(SPNConfig())
    with pytest.raises(ValueError, match="there is no file"):
        load_network(str(tmp_path / "absent.pth"))
    file = tmp_path / "teacher.pth"
    torch.save(trained.state_dict(), file)
    with pytest.raises(ValueError, match=r"teacher_sha256 is abc, but"):
        load_network(str(file), "abc")


@pytest.mark.parametrize("kind", ["random", "filterbank", "edge"])
def test_maps_are_as_wide_as_the_heads_and_coarsest_first(kind: str) -> None:
    teacher = build_teacher(replace(SPNConfig.tiny(), teacher=kind))
    maps = teacher(torch.rand(2, 3, 32, 48) * 2 - 1)
    assert tuple(seen.shape[1] for seen in maps) == WIDTHS[kind]
    finest = (16, 24) if kind == "random" else (32, 48)
    assert [tuple(seen.shape[2:]) for seen in maps] == [(8, 12), (16, 24), finest]
    assert all(not seen.requires_grad and seen.isfinite().all() for seen in maps)
    assert all(not parameter.requires_grad for parameter in teacher.parameters())
    assert all(seen.std() > 1e-3 for seen in maps)


def test_no_teacher_is_built_where_nothing_is_taught() -> None:
    assert build_teacher(SPNConfig(prior_weight=0.0)) is None


def test_a_random_teacher_is_the_same_in_every_process() -> None:
    torch.manual_seed(1)
    first = random_network()
    torch.manual_seed(2)
    second = random_network()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_filters_answer_to_their_own_orientation_and_not_to_brightness() -> None:
    teacher = build_teacher(replace(SPNConfig.tiny(), teacher="filterbank"))
    assert not teacher(torch.full((1, 3, 32, 32), 0.5))[2][:, 3:].abs().max() > 1e-6
    column = torch.arange(32.0)
    stripes = torch.sin(column * 2 * torch.pi / 4).expand(1, 3, 32, 32)
    energies = teacher(stripes)[2][0, -4:, 8:24, 8:24].mean(dim=(1, 2))
    assert energies.argmax() == 0
    turned = teacher(stripes.mT)[2][0, -4:, 8:24, 8:24].mean(dim=(1, 2))
    assert turned.argmax() == 2


def test_colours_of_the_bank_are_means_of_a_window_in_each_scale() -> None:
    teacher = build_teacher(replace(SPNConfig.tiny(), teacher="filterbank"))
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    coarse, _, fine = teacher(image)
    colours = (image + 1) / 2
    torch.testing.assert_close(fine[0, 1, 10, 20], colours[0, 1, 8:13, 18:23].mean())
    torch.testing.assert_close(coarse[0, 2, 4, 4], colours[0, 2, 8:28, 8:28].mean())


def test_edges_are_the_steepness_of_grey() -> None:
    teacher = build_teacher(replace(SPNConfig.tiny(), teacher="edge"))
    ramp = torch.linspace(-1, 1, 33)[:32].expand(1, 3, 32, 32)
    steepness = teacher(ramp)
    for level, factor in zip(steepness, (4, 2, 1), strict=True):
        expected = torch.full_like(level[..., 1:-1], factor / 32)
        torch.testing.assert_close(level[..., 1:-1], expected)


def test_the_paper_s_teacher_sees_the_image_at_twice_its_size(
    trained: TResNet, tmp_path: Path
) -> None:
    file = tmp_path / "teacher.pth"
    torch.save(asl_checkpoint(trained), file)
    config = replace(SPNConfig.tiny(), teacher="asl", teacher_weights=str(file))
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    doubled = functional.interpolate((image + 1) / 2, size=(64, 64), mode="bilinear")
    expected = trained(doubled)
    for seen, target in zip(build_teacher(config)(image), expected, strict=True):
        torch.testing.assert_close(seen, target, rtol=0, atol=1e-5)


def test_a_trained_spn_teaches_its_prior_of_the_complete_image(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(WIDTHS, "spn", (8, 4, 2))
    tiny = replace(SPNConfig.tiny(), teacher="asl")
    trained = deterministic_generator(tiny)
    states = {
        "generator": trained.state_dict(),
        "discriminator": Discriminator(tiny.channels).state_dict(),
    }
    file = tmp_path / "spn.pth"
    torch.save(write_release(Released(config=tiny, states=states)), file)
    taught = replace(tiny, teacher="spn", prior_teacher_weights=str(file), prior_levels=1)
    teacher = build_any_teacher(taught)
    assert teacher is not None
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    maps = teacher(image)
    expected = trained.eval().prior_pyramid(image, torch.zeros(1, 1, 32, 32))
    assert [one.shape[1] for one in maps] == [8, 4, 2]
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other)
    objective = SPNObjective(taught)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    losses = objective.step(Batch(image=image, mask=mask))
    assert losses["prior"].item() > 0
    with pytest.raises(ValueError, match="needs prior_teacher_weights"):
        build_any_teacher(replace(taught, prior_teacher_weights=None))
    with pytest.raises(ValueError, match="prior_teacher_sha256 is 00, but"):
        build_any_teacher(replace(taught, prior_teacher_sha256="00"))
