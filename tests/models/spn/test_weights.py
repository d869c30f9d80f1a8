import gzip
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from infill.models.architecture import Released
from infill.models.spn import weights
from infill.models.spn.architecture import ARCHITECTURE
from infill.models.spn.config import SPNConfig
from infill.models.spn.probabilistic import DiscriminatorOutput

RELEASES = {
    "spn_det": SPNConfig(),
    "spn_prob": SPNConfig(variant="probabilistic"),
    "spl": SPNConfig.spl(),
}
FOLDER = Path(__file__).parents[2] / "data" / "state_dicts"
LABELS = ("adversarial_loss.real_label", "adversarial_loss.fake_label")
VGG = tuple(
    f"vgg_loss.vgg.slice{block}.{layer}.{kind}"
    for block, layers in enumerate(((0,), (2, 5), (7, 10), (12, 14, 16, 19), (21, 23, 25, 28)), 1)
    for layer in layers
    for kind in ("weight", "bias")
)
TEACHER = ("tresnet_xL_hold.body.conv1.0.weight",)
BESIDE = {
    "spn_det": (*TEACHER, *LABELS),
    "spn_prob": (*TEACHER, *LABELS, *VGG),
    "spl": (*TEACHER, *LABELS),
}
"""What the authors' program saves beside both networks: 28 tensors with VGG, and the teacher's,
of which one stands for all."""
every_release = pytest.mark.parametrize("release", RELEASES)


def released_shapes(release: str) -> dict[str, dict[str, list[int]]]:
    """Return the authors' names and shapes, by network."""
    return json.loads(gzip.decompress((FOLDER / f"{release}.json.gz").read_bytes()))


def small_checkpoint(release: str, data_parallel: bool = True) -> dict[str, torch.Tensor]:
    """Return a checkpoint in the authors' names, filled with numbers that are all different.

    The networks are the released ones; tensors are views of one number each to save memory.
    """
    middle = ".module." if data_parallel else "."
    checkpoint = {}
    for role, shapes in released_shapes(release).items():
        for index, (name, shape) in enumerate(shapes.items()):
            number = 3 if name.startswith("features.0") else index
            if name.startswith("conv1.0") and role == "discriminator":
                number = 3
            checkpoint[f"{role}{middle}{name}"] = torch.tensor(float(number)).expand(shape)
    return checkpoint


@every_release
def test_released_names_and_shapes_are_exactly_ours(release: str) -> None:
    config = RELEASES[release]
    for role, names, network in (
        ("generator", weights.generator_names(config), weights.generator_of(config)),
        ("discriminator", weights.discriminator_names(config), weights.discriminator_of(config)),
    ):
        shapes = {
            theirs: list(tensor.shape)
            for name, tensor in network.state_dict().items()
            for theirs in names[name]
        }
        assert shapes == released_shapes(release)[role]


@every_release
@pytest.mark.parametrize("data_parallel", [True, False])
def test_released_checkpoint_comes_back_unchanged(release: str, data_parallel: bool) -> None:
    checkpoint = small_checkpoint(release, data_parallel)
    checkpoint |= {name: torch.ones(3) for name in BESIDE[release]}
    read = weights.read_release(checkpoint)
    generator = weights.generator_of(RELEASES[release])
    assert generator.state_dict().keys() == read.states["generator"].keys()
    back = weights.write_release(read)
    expected = small_checkpoint(release)
    expected |= {name: torch.ones(3) for name in BESIDE[release]}
    assert back.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(back[key], tensor), key


def test_the_probabilistic_release_saves_28_tensors_of_its_losses() -> None:
    assert len(BESIDE["spn_prob"]) - len(TEACHER) == 28


@every_release
def test_configuration_is_read_off_the_checkpoint(release: str) -> None:
    assert weights.configuration_of(small_checkpoint(release)) == RELEASES[release]


