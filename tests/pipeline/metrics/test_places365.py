import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.pipeline.metrics.places365 import PlacesClassifier

PUBLISHED = {
    # torchvision's 11,689,512 and 25,557,032 with 365 in place of 1,000 classes.
    "resnet18": 11_689_512 - (1000 - 365) * (512 + 1),
    "resnet50": 25_557_032 - (1000 - 365) * (2048 + 1),
}


@pytest.fixture(scope="module")
def network() -> PlacesClassifier:
    torch.manual_seed(3)
    return PlacesClassifier("resnet18")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_torchvisions_with_365_classes(name: str):
    with torch.device("meta"):
        count = sum(p.numel() for p in PlacesClassifier(name).parameters())
    assert count == PUBLISHED[name]


def test_names_and_shapes_are_those_of_the_public_files():
    with torch.device("meta"):
        shallow = PlacesClassifier("resnet18").state_dict()
        deep = PlacesClassifier("resnet50").state_dict()
    # Convolutions have a weight and five tensors of normalisation each; the last layer has two.
    assert len(shallow) == 20 * 6 + 2
    assert len(deep) == 53 * 6 + 2
    assert tuple(shallow["layer1.0.conv1.weight"].shape) == (64, 64, 3, 3)
    assert tuple(shallow["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1)
    assert "layer1.0.downsample.0.weight" not in shallow
    assert tuple(shallow["fc.weight"].shape) == (365, 512)
    assert tuple(deep["conv1.weight"].shape) == (64, 3, 7, 7)
    assert tuple(deep["layer1.0.conv3.weight"].shape) == (256, 64, 1, 1)
    assert tuple(deep["layer1.0.downsample.1.running_var"].shape) == (256,)
    assert tuple(deep["layer4.2.conv2.weight"].shape) == (512, 512, 3, 3)
    assert tuple(deep["fc.weight"].shape) == (365, 2048)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_file_tells_which_resnet_it_is(name: str):
    torch.manual_seed(1)
    saved = {
        key: value
        for key, value in PlacesClassifier(name).state_dict().items()
        if not key.endswith("num_batches_tracked")  # PyTorch 0.2 wrote none
    }
    loaded = PlacesClassifier.from_tensors(saved)
    assert torch.equal(loaded.fc.weight, saved["fc.weight"])
    with pytest.raises(RuntimeError, match="Missing"):
        PlacesClassifier.from_tensors({k: v for k, v in saved.items() if k != "bn1.running_mean"})


def normed(state: dict[str, Tensor], name: str, maps: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (maps - mean) / (variance + 1e-5).sqrt() * weight + bias


def test_a_block_of_resnet_50_strides_in_its_convolution_of_side_3():
    torch.manual_seed(4)
    block = PlacesClassifier("resnet50").layer2[0]
    maps, state = torch.rand(1, 256, 8, 8), block.state_dict()
    main = normed(state, "bn1", functional.conv2d(maps, state["conv1.weight"])).clamp(min=0)
    main = functional.conv2d(main, state["conv2.weight"], stride=2, padding=1)
    main = normed(state, "bn2", main).clamp(min=0)
    main = normed(state, "bn3", functional.conv2d(main, state["conv3.weight"]))
    beside = functional.conv2d(maps, state["downsample.0.weight"], stride=2)
    expected = (main + normed(state, "downsample.1", beside)).clamp(min=0)
    assert torch.allclose(block(maps), expected, atol=1e-5)


def test_pictures_are_resized_to_256_px_cut_to_224_and_normalised(network):
    picture = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = (picture[0, 16:240, 16:240].numpy() / 255 - mean) / deviation
    image = torch.from_numpy(seen).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        assert network.maps(image).shape == (1, 512, 7, 7)
        assert torch.allclose(network(picture), network.maps(image).mean(dim=(2, 3)), atol=1e-4)
        small = network(torch.full((2, 40, 64, 3), 90, dtype=torch.uint8))
        large = network(torch.full((1, 300, 500, 3), 90, dtype=torch.uint8))
    assert torch.allclose(small, large.expand(2, -1), atol=1e-4)


def test_probabilities_are_the_softmax_of_the_last_layer(network):
    features = np.random.default_rng(0).normal(size=(3, 512))
    weight, bias = network.fc.weight.double().numpy(), network.fc.bias.double().numpy()
    exponents = np.exp(features @ weight.T + bias)
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    assert np.allclose(network.probabilities(features), expected, rtol=1e-3)
