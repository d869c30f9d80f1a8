import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from infill.models.architecture import Released
from infill.models.madf import weights
from infill.models.madf.config import MADFConfig
from infill.models.madf.networks import Generator

FOLDER = Path(__file__).parents[2] / "data" / "state_dicts"
every_release = pytest.mark.parametrize("num_refinements", [0, 1, 2])


def released_shapes(num_refinements: int) -> dict[str, list[int]]:
    """Return the authors' names and shapes."""
    return json.loads((FOLDER / f"madf_k{num_refinements}.json").read_text())


def released_checkpoint(num_refinements: int, prefix: str = "") -> dict[str, Tensor]:
    """Return a checkpoint of the published size whose tensors are views of one number each."""
    shapes = released_shapes(num_refinements)
    return {
        prefix + name: torch.tensor(float(index)).expand(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def numbered(generator: Generator) -> Generator:
    """Give every tensor of a generator values of its own, statistics too."""
    source = torch.Generator().manual_seed(4)
    for name, tensor in generator.state_dict().items():
        if tensor.is_floating_point():
            predicted = torch.rand(tensor.shape, generator=source, dtype=torch.float64)
            positive = "running_var" in name
            tensor.copy_(predicted + 0.5 if positive else (predicted - 0.5) * 0.6)
    return generator


def written(config: MADFConfig, generator: Generator) -> dict[str, Tensor]:
    states = {"generator": generator.state_dict()}
    return weights.write_release(Released(config=config, states=states))


@every_release
def test_released_names_and_shapes_are_exactly_ours(num_refinements: int) -> None:
    config = MADFConfig(num_refinements=num_refinements)
    names, shapes = weights.released_names(config), weights.generator_shapes(config)
    assert {names[ours]: list(shape) for ours, shape in shapes.items()} == released_shapes(
        num_refinements
    )


@every_release
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_released_checkpoint_comes_back_unchanged(num_refinements: int, prefix: str) -> None:
    checkpoint = released_checkpoint(num_refinements, prefix)
    read = weights.read_release(checkpoint)
    with torch.device("meta"):
        generator = Generator(MADFConfig(num_refinements=num_refinements))
    assert read.states["generator"].keys() == generator.state_dict().keys()
    assert len(read.aside) == 35
    back = weights.write_release(read)
    expected = released_checkpoint(num_refinements)
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(back[name], tensor), name


@every_release
def test_configuration_is_read_off_the_checkpoint(num_refinements: int) -> None:
    found = weights.configuration_of(released_checkpoint(num_refinements))
    assert found == MADFConfig(num_refinements=num_refinements)


def test_whole_training_file_is_read_and_its_vgg_set_aside() -> None:
    checkpoint = released_checkpoint(1, "module.model.")
    checkpoint["module.extractor.enc_1.0.weight"] = torch.zeros(64, 3, 3, 3)
    read = weights.read_release({"model": checkpoint})
    assert weights.write_release(read).keys() == released_checkpoint(1).keys()


@pytest.mark.parametrize("num_refinements", [0, 1, 2, 3])
def test_imported_checkpoint_predicts_what_the_released_network_predicts(
    reference: ModuleType, example: Callable[..., tuple[Tensor, Tensor]], num_refinements: int
) -> None:
    config = replace(MADFConfig.tiny(), num_refinements=num_refinements)
    own = numbered(Generator(config).double())
    released = written(config, own)
    assert len(released) == len(weights.released_names(config))
    generator = Generator(config).double().eval()
    generator.load_state_dict(weights.from_released(released)["generator"])
    image, mask = (part.double() for part in example(64, 96))
    with torch.no_grad():
        outputs = generator(image, mask).outputs
        colours = generator.colours(image)
        expected = reference.released_forward(released, colours, (1 - mask).expand(-1, 3, -1, -1))
    assert len(outputs) == len(expected) == num_refinements + 1
    for output, picture in zip(outputs, expected, strict=True):
        assert (output - picture).abs().max() < 1e-9 * picture.abs().max()


def test_dead_norms_are_carried_where_they_are_asked_for() -> None:
    config = replace(MADFConfig.tiny(), dead_norms=True)
    generator = numbered(Generator(config))
    released = written(config, generator)
    assert torch.equal(
        released["enc_conv_2.bn.running_var"], generator.encoder.dead_norms[1].running_var
    )
    read = weights.read_release(released)
    assert "encoder.dead_norms.1.running_var" not in read.states["generator"]
    back = weights.write_release(read)
    assert all(torch.equal(back[name], tensor) for name, tensor in released.items())


def test_dead_norms_nobody_kept_are_written_as_they_were_born() -> None:
    released = written(MADFConfig.tiny(), Generator(MADFConfig.tiny()))
    assert torch.equal(released["enc_conv_5.bn.weight"], torch.ones(16))
    assert torch.equal(released["enc_conv_5.bn.bias"], torch.zeros(16))


def test_missing_left_over_and_misshapen_tensors_are_named() -> None:
    checkpoint = released_checkpoint(1)
    del checkpoint["att_conv_3.conv.0.bias"]
    with pytest.raises(ValueError, match=r"lacks 1 .*att_conv_3\.conv\.0\.bias"):
        weights.from_released(checkpoint)
    checkpoint = released_checkpoint(1) | {"dec_ref0_8.deconv.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"1 tensor too many, first dec_ref0_8\.deconv\.bias"):
        weights.from_released(checkpoint)
    checkpoint = released_checkpoint(1) | {"deconv_4.0.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"deconv_4\.0\.bias .*\(256,\), not \(3,\)"):
        weights.from_released(checkpoint)


def test_our_own_missing_and_left_over_tensors_are_named() -> None:
    read = weights.read_release(released_checkpoint(1))
    ours = read.states["generator"]
    lacking = {name: ours[name] for name in ours if name != "recovery.2.merge.weight"}
    with pytest.raises(ValueError, match=r"lacks 1 .*recovery\.2\.merge\.weight"):
        weights.write_release(replace(read, states={"generator": lacking}))
    more = ours | {"recovery.9.merge.weight": torch.ones(1)}
    with pytest.raises(ValueError, match=r"too many, first recovery\.9\.merge\.weight"):
        weights.write_release(replace(read, states={"generator": more}))
    with pytest.raises(ValueError, match="a generator alone, not generator, discriminator"):
        weights.write_release(replace(read, states={**read.states, "discriminator": {}}))


def test_another_paper_s_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a released checkpoint of MADF.*enc_up_1"):
        weights.from_released({"encoder_conv1.weight": torch.zeros(3)})