@every_release
@torch.no_grad()
def test_imported_networks_compute_what_the_released_names_say(
    release: str, reference: ModuleType
) -> None:
    config = replace(
        RELEASES[release],
        channels=4,
        num_blocks=2,
        num_dense_blocks=3,
        num_dense_layers=3,
        num_prior_blocks=2,
    )
    file = {}
    for role, names, network in (
        ("generator", weights.generator_names(config), weights.generator_of(config)),
        ("discriminator", weights.discriminator_names(config), weights.discriminator_of(config)),
    ):
        for name, tensor in network.state_dict().items():
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 4
            predicted = torch.randn(tensor.shape, dtype=torch.float64) / fan_in**0.5
            file.update({f"{role}.module.{theirs}": predicted for theirs in names[name]})
    read = weights.read_release(file)
    assert read.config == config
    colours, hole = torch.rand(2, 3, 64, 96).double(), torch.zeros(2, 1, 64, 96).double()
    hole[0, :, 10:40, 20:60] = 1
    hole[1, :, :, 70:] = 1

    generator = ARCHITECTURE.generator(config).double()
    generator.load_state_dict(read.states["generator"])
    found = generator(2 * colours - 1, hole)
    by_name = {k.removeprefix("generator.module."): v for k, v in file.items()}
    expected = reference.released_forward(by_name, colours, hole)
    torch.testing.assert_close((found.final + 1) / 2, expected.final, rtol=1e-7, atol=1e-7)
    for head, theirs in zip(found.prior, expected.heads, strict=True):
        torch.testing.assert_close(head, theirs, rtol=1e-7, atol=1e-7)

    discriminator = weights.discriminator_of(config).to_empty(device="cpu").double().eval()
    discriminator.load_state_dict(read.states["discriminator"])
    output = discriminator(2 * colours - 1)
    logits = output.logits if isinstance(output, DiscriminatorOutput) else output
    by_name = {k.removeprefix("discriminator.module."): v for k, v in file.items()}
    torch.testing.assert_close(
        logits, reference.released_judgement(by_name, colours), rtol=1e-7, atol=1e-7
    )


def test_each_part_lands_where_the_released_network_uses_it() -> None:
    names = weights.generator_names(SPNConfig())
    for ours, theirs in {
        "image_encoder.norm2.hole_gain": "encoder_in2.foreground_gamma",
        "decoder.blocks.7.spade2.shift.bias": "middle.7.conv_block.4.mlp_beta.bias",
        "decoder.blocks.0.conv2.weight": "middle.0.conv_block.7.weight",
        "decoder.rises.1.conv1.weight": "decoder.3.conv_block.2.weight",
        "decoder.rises.0.shortcut_spade.hidden.weight": "decoder.1.SPADE_s.mlp_shared.0.weight",
        "prior_learner.rises.0.merge.shortcut.bias": "feature_recon_decoder.3.shortcut.1.bias",
        "prior_learner.trunk.blocks.15.layers.5.weight": "rdbs.15.layers.5.conv.weight",
        "heads.2.weight": "feature_mapping_256.weight",
    }.items():
        assert names[ours] == (theirs,)


@every_release
def test_what_is_left_over_is_named(release: str) -> None:
    checkpoint = small_checkpoint(release)
    with pytest.raises(ValueError, match=r"1 tensor too many, first decoder\.99\.weight"):
        weights.from_released({**checkpoint, "generator.decoder.99.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"no network of SPN, first optimizer\.lr"):
        weights.from_released({**checkpoint, "optimizer.lr": torch.zeros(1)})


@every_release
def test_what_is_missing_or_misshapen_is_named(release: str) -> None:
    checkpoint = small_checkpoint(release)
    without = dict(checkpoint)
    del without["generator.module.encoder_sm_out.bias"]
    with pytest.raises(ValueError, match=r"generator lacks 1 tensor, first encoder_sm_out\.bias"):
        weights.from_released(without)
    bent = {**checkpoint, "generator.module.encoder_sm_out.bias": torch.zeros(255)}
    with pytest.raises(ValueError, match=r"encoder_sm_out\.bias should have the shape \(256,\)"):
        weights.from_released(bent)
    no_judge = {k: v for k, v in checkpoint.items() if not k.startswith("discriminator")}
    with pytest.raises(ValueError, match="discriminator lacks"):
        weights.from_released(no_judge)


def test_the_teacher_in_a_released_file_is_set_aside() -> None:
    checkpoint = small_checkpoint("spn_det")
    with_teacher = {**checkpoint, "tresnet_xL_hold.body.conv1.0.weight": torch.zeros(1)}
    assert (
        weights.from_released(with_teacher)[0].keys() == weights.from_released(checkpoint)[0].keys()
    )


def test_two_names_of_one_block_must_agree() -> None:
    checkpoint = small_checkpoint("spn_det")
    checkpoint["discriminator.module.features.0.weight_u"] = torch.ones(64)
    with pytest.raises(ValueError, match="should be the same tensor"):
        weights.from_released(checkpoint)


def test_another_file_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match=r"not a released checkpoint of SPN"):
        weights.from_released({"state": torch.zeros(1)})


def test_an_ablation_that_was_never_released_is_refused() -> None:
    with pytest.raises(ValueError, match="'concat'"):
        weights.write_release(Released(config=SPNConfig(fusion="concat"), states={}))
