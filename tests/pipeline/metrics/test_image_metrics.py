"""Scores against scikit-image, and against plain float64 arithmetic."""

import math

import numpy as np
import pytest
import torch
from skimage import metrics as reference
from torch import Tensor

from infill.pipeline.metrics import image_metrics


def pictures(
    seed: int = 0, count: int = 3, height: int = 48, width: int = 64
) -> tuple[Tensor, ...]:
    """Return a noisy picture, its original, both uint8 [B, H, W, 3], and a mask."""
    random = np.random.Generator(np.random.Philox(key=seed))
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(rows / (5 + c) + columns / (8 - c)) for c in range(3)]
    image = np.stack([np.stack(waves, axis=-1) + 4 * i for i in range(count)])
    noise = random.normal(0, 12, image.shape) * np.array([1, 2, 4])[:count, None, None, None]
    mask = np.zeros((count, 1, height, width), np.float32)
    for index in range(count):
        mask[index, :, 9 + index : 30, 12 : 40 + 3 * index] = 1
    eight = [
        torch.from_numpy(np.clip(np.rint(x), 0, 255).astype(np.uint8))
        for x in (image + noise, image)
    ]
    return eight[0], eight[1], torch.from_numpy(mask)


def plain(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return a.numpy().astype(np.float64) / 255, b.numpy().astype(np.float64) / 255


def test_psnr_is_scikit_images() -> None:
    picture, image, _ = pictures()
    expected = [
        reference.peak_signal_noise_ratio(b.numpy(), a.numpy())
        for a, b in zip(picture, image, strict=True)
    ]
    np.testing.assert_allclose(image_metrics.psnr(picture, image).numpy(), expected, rtol=1e-5)


def scikit_map(a: Tensor, b: Tensor) -> np.ndarray:
    _, similarity = reference.structural_similarity(
        a.numpy(),
        b.numpy(),
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return similarity


def test_ssim_is_scikit_images_with_gaussian_weights_away_from_the_edges() -> None:
    picture, image, _ = pictures()
    found = image_metrics.ssim_map(picture, image).permute(0, 2, 3, 1).numpy()
    for index in range(3):
        expected = scikit_map(picture[index], image[index])[5:-5, 5:-5]
        np.testing.assert_allclose(found[index, 5:-5, 5:-5], expected, atol=2e-5)
    assert 0.1 < found.mean() < 0.9


def test_ssim_is_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    picture, image, _ = pictures(1)
    expected = structural_similarity_index_measure(
        image_metrics.unit(picture), image_metrics.unit(image), data_range=1.0, reduction="none"
    )
    np.testing.assert_allclose(image_metrics.ssim(picture, image), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (11, 40), (40, 11)])
def test_ssim_takes_images_down_to_its_window_and_refuses_smaller_ones(height, width) -> None:
    exact = torch.rand(1, 3, height, width)
    assert image_metrics.uniform_ssim(exact, exact, 11).item() == pytest.approx(1)
    smaller = exact[..., : height - 1, :] if height == 11 else exact[..., : width - 1]
    sides = f"{smaller.shape[-1]}x{smaller.shape[-2]}"
    with pytest.raises(ValueError, match=f"at least 11 px a side, found {sides}"):
        image_metrics.uniform_ssim(smaller, smaller, 11)


@pytest.mark.parametrize("window_px", [11, 51])
def test_uniform_ssim_is_what_spn_and_pennet_call(window_px: int) -> None:
    picture, image, _ = pictures(2, height=60)
    expected = [
        reference.structural_similarity(
            a.numpy(), b.numpy(), channel_axis=-1, win_size=window_px, data_range=255
        )
        for a, b in zip(picture, image, strict=True)
    ]
    found = image_metrics.uniform_ssim(picture, image, window_px)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hole_ssim_is_the_mean_of_scikit_images_map_over_the_hole() -> None:
    picture, image, mask = pictures(3)
    found = image_metrics.hole_ssim(picture, image, mask)
    for index in range(3):
        similarity = scikit_map(picture[index], image[index])
        expected = similarity[mask[index, 0].numpy() == 1].mean()
        assert abs(found[index].item() - expected) < 1e-5


def test_hole_scores_are_means_over_the_holes_values() -> None:
    picture, image, mask = pictures(4)
    a, b = plain(picture, image)
    for index in range(len(a)):
        inside = mask[index, 0].numpy() == 1
        difference = (a[index] - b[index])[inside]
        l1 = image_metrics.hole_l1(picture, image, mask)[index].item()
        psnr = image_metrics.hole_psnr(picture, image, mask)[index].item()
        assert l1 == pytest.approx(np.abs(difference).mean(), rel=1e-5)
        assert psnr == pytest.approx(-10 * math.log10((difference**2).mean()), rel=1e-5)


def test_published_forms_of_l1_differ_as_their_papers_do() -> None:
    picture, image, _ = pictures(5)
    a, b = plain(picture, image)
    axes = (1, 2, 3)
    expected = {
        image_metrics.l1: np.abs(a - b).mean(axis=axes),
        image_metrics.grey_l1: np.abs(a.mean(axis=-1) - b.mean(axis=-1)).mean(axis=(1, 2)),
        image_metrics.relative_l1: np.abs(a - b).sum(axis=axes) / (a + b).sum(axis=axes),
        image_metrics.l2: ((a - b) ** 2).mean(axis=axes),
    }
    found = {form: form(picture, image).numpy() for form in expected}
    for form, values in expected.items():
        np.testing.assert_allclose(found[form], values, rtol=1e-4, err_msg=form.__name__)
    assert np.all(found[image_metrics.grey_l1] < found[image_metrics.l1])


def test_total_variation_of_a_step_edge_is_its_height_per_column_pair() -> None:
    picture = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    picture[:, :, 3:] = 255
    assert image_metrics.total_variation(picture).item() == pytest.approx(1 / 5)


def test_scores_stay_finite_where_nothing_is_wrong_or_nothing_is_missing() -> None:
    picture, image, mask = pictures(6)
    nowhere = torch.zeros_like(mask)
    cap = [image_metrics.MAX_PSNR_DB] * 3
    assert image_metrics.psnr(image, image).tolist() == cap
    assert image_metrics.hole_psnr(picture, image, nowhere).tolist() == cap
    assert image_metrics.hole_l1(picture, image, nowhere).tolist() == [0, 0, 0]
    assert image_metrics.hole_ssim(picture, image, nowhere).tolist() == [1, 1, 1]
    np.testing.assert_allclose(image_metrics.ssim(image, image), [1, 1, 1], atol=1e-6)
    black = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    assert image_metrics.relative_l1(black, black).item() == 0
    one_level = image.clone()
    one_level[:, 0, 0, 0] ^= 1
    assert (image_metrics.psnr(one_level, image) < image_metrics.MAX_PSNR_DB).all()


def test_ring_is_the_part_of_the_hole_near_known_pixels() -> None:
    mask = torch.zeros(1, 1, 32, 40)
    mask[..., 4:28, 10:40] = 1  # touches the frame's right edge, where nothing is known
    rim = image_metrics.ring(mask, 3)
    inner = torch.zeros_like(mask)
    inner[..., 7:25, 13:40] = 1
    assert torch.equal(rim, mask - inner)
    assert image_metrics.ring(torch.ones_like(mask)).sum() == 0
    assert image_metrics.ring(torch.zeros_like(mask)).sum() == 0


def test_ring_scores_see_the_ring_alone() -> None:
    _, image, mask = pictures(7)
    inside = (mask - image_metrics.ring(mask, 8)).bool().permute(0, 2, 3, 1)
    worse = torch.where(inside, 255 - image, image)
    found = image_metrics.scores(worse, image, mask)
    assert found["ring_l1"].tolist() == [0, 0, 0]
    assert (found["hole_l1"] > 0.01).all()
    cap = [image_metrics.MAX_PSNR_DB] * 3
    assert image_metrics.ring_psnr(worse, image, mask).tolist() == cap
    assert image_metrics.ring_l1(worse, image, mask).tolist() == [0, 0, 0]


def test_table_of_scores_holds_what_each_function_gives() -> None:
    picture, image, mask = pictures(8)
    found = image_metrics.scores(picture, image, mask)
    assert list(found) == [
        "psnr", "ssim", "l1", "hole_psnr", "hole_ssim", "hole_l1", "ring_psnr", "ring_l1",
    ]  # fmt: skip
    rim = image_metrics.ring(mask)
    expected = {
        "psnr": image_metrics.psnr(picture, image),
        "ssim": image_metrics.ssim(picture, image),
        "l1": image_metrics.l1(picture, image),
        "hole_psnr": image_metrics.hole_psnr(picture, image, mask),
        "hole_ssim": image_metrics.hole_ssim(picture, image, mask),
        "hole_l1": image_metrics.hole_l1(picture, image, mask),
        "ring_psnr": image_metrics.hole_psnr(picture, image, rim),
        "ring_l1": image_metrics.hole_l1(picture, image, rim),
    }
    for measure in (image_metrics.ring_psnr, image_metrics.ring_l1):
        torch.testing.assert_close(measure(picture, image, mask), expected[measure.__name__])
    for name, values in expected.items():
        assert found[name].shape == (3,)
        torch.testing.assert_close(found[name], values, msg=name)


def test_pictures_in_a_batch_do_not_touch_each_other() -> None:
    picture, image, mask = pictures(9)
    together = image_metrics.scores(picture, image, mask)
    for index in range(3):
        part = slice(index, index + 1)
        alone = image_metrics.scores(picture[part], image[part], mask[part])
        for name, values in alone.items():
            torch.testing.assert_close(together[name][part], values, msg=name)


def test_eight_bit_and_unit_pictures_score_the_same() -> None:
    picture, image, mask = pictures(10)
    floats = [image_metrics.unit(x) for x in (picture, image)]
    assert floats[0].shape == (3, 3, 48, 64)
    for name, values in image_metrics.scores(floats[0], floats[1], mask).items():
        torch.testing.assert_close(
            values, image_metrics.scores(picture, image, mask)[name], msg=name
        )


def test_pictures_of_another_layout_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[B, H, W, 3\]"):
        image_metrics.psnr(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="at least 11 px"):
        image_metrics.ssim(torch.zeros(1, 3, 8, 32), torch.zeros(1, 3, 8, 32))


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    random = np.random.Generator(np.random.Philox(key=0))
    covered = 0
    for trial in range(120):
        found = image_metrics.mean_interval(random.normal(25, 4, 60), seed=trial)
        covered += found.low <= 25 <= found.high
        assert found.low < found.mean < found.high
        assert found.n == 60
    assert 106 <= covered <= 120


def test_interval_narrows_with_the_root_of_n_and_is_the_same_again() -> None:
    values = np.random.Generator(np.random.Philox(key=1)).normal(0, 1, 6400)
    few, many = image_metrics.mean_interval(values[:100]), image_metrics.mean_interval(values)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(8, rel=0.25)
    assert many.high - many.low == pytest.approx(2 * 1.96 / 80, rel=0.1)
    assert image_metrics.mean_interval(values[:100]) == few
    assert image_metrics.mean_interval([3.0]) == (3.0, 3.0, 3.0, 1)


def test_interval_of_a_mean_holds_the_middle_95_percent_of_resampled_means() -> None:
    values = np.random.default_rng(4).normal(25, 4, 400)
    found = [image_metrics.mean_interval(values, seed) for seed in range(12)]
    deviation = values.std() / np.sqrt(values.size)
    low, high = (np.mean([getattr(one, name) for one in found]) for name in ("low", "high"))
    assert low == pytest.approx(values.mean() - 1.96 * deviation, abs=0.07 * deviation)
    assert high == pytest.approx(values.mean() + 1.96 * deviation, abs=0.07 * deviation)
    whole = image_metrics.mean_interval([1, 2, 4])  # whole numbers are scores as well
    assert whole.mean == pytest.approx(7 / 3)


def test_mean_of_nothing_or_of_infinity_is_refused() -> None:
    for values in ([], [1.0, math.inf], [math.nan]):
        with pytest.raises(ValueError, match="finite values"):
            image_metrics.mean_interval(values)


def test_regions_of_one_pixel_and_faint_pictures_are_divided_by_what_they_are() -> None:
    values, region = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    values[0, 0, 1, 2], region[0, 0, 1, 2] = 0.75, True
    assert image_metrics.region_mean(values, region).tolist() == [0.75]
    faint = torch.full((1, 3, 2, 2), 1e-3)
    assert image_metrics.relative_l1(faint * 2, faint).item() == pytest.approx(1 / 3)


def test_total_variation_is_each_picture_s_own() -> None:
    flat, steps = torch.zeros(3, 5, 4), torch.zeros(3, 5, 4)
    steps[:, 3:], steps[:, :, 1:] = 0.5, steps[:, :, 1:] + 0.25
    found = image_metrics.total_variation(torch.stack([flat, steps]))
    down = (steps[:, 1:] - steps[:, :-1]).abs().mean()
    across = (steps[:, :, 1:] - steps[:, :, :-1]).abs().mean()
    torch.testing.assert_close(found, torch.stack([torch.tensor(0.0), down + across]))


@pytest.mark.parametrize(("side", "width"), [(256, 8), (64, 2), (512, 16), (16, 1)])
def test_a_rim_in_proportion_to_the_frame_is_not_the_hole_at_small_sizes(side, width):
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 4 * 3, side // 4 : side // 4 * 3] = 1
    image = torch.zeros(1, 3, side, side)
    rim = image_metrics.ring(mask, width)
    wrong_in_the_rim = image + 0.5 * rim
    hole = float(mask.sum() / (mask.sum() - rim.sum()))
    assert hole > 1
    assert image_metrics.frame_rim_l1(wrong_in_the_rim, image, mask).item() == pytest.approx(0.5)
    assert image_metrics.hole_l1(wrong_in_the_rim, image, mask).item() < 0.5
    inside = image + 0.5 * (mask - rim)
    assert image_metrics.frame_rim_psnr(inside, image, mask).item() == image_metrics.MAX_PSNR_DB


def test_a_hole_of_one_pixel_is_scored_by_that_pixel() -> None:
    image, mask = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 16, 16] = 1
    found = image_metrics.scores(torch.where(mask.bool(), 0.5, image), image, mask)
    assert found["hole_l1"].tolist() == found["ring_l1"].tolist() == [0.5]
    assert found["l1"].item() == pytest.approx(0.5 / 32**2)


@pytest.mark.parametrize(
    ("size", "width"),
    [((16, 16), 1), ((63, 63), 1), ((64, 512), 2), ((512, 255), 7), ((256, 256), 8)],
)
def test_the_rim_s_width_is_a_share_of_the_shorter_side(size, width) -> None:
    assert image_metrics.frame_rim_width_px(torch.zeros(2, 1, *size)) == width
