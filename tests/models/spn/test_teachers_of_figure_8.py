"""The teachers of Fig. 8 that others trained: YOLOv5 and HRNet, from files of their public form."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from infill.models.spn.config import SPNConfig
from infill.models.spn.hrnet import Exchange, HRNet
from infill.models.spn.objective import SPNObjective
from infill.models.spn.teacher import WIDTHS, build_teacher
from infill.models.spn.yolo import C3, YOLOv5


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_layers_of_yolov5_l_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        layers = YOLOv5().model
    assert [parameters(layer) for layer in layers] == [7040, 73984, 156928, 295424, 1118208]


def test_names_of_yolov5_are_those_of_the_public_file() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(v.shape) for name, v in YOLOv5().state_dict().items()}
    assert shapes["model.0.conv.weight"] == (64, 3, 6, 6)
    assert shapes["model.2.cv3.conv.weight"] == (128, 128, 1, 1)
    assert shapes["model.4.m.5.cv2.conv.weight"] == (128, 128, 3, 3)
    assert shapes["model.4.m.5.cv2.bn.running_var"] == (128,)


def test_half_of_a_c3_block_passes_the_bottlenecks() -> None:
    torch.manual_seed(0)
    block, maps = C3(8, 2).eval(), torch.rand(1, 8, 6, 6)
    main = block.cv1(maps)
    for link in block.m:
        main = main + link.cv2(link.cv1(main))
    expected = block.cv3(torch.cat([main, block.cv2(maps)], dim=1))
    torch.testing.assert_close(block(maps), expected)
    conv = block.cv2
    normed = functional.conv2d(maps, conv.conv.weight) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(conv(maps), normed * torch.sigmoid(normed))


def test_hrnet_has_as_many_parameters_as_published_less_its_head() -> None:
    with torch.device("meta"):
        network = HRNet()
    head = 720 * 720 + 720 + 2 * 720 + 19 * 720 + 19
    assert round((parameters(network) + head) / 1e6, 2) in (65.85, 65.86)  # of Cityscapes


def test_names_of_hrnet_are_those_of_the_public_encoder() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(v.shape) for name, v in HRNet().state_dict().items()}
    for name, shape in {
        "conv2.weight": (64, 64, 3, 3),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.3.conv3.weight": (256, 64, 1, 1),
        "transition1.0.0.weight": (48, 256, 3, 3),
        "transition1.1.0.0.weight": (96, 256, 3, 3),
        "transition2.2.0.0.weight": (192, 96, 3, 3),
        "transition3.3.0.1.running_mean": (384,),
        "stage2.0.branches.1.3.conv2.weight": (96, 96, 3, 3),
        "stage3.3.fuse_layers.0.2.0.weight": (48, 192, 1, 1),
        "stage4.2.fuse_layers.3.0.1.0.weight": (48, 48, 3, 3),
        "stage4.2.fuse_layers.3.0.2.0.weight": (384, 48, 3, 3),
        "stage4.2.fuse_layers.3.0.2.1.weight": (384,),
    }.items():
        assert shapes[name] == shape, name
    assert not [name for name in shapes if name.startswith(("transition2.0", "transition3.2"))]


def test_branches_of_hrnet_are_summed_at_every_size() -> None:
    torch.manual_seed(0)
    module = Exchange((2, 4)).eval()
    large, small = torch.rand(1, 2, 8, 8), torch.rand(1, 4, 4, 4)
    left, right = module.branches[0](large), module.branches[1](small)
    risen = functional.interpolate(module.fuse_layers[0][1](right), scale_factor=2, mode="bilinear")
    fused = module([large, small])
    torch.testing.assert_close(fused[0], (left + risen).relu())
    halved = module.fuse_layers[1][0](left)
    torch.testing.assert_close(fused[1], (halved + right).relu())
    assert halved.min() < 0  # the last halving is not activated before the sum


def published(kind: str, file: Path) -> nn.Module:
    """Write a teacher's file as its authors do, and return its network."""
    torch.manual_seed(1)
    if kind == "detection":
        network: nn.Module = YOLOv5()
        later = {"model.5.conv.weight": torch.zeros(512, 256, 3, 3)}
        torch.save({"model": {**network.half().state_dict(), **later}, "epoch": -1}, file)
        return network.float().eval()
    network = HRNet()
    torch.save(network.state_dict(), file)
    return network.eval()


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_a_teacher_sees_the_image_at_twice_its_size_by_its_public_file(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "public.pt"
    network = published(kind, file)
    config = replace(SPNConfig.tiny(), teacher=kind, **{f"{kind}_weights": str(file)})
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    doubled = functional.interpolate((image + 1) / 2, size=(64, 96), mode="bilinear")
    teacher = build_teacher(config)
    assert teacher is not None
    maps = teacher(image)
    with torch.no_grad():
        for seen, expected in zip(maps, network(doubled), strict=True):
            torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert [seen.shape[1:] for seen in maps] == [
        (width, 8 * factor, 12 * factor)
        for width, factor in zip(WIDTHS[kind], (1, 2, 4), strict=True)
    ]
    objective = SPNObjective(config)
    assert [head.out_channels for head in objective.generator.heads] == list(WIDTHS[kind])


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_a_file_of_another_network_is_named(kind: str, tmp_path: Path) -> None:
    config = replace(SPNConfig.tiny(), teacher=kind)
    with pytest.raises(ValueError, match=f"needs {kind}_weights, the path of"):
        build_teacher(config)
    file = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(3)}, file)
    wrong = replace(config, **{f"{kind}_weights": str(file)})
    with pytest.raises(ValueError, match=rf"{kind}_weights: .*other\.pth is not .* missing or mis"):
        build_teacher(wrong)
    with pytest.raises(ValueError, match=f"{kind}_sha256 is 00, but"):
        build_teacher(replace(wrong, **{f"{kind}_sha256": "00"}))
