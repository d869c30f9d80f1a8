"""Images of intermediate results: each shows what its name says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infill.models import architecture
from infill.models.deepfill.flow import attention_flow
from infill.models.visualize import LABEL_COLOURS, clustered, heat, labelled, middle_of, tiles

every_architecture = pytest.mark.parametrize("name", architecture.names())


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def example() -> tuple[Tensor, Tensor]:
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:44, 12:40] = 1
    return image, mask


@every_architecture
def test_pictures_are_in_range_and_end_with_the_final_one(name: str) -> None:
    paper = architecture.load(name)
    generator = paper.generator(paper.config.tiny()).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    assert len(shown) >= (3 if paper.has_paper else 1)
    assert list(shown)[-1] == "final"
    for title, picture in shown.items():
        assert picture.shape[:2] == (1, 3), title
        assert picture.dtype == torch.float32, title
        assert picture.abs().max() <= 1, title
        assert not picture.requires_grad, title
    with torch.no_grad():
        assert torch.equal(shown["final"], generator(image, mask).final)


@every_architecture
def test_pictures_never_show_what_the_hole_hides(name: str) -> None:
    paper = architecture.load(name)
    generator = paper.generator(paper.config.tiny()).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    other = paper.intermediate_results(generator, torch.where(mask.bool(), -image, image), mask)
    assert all(torch.equal(shown[title], other[title]) for title in shown)


def test_pen_net_s_heat_is_the_attention_of_the_hole_s_middle() -> None:
    paper = architecture.load("pennet")
    generator = paper.generator(paper.config.tiny()).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    down, right = middle_of(mask)
    for level, weights in generator.attention(image, mask).items():
        height, width = weights.shape[1:3]
        looked = weights[0, int(down * height), int(right * width)]
        assert torch.equal(shown[f"attention, level {level}"], heat(looked))
        # Keys that touch the hole are black.
        hidden = looked == 0
        assert (shown[f"attention, level {level}"][0][:, hidden] == -1).all()
    assert (generator.attention(image, mask)[1] == 0).any()


def test_deepfill_s_flow_is_that_of_its_attention() -> None:
    paper = architecture.load("deepfill")
    config = paper.config.tiny()
    generator = paper.generator(config).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    expected = attention_flow(generator.most_attended(image, mask))
    assert torch.equal(shown["attention flow"], expected)
    without = replace(config, attention=replace(config.attention, kind="none"))
    assert list(paper.intermediate_results(paper.generator(without).eval(), image, mask)) == [
        "coarse",
        "final",
    ]


def test_madf_s_kernels_are_those_of_the_position() -> None:
    paper = architecture.load("madf")
    generator = paper.generator(paper.config.tiny()).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    assert {"kernels, known", "kernels, rim", "kernels, hole"} <= set(shown)
    kernels = generator.kernels(mask, 1, 16, 13)[0]
    first = (kernels[0, :3] / kernels[:, :3].abs().max()).detach()
    assert torch.equal(shown["kernels, hole"][0, :, 0, 0], first[:, 0, 0])
    assert not torch.equal(shown["kernels, hole"], shown["kernels, known"])
    whole = paper.intermediate_results(generator, image, torch.zeros_like(mask))
    assert "kernels, hole" not in whole


def test_spn_samples_differ_and_repeat() -> None:
    paper = architecture.load("spn")
    config = replace(paper.config.tiny(), variant="probabilistic")
    generator = paper.generator(config).eval()
    for parameter in generator.prior_learner.latent_encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    image, mask = example()
    shown, again = (paper.intermediate_results(generator, image, mask) for _ in range(2))
    samples = [shown[f"sample {index}"] for index in (1, 2, 3, 4)]
    assert all(not torch.equal(samples[0], other) for other in samples[1:])
    assert all(torch.equal(shown[title], again[title]) for title in shown)


def test_groups_are_those_the_features_were_made_of() -> None:
    groups = torch.randint(0, 8, (12, 9))
    groups[0, :8] = torch.arange(8)
    centres = torch.eye(8) * 10
    features = centres[groups].permute(2, 0, 1) + 0.1 * torch.randn(8, 12, 9)
    found = clustered(features)
    for group in range(8):
        assert len(found[groups == group].unique()) == 1
    sizes = torch.bincount(found.flatten())
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert torch.equal(found, clustered(features))


def test_one_colour_is_one_group() -> None:
    assert clustered(torch.ones(3, 4, 4)).unique().tolist() == [0]


def test_labels_and_heat_are_coloured_as_specified() -> None:
    picture = labelled(torch.tensor([[0, 7]]))
    for place, label in enumerate((0, 7)):
        levels = ((picture[0, :, 0, place] + 1) * 127.5).round().int().tolist()
        assert tuple(levels) == LABEL_COLOURS[label]
    warm = heat(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))[0, :, 0].T
    assert warm.tolist() == [[-1, -1, -1], [1, -1, -1], [1, 1, -1], [1, 1, 1]]
    assert (heat(torch.zeros(2, 2)) == -1).all()


def test_tiles_are_laid_out_row_by_row() -> None:
    pictures = [torch.full((3, 1, 1), value) for value in (0.1, 0.2, 0.3)]
    sheet = tiles(pictures, columns=2, cell_px=2)
    assert sheet.shape == (1, 3, 5, 5)
    assert sheet[0, 0, 0].tolist() == pytest.approx([0.1, 0.1, -1, 0.2, 0.2])
    assert sheet[0, 0, 3].tolist() == pytest.approx([0.3, 0.3, -1, -1, -1])


def test_middle_of_a_ring_is_a_position_of_the_ring() -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 5:15, 5:15] = 1
    mask[..., 7:13, 7:13] = 0
    row, column = (int(share * 20) for share in middle_of(mask))
    assert mask[0, 0, row, column] == 1
    assert middle_of(torch.zeros(1, 1, 4, 4)) == (0.5, 0.5)


@torch.no_grad()
def test_every_sample_of_spn_stands_after_the_prior_that_it_was_made_from() -> None:
    paper = architecture.load("spn")
    config = replace(paper.config.tiny(), variant="probabilistic")
    generator = paper.generator(config).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    names = [name for name in shown if "sample" in name]
    pairs = [(f"prior of sample {n}", f"sample {n}") for n in range(1, 5)]
    assert names == [name for pair in pairs for name in pair]
    noise = generator.sample_noise(image, 4, seed=0)
    finest = generator.prior_pyramid(image, mask, noise)[-1]
    assert shown["prior of sample 1"].shape == (1, 3, 64, 64)
    expected = labelled(clustered(finest[2]))
    assert torch.equal(shown["prior of sample 3"], expected)
    assert not torch.equal(finest[0], finest[1])


@torch.no_grad()
def test_pennet_s_features_are_those_that_fill_the_skip_connections() -> None:
    paper = architecture.load("pennet")
    generator = paper.generator(paper.config.tiny()).eval()
    image, mask = example()
    shown = paper.intermediate_results(generator, image, mask)
    levels = {level: shown[f"features, level {level}"].shape[-1] for level in range(5, 0, -1)}
    assert levels == {5: 2, 4: 4, 3: 8, 2: 16, 1: 32}
    filled = generator.filled(image, mask)
    assert torch.equal(shown["features, level 2"], heat(filled[2][0].abs().mean(0)))
    vanilla = paper.generator(replace(paper.config.tiny(), attention="none")).eval()
    unfilled = vanilla.filled(image, mask)
    assert torch.equal(unfilled[1], vanilla.encode(image, mask)[1][-1])
