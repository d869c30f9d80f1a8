from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.pennet import attention as attention_module
from infill.models.pennet.attention import AttentionTransfer, PatchSwap, blocks_of, shrink
from infill.models.pennet.config import PENNetConfig

FORMS = {
    "released": {},
    "released floor": {"attention_floor": 1e-8},
    "cosine": {"normalise_queries": True},
    "known keys only": {"hidden_keys": "excluded"},
    "cosine of known keys": {"normalise_queries": True, "hidden_keys": "excluded"},
    "nearest mask": {"mask_resize": "nearest"},
    "largest mask": {"mask_resize": "largest"},
}


def transfer_of(kernel_size: int = 3, channels: int = 4, **form: object) -> AttentionTransfer:
    return AttentionTransfer(channels, kernel_size, False, PENNetConfig(**form))


def random_maps(height: int, width: int, requires_grad: bool = False) -> tuple[Tensor, ...]:
    """Return maps of odd sizes for four masks: some hole, no hole, all hole, one pixel."""
    generator = torch.Generator().manual_seed(4)
    deeper = torch.rand(4, 3, height, width, generator=generator, dtype=torch.float64) - 0.4
    shallow = torch.rand(4, 2, 2 * height, 2 * width, generator=generator, dtype=torch.float64)
    mask = torch.zeros(4, 1, 8 * height, 8 * width, dtype=torch.float64)
    mask[0, :, : 4 * height, 3 * width : 6 * width] = 1
    mask[2] = 1
    mask[3, :, 4, 4] = 1
    return shallow.requires_grad_(requires_grad), deeper.requires_grad_(requires_grad), mask


def reference_form(form: dict) -> dict:
    return {
        "resize": form.get("mask_resize", "bilinear"),
        "scale": form.get("softmax_scale", 10.0),
        "normalise_queries": form.get("normalise_queries", False),
        "excluded": form.get("hidden_keys") == "excluded",
        "floor": form.get("attention_floor", 0.0),
    }


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(7, 5), (1, 1), (1, 4), (6, 11)])
def test_attention_and_gradients_equal_unfolded_patches_one_sample_at_a_time(
    form: dict, kernel_size: int, height: int, width: int, reference
) -> None:
    shallow, deeper, mask = random_maps(height, width, requires_grad=True)
    filled = transfer_of(kernel_size, **form).transfer(shallow, deeper, mask)
    expected = reference.transfer(shallow, deeper, mask, kernel_size, **reference_form(form))
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-12)

    weight = torch.rand_like(expected)
    found = torch.autograd.grad((filled * weight).sum(), (shallow, deeper))
    wanted = torch.autograd.grad((expected * weight).sum(), (shallow, deeper))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_blocks_of_queries_make_no_difference(monkeypatch, reference) -> None:
    shallow, deeper, mask = random_maps(11, 3, requires_grad=True)
    monkeypatch.setattr(attention_module, "PAIRS_PER_BLOCK", 1)
    filled = transfer_of().transfer(shallow, deeper, mask)
    expected = reference.transfer(shallow, deeper, mask, 3)
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad(filled.square().sum(), (shallow, deeper))
    wanted = torch.autograd.grad(expected.square().sum(), (shallow, deeper))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pairs", [1, 11 * 25 * 5, 11 * 25 * 11, 11 * 25 * 23, 10**9])
def test_blocks_cover_every_row_of_every_sample_once_and_keep_to_their_size(pairs: int) -> None:
    seen = torch.zeros(5, 11)
    for samples, top, rows in blocks_of(5, 11, 3, pairs):
        part = seen[samples, top : top + rows]
        assert part.shape[1] == rows
        assert rows <= 4 or len(part) * rows * 11 * 25 <= pairs
        part += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("form", [{}, {"normalise_queries": True}])
def test_gradients_of_the_attention_are_its_slopes(form: dict) -> None:
    shallow, deeper, mask = random_maps(2, 3, requires_grad=True)
    shallow, deeper = shallow[:1].detach(), deeper[:1].detach()
    layer = transfer_of(**form)
    assert torch.autograd.gradcheck(
        lambda *maps: layer.transfer(*maps, mask[:1]),
        (shallow.requires_grad_(), deeper.requires_grad_()),
    )


