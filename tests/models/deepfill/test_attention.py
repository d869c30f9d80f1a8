"""The fast attention against the layer as it is described, patch by patch, in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from infill.models.deepfill.attention import (
    ContextualAttention,
    Gram,
    attend,
    corner_to_corner,
    overlaps,
)
from infill.models.deepfill.config import AttentionConfig

RELEASED = AttentionConfig(downsample="align_corners")
VARIANTS = {
    "released": RELEASED,
    "stride": AttentionConfig(),
    "no fuse": AttentionConfig(fuse=False),
    "no wrap": AttentionConfig(wrap=False),
    "cosine": AttentionConfig(normalize="both"),
    "port": AttentionConfig(norm_floor="added"),
    "neginf": AttentionConfig(masked="neginf"),
    "true count": AttentionConfig(overlap="true_count"),
}


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def reference(features: Tensor, mask: Tensor, config: AttentionConfig) -> Tensor:
    """Attend image by image, with every patch and every similarity written out."""
    return torch.stack(
        [reference_of_one(f, m[0], config) for f, m in zip(features, mask, strict=True)]
    )


def reference_of_one(features: Tensor, mask: Tensor, config: AttentionConfig) -> Tensor:
    """Take features [C, h, w] and a mask at the same size."""
    attention = reference_attention(features, mask, config)
    size = features.shape[1:]
    windows = functional.unfold(features[None], 4, stride=2, padding=1)[0].T
    laid = functional.fold((attention @ windows).T[None], size, 4, stride=2, padding=1)[0]
    if config.overlap == "fixed":
        return laid / 4
    ones = functional.fold(torch.ones_like(windows.T)[None], size, 4, stride=2, padding=1)[0]
    return laid / ones


def reference_attention(features: Tensor, mask: Tensor, config: AttentionConfig) -> Tensor:
    rows = reference_indices(features.shape[1], config)
    columns = reference_indices(features.shape[2], config)
    height, width = len(rows), len(columns)
    small, hole = features[:, rows][:, :, columns], mask[rows][:, columns]

    patches = functional.unfold(small[None], 3, padding=1)[0].T
    if config.norm_floor == "added":
        norms = (patches**2 + 1e-4).sum(1).sqrt()
    else:
        norms = torch.stack([(p @ p).clamp_min(1e-8) for p in patches]).sqrt()
    scores = patches @ patches.T / norms[None, :]
    if config.normalize == "both":
        scores = scores / norms[:, None]
    if config.fuse:
        scores = reference_fuse(scores, height, width, config.wrap)

    valid = torch.ones(height * width, dtype=features.dtype)
    for i in range(height):
        for j in range(width):
            if hole[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].any():
                valid[i * width + j] = 0
    logits = config.scale * scores * valid
    if config.masked == "neginf" and valid.any():
        logits = logits.masked_fill(valid == 0, -torch.inf)
    return logits.softmax(1) * valid


def reference_indices(size: int, config: AttentionConfig) -> list[int]:
    half = size // 2
    if config.downsample == "stride":
        return list(range(0, size, 2))
    step = (size - 1) / (half - 1) if half > 1 else 0.0
    return [int(i * step + 0.5) for i in range(half)]


def reference_fuse(scores: Tensor, height: int, width: int, wrap: bool) -> Tensor:
    if not wrap:
        return sum(
            moved_in_grid(scores, height, width, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)
        )
    kernel = torch.eye(3, dtype=scores.dtype)[None, None]
    scores = functional.conv2d(scores[None, None], kernel, padding=1)[0, 0]
    column_major = torch.tensor([i * width + j for j in range(width) for i in range(height)])
    turned = scores[column_major][:, column_major]
    turned = functional.conv2d(turned[None, None], kernel, padding=1)[0, 0]
    back = column_major.argsort()
    return turned[back][:, back]


def moved_in_grid(scores: Tensor, height: int, width: int, down: int, right: int) -> Tensor:
    """Return scores[p + offset, q + offset], 0 where either leaves the grid."""
    moved = torch.zeros_like(scores)
    places = [(i, j) for i in range(height) for j in range(width)]
    inside = {
        i * width + j: (i + down) * width + j + right
        for i, j in places
        if 0 <= i + down < height and 0 <= j + right < width
    }
    for p, p_moved in inside.items():
        for q, q_moved in inside.items():
            moved[p, q] = scores[p_moved, q_moved]
    return moved


def noise(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, dtype=torch.float64).relu()


def with_hole(batch: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(batch, 1, height, width, dtype=torch.float64)
    for index in range(batch):
        mask[index, :, 1 : 3 + index, 2 : 5 + 2 * index] = 1
    return mask


@pytest.mark.parametrize("size", [(2, 2), (2, 10), (6, 10), (14, 6), (8, 8)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_equals_the_layer_written_out(variant: str, size: tuple[int, int]) -> None:
    config = VARIANTS[variant]
    features, mask = noise(2, *size), with_hole(2, *size)
    attended = ContextualAttention(config)(features, mask)
    torch.testing.assert_close(attended, reference(features, mask, config), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [(6, 10), (10, 6)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_equals_that_of_the_layer_written_out(variant: str, size: tuple[int, int]) -> None:
    # A small scale, as a softmax that is nearly one-hot has hardly any gradient.
    config = replace(VARIANTS[variant], scale=0.3)
    features, mask = noise(2, *size).requires_grad_(), with_hole(2, *size)
    direction = torch.randn_like(features)
    fast = torch.autograd.grad(ContextualAttention(config)(features, mask), features, direction)
    slow = torch.autograd.grad(reference(features, mask, config), features, direction)
    assert slow[0].abs().max() > 0.1
    torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("masked", ["zero", "neginf"])
def test_without_a_valid_patch_the_output_is_zero_and_the_gradient_finite(masked: str) -> None:
    features = noise(1, 8, 8).requires_grad_()
    attention = ContextualAttention(AttentionConfig(masked=masked))
    attended = attention(features, torch.ones(1, 1, 8, 8))
    assert (attended == 0).all()
    attended.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_features_of_zero_have_a_finite_gradient() -> None:
    features = torch.zeros(1, 4, 8, 8, requires_grad=True)
    mask = with_hole(1, 8, 8)
    ContextualAttention(AttentionConfig())(features, mask).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_images_with_different_masks_are_attended_apart() -> None:
    features, mask = noise(2, 6, 8), with_hole(2, 6, 8)
    attention = ContextualAttention(RELEASED)
    apart = torch.cat([attention(features[i : i + 1], mask[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(attention(features, mask), apart, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attention(features, mask.flip(0)), apart)


def published_features() -> tuple[Tensor, Tensor]:
    i = torch.arange(16, dtype=torch.float64)[:, None]
    j = torch.arange(16, dtype=torch.float64)
    channels = [torch.sin(0.7 * i + 1.3 * j + 2.1 * c + 0.37 * i * j) for c in range(4)]
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    mask[..., 6:10, 5:11] = 1
    return torch.stack(channels).relu()[None], mask


@pytest.mark.parametrize(
    ("downsample", "fuse", "total", "value"),
    [
        ("stride", True, 281.268602, 0.237899),
        ("stride", False, 275.072086, 0.293075),
        ("align_corners", True, 282.885965, 0.578227),
        ("align_corners", False, 283.322652, 0.499104),
    ],
)
def test_known_features_give_the_released_layer_s_numbers(
    downsample: str, fuse: bool, total: float, value: float
) -> None:
    features, mask = published_features()
    config = AttentionConfig(downsample=downsample, fuse=fuse)
    attended = ContextualAttention(config)(features, mask)
    assert attended.sum().item() == pytest.approx(total, abs=1e-5)
    assert attended[0, 3, 8, 8].item() == pytest.approx(value, abs=1e-6)


def test_known_features_have_the_released_layer_s_valid_positions_and_favourites() -> None:
    features, mask = published_features()
    assert attend(features, mask, AttentionConfig()).valid.sum() == 44
    assert attend(features, mask, RELEASED).valid.sum() == 48
    favourites = ContextualAttention(AttentionConfig()).most_attended(features, mask)
    assert favourites[0, 4].tolist() == [32, 33, 6, 7, 54, 25, 2, 39]


def test_overlap_darkens_edges_to_a_half_and_corners_to_a_quarter() -> None:
    ones, known = torch.ones(1, 4, 16, 16), torch.zeros(1, 1, 16, 16)
    attended = ContextualAttention(AttentionConfig())(ones, known)[0, 0]
    torch.testing.assert_close(attended[0, 0].item(), 0.25)
    torch.testing.assert_close(attended[0, 1:-1], torch.full((14,), 0.5))
    torch.testing.assert_close(attended[1:-1, 1:-1], torch.ones(14, 14))
    evened = ContextualAttention(AttentionConfig(overlap="true_count"))(ones, known)
    torch.testing.assert_close(evened, ones)
    assert overlaps(ones)[:2, :2].tolist() == [[1, 2], [2, 4]]


def test_places_without_features_attend_evenly_to_the_valid_ones() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    weights, valid, *_ = attend(torch.zeros(1, 4, 16, 16), mask, AttentionConfig())
    torch.testing.assert_close((weights * valid).sum(2), torch.full((1, 64), 28 / 64))


def test_a_thin_hole_is_lost_by_nearest_sampling_and_kept_by_pooling() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 3] = 1
    features = torch.rand(1, 2, 16, 16)
    assert attend(features, mask, AttentionConfig()).valid.all()
    pooled = attend(features, mask, AttentionConfig(mask_pool="max")).valid.view(8, 8)
    assert pooled[:, :2].sum() == 0
    assert pooled[:, 2:].all()


def test_corner_to_corner_sampling_gives_the_verified_indices() -> None:
    assert corner_to_corner(64, 2).tolist() == [2 * i + (i >= 16) for i in range(32)]
    assert corner_to_corner(8, 4).tolist() == [0, 7]
    assert corner_to_corner(4, 4).tolist() == [0]
    assert corner_to_corner(10, 2)[2] == 5  # 4.5, halves up


def test_bfloat16_features_are_attended_in_float32_even_under_autocast() -> None:
    features, mask = noise(1, 8, 8).bfloat16(), with_hole(1, 8, 8)
    attention = ContextualAttention(AttentionConfig())
    full = attention(features.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = attention(features, mask)
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


def test_a_backward_pass_under_autocast_stays_in_float32() -> None:
    gradients = []
    for enabled in (False, True):
        features = noise(1, 8, 8).float().requires_grad_()
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            attended = ContextualAttention(AttentionConfig(scale=0.3))(features, with_hole(1, 8, 8))
            attended.square().sum().backward()
        gradients.append(features.grad)
        torch.manual_seed(0)
    assert torch.equal(gradients[0], gradients[1])


def test_similarities_stay_exact_where_faster_products_are_allowed() -> None:
    pixels = torch.randn(1, 50, 40)
    exact = (pixels.double() @ pixels.double().mT).float()
    assert not torch.equal(Gram.apply(pixels), exact)
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert torch.equal(Gram.apply(pixels), exact)
    finally:
        torch.set_float32_matmul_precision(allowed)


def test_arithmetic_is_that_of_the_five_products_and_no_more() -> None:
    features, mask = torch.zeros(1, 128, 64, 64), torch.zeros(1, 1, 64, 64)
    with FlopCounterMode(display=False) as counter:
        ContextualAttention(AttentionConfig())(features, mask)
    places = 32 * 32
    # One Gram matrix and one product for each of the four parities; 0.671 GMAC.
    assert counter.get_total_flops() == 2 * 5 * places**2 * 128


def test_only_two_matrices_of_all_positions_are_kept_for_the_backward_pass() -> None:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    features, mask = torch.rand(1, 4, 32, 32, requires_grad=True), torch.zeros(1, 1, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attended = ContextualAttention(AttentionConfig())(features, mask)
    assert attended.requires_grad
    matrix = 4 * (16 * 16) ** 2
    assert sum(size == matrix for size in kept.values()) == 2
    assert max(kept.values()) == matrix


def test_a_nonpositive_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale"):
        AttentionConfig(scale=0)