@pytest.mark.parametrize(
    ("form", "kernel_size", "means", "corner", "first", "second", "last"),
    [
        (
            {"attention_floor": 1e-8},
            3,
            (0.3808390691, 0.4662007138),
            *(0.2096009536, 0.4376148639, 0.7217996551, -0.2277302393),
        ),
        (
            {"attention_floor": 1e-8},
            1,
            (0.2693854974, 0.2835331602),
            *(-0.0376116650, 0.2650314133, 0.3954384963, -0.1009503891),
        ),
        ({}, 3, (0.3808390677, 0.4662007098), None, 0.4376148725, None, None),
        (
            {"normalise_queries": True},
            3,
            (0.3429076898, 0.4050469098),
            *(None, 0.3797386592, None, None),
        ),
        (
            {"hidden_keys": "excluded"},
            3,
            (0.3808475195, 0.4662094697),
            *(None, 0.4376190619, None, None),
        ),
        (
            {"hidden_keys": "excluded", "normalise_queries": True},
            3,
            (0.3437421634, 0.4052587901),
            *(None, 0.3812474740, None, None),
        ),
    ],
)
def test_measured_values_of_the_released_attention(
    form, kernel_size, means, corner, first, second, last, golden_maps
) -> None:
    filled = transfer_of(kernel_size, **form).transfer(*golden_maps)
    found = filled.abs().mean(dim=(1, 2, 3)).tolist()
    assert found == pytest.approx(means, abs=5e-10)
    places = {(0, 0, 0, 0): corner, (0, 1, 5, 7): first, (1, 3, 10, 2): second}
    for place, value in {**places, (1, 2, 15, 15): last}.items():
        assert value is None or filled[place].item() == pytest.approx(value, abs=5e-10)
    single = transfer_of(kernel_size, **form).transfer(*(part.float() for part in golden_maps))
    torch.testing.assert_close(single.double(), filled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kernel_size", "counts"), [(3, [28, 44]), (1, [48, 52])])
def test_keys_that_touch_the_hole_are_left_out(kernel_size, counts, golden_maps) -> None:
    keys, _ = transfer_of(kernel_size).match(*golden_maps)
    assert (keys.scale > 0).sum(dim=(1, 2)).tolist() == counts


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("size", "kernel_size", "count"), [(4, 1, 12), (8, 3, 28), (16, 3, 156), (32, 3, 700)]
)
def test_a_centred_hole_leaves_the_published_number_of_keys(
    size: int, kernel_size: int, count: int, resize: str
) -> None:
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 64:192, 64:192] = 1
    layer = transfer_of(kernel_size, mask_resize=resize)
    keys, _ = layer.match(torch.zeros(1, 4, 2 * size, 2 * size), torch.ones(1, 1, size, size), mask)
    assert (keys.scale > 0).sum() == count


def test_similar_only_to_itself_every_patch_returns_home() -> None:
    shallow = torch.randn(1, 4, 12, 20, dtype=torch.float64)
    deeper = 1000 * torch.randn(1, 16, 6, 10, dtype=torch.float64)
    mask = torch.zeros(1, 1, 24, 40, dtype=torch.float64)
    ring = torch.full((12, 20), 1.0, dtype=torch.float64)
    ring[[0, -1]] *= 0.5
    ring[:, [0, -1]] *= 0.5
    filled = transfer_of().transfer(shallow, deeper, mask)
    torch.testing.assert_close(filled, shallow * ring, rtol=0, atol=1e-6)
    averaged = transfer_of(overlap="mean").transfer(shallow, deeper, mask)
    torch.testing.assert_close(averaged, shallow, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_frame_that_is_all_hole_is_filled_with_nothing(form: dict) -> None:
    shallow, deeper, mask = random_maps(4, 4, requires_grad=True)
    filled = transfer_of(**form).transfer(shallow, deeper, mask)[2]
    limit = 16 * form.get("attention_floor", 0.0) * shallow.abs().max()
    assert filled.abs().max() <= limit
    gradients = torch.autograd.grad(filled.sum(), (shallow, deeper))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_an_empty_patch_has_a_finite_gradient() -> None:
    shallow, deeper, mask = random_maps(4, 4)
    deeper = torch.zeros_like(deeper).requires_grad_()
    transfer_of().transfer(shallow, deeper, mask).sum().backward()
    assert deeper.grad.isfinite().all()


def test_features_only_hidden_keys_hold_do_not_matter() -> None:
    shallow, deeper, _ = random_maps(8, 8)
    mask = torch.zeros(4, 1, 64, 64, dtype=torch.float64)
    mask[..., 16:48, 16:48] = 1
    layer = transfer_of()
    keys, _ = layer.match(shallow, deeper, mask)
    # A pixel is free to change if none of the 4 x 4 patches over it belongs to a known key.
    known = (keys.scale > 0).view(4, 1, 8, 10)[..., :8].float()
    covered = functional.conv_transpose2d(known, torch.ones(1, 1, 4, 4), stride=2, padding=1)
    other = torch.where(covered > 0, shallow, 99.0)
    assert (other != shallow).any()
    assert torch.equal(layer.transfer(other, deeper, mask), layer.transfer(shallow, deeper, mask))


def test_filling_only_the_hole_keeps_the_rest() -> None:
    shallow, deeper, mask = random_maps(8, 8)
    everywhere = transfer_of().transfer(shallow, deeper, mask)
    filled = transfer_of(filled="hole").transfer(shallow, deeper, mask)
    hole = functional.interpolate(mask, (16, 16), mode="bilinear", align_corners=True)
    torch.testing.assert_close(filled, hole * everywhere + (1 - hole) * shallow)
    assert torch.equal(filled[1], shallow[1])


def test_same_layer_attention_compares_the_map_itself(reference) -> None:
    shallow, deeper, mask = random_maps(5, 4)
    filled = transfer_of(attention="same_layer").transfer(shallow, deeper, mask)
    expected = reference.transfer(shallow, shallow[:, :, ::2, ::2], mask, 3)
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_weights_for_pictures_are_the_attention_itself(kernel_size: int, reference) -> None:
    shallow, deeper, mask = random_maps(5, 4)
    weights = transfer_of(kernel_size).weights(shallow, deeper, mask)
    assert weights.shape == (4, 5, 4, 5, 4)
    for sample, high, hole in zip(weights, deeper, mask, strict=True):
        known = reference.known_keys(hole, (5, 4), kernel_size, "bilinear")
        expected = reference.attention(high, known, kernel_size)
        torch.testing.assert_close(sample.reshape(20, 20), expected, rtol=0, atol=1e-12)


def test_refinement_concatenates_four_dilated_views() -> None:
    layer = AttentionTransfer(8, 3, True, PENNetConfig()).double()
    shallow = torch.rand(2, 8, 16, 16, dtype=torch.float64)
    deeper, mask = torch.rand(2, 3, 8, 8).double(), torch.zeros(2, 1, 64, 64).double()
    filled, refined = layer.transfer(shallow, deeper, mask), layer(shallow, deeper, mask)
    for index, rate in enumerate((1, 2, 4, 8)):
        conv = layer.refinement[index]
        view = functional.conv2d(filled, conv.weight, conv.bias, padding=rate, dilation=rate)
        torch.testing.assert_close(refined[:, 2 * index : 2 * index + 2], view.relu())


def test_only_the_largest_resize_sees_a_thin_hole() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 5] = 1
    seen = {
        resize: bool(shrink(mask, (4, 4), resize).any())
        for resize in ("bilinear", "nearest", "largest")
    }
    assert seen == {"bilinear": False, "nearest": False, "largest": True}


def test_scores_stay_in_full_precision_under_autocast() -> None:
    shallow, deeper, mask = (part.float() for part in random_maps(8, 8))
    layer = transfer_of()
    exact = layer.weights(shallow, 5 * deeper, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer.weights(shallow, 5 * deeper, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


@pytest.mark.parametrize(("height", "width"), [(7, 5), (9, 12)])
def test_patch_swap_equals_a_search_patch_by_patch(height: int, width: int, reference) -> None:
    _, features, mask = random_maps(height, width, requires_grad=True)
    swapped = PatchSwap(PENNetConfig())(features, features, mask)
    expected = reference.patch_swap(features, mask)
    torch.testing.assert_close(swapped, expected, rtol=0, atol=1e-12)
    (found,) = torch.autograd.grad(swapped.square().sum(), features)
    (wanted,) = torch.autograd.grad(expected.square().sum(), features)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert torch.equal(swapped[1], features[1])  # no hole
    assert torch.equal(swapped[2], features[2])  # no known patch


def test_patch_swap_leaves_known_positions_alone() -> None:
    _, features, mask = random_maps(9, 12)
    swapped = PatchSwap(replace(PENNetConfig(), mask_resize="nearest"))(features, features, mask)
    known = (mask[:, :, ::8, ::8] == 0).expand_as(features)
    assert torch.equal(swapped[known], features[known])
    assert not torch.equal(swapped[0], features[0])
