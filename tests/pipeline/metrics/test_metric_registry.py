from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from infill.pipeline.errors import UserError
from infill.pipeline.metrics import image_metrics, metric_registry
from infill.pipeline.metrics.metric_registry import (
    FURTHER,
    METRICS,
    Metric,
    chosen_metrics,
    measure,
    multiscale_ssim,
    visual_information,
)


def pictures(side: int = 64, count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(4)
    rows, columns = np.mgrid[0:side, 0:side]
    smooth = np.stack([127 + 90 * np.sin(rows / 9 + c) * np.cos(columns / 7) for c in range(3)], -1)
    images = np.stack([smooth] * count).clip(0, 255).astype(np.uint8)
    noise = random.integers(-40, 41, images.shape)
    hole = np.zeros((count, 1, side, side), np.float32)
    hole[..., 8:40, 20:50] = 1
    predicted = np.where(hole[:, 0, ..., None] == 1, images.astype(int) + noise, images)
    composites = predicted.clip(0, 255).astype(np.uint8)
    return torch.from_numpy(composites), torch.from_numpy(images), torch.from_numpy(hole)


def test_each_published_form_is_its_own_formula():
    ours, theirs, masks = pictures()
    found = measure(ours, theirs, masks, chosen_metrics(["grey_l1", "relative_l1", "l2"]))
    a, b = ours.double().numpy() / 255, theirs.double().numpy() / 255
    everywhere = (1, 2, 3)
    expected = {
        "l1": np.abs(a - b).mean(everywhere),
        "grey_l1": np.abs(a.mean(-1) - b.mean(-1)).mean((1, 2)),
        "relative_l1": np.abs(a - b).sum(everywhere) / (a + b).sum(everywhere),
        "l2": np.square(a - b).mean(everywhere),
    }
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-4), name
    assert len({round(values[0], 6) for values in expected.values()}) == 4


@pytest.mark.parametrize("window", [11, 51])
def test_uniform_ssim_is_scikit_images(window):
    ours, theirs, masks = pictures()
    name = f"uniform_ssim_{window}"
    found = measure(ours, theirs, masks, chosen_metrics([name]))[name]
    expected = structural_similarity(
        ours[0].numpy(), theirs[0].numpy(), channel_axis=-1, data_range=255, win_size=window
    )
    assert found[0].item() == pytest.approx(expected, abs=1e-4)


def test_multiscale_ssim_is_the_weighted_product_over_five_scales():
    ours, theirs, _ = pictures(side=192, count=1)
    a, b = (p.permute(0, 3, 1, 2).double() / 255 for p in (ours, theirs))
    distance = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-((distance / 1.5) ** 2) / 2)
    window = (window / window.sum())[:, None] * (window / window.sum())[None]
    kernel = window.expand(3, 1, 11, 11)

    def blur(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, kernel, groups=3)

    product = torch.ones(1, dtype=torch.float64)
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_a, mean_b = blur(a), blur(b)
        variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        contrast = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
        luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        value = contrast * luminance if scale == 4 else contrast
        product = product * value.mean((1, 2, 3)).clamp(min=0) ** weight
        a, b = (torch.nn.functional.avg_pool2d(x, 2) for x in (a, b))
    assert multiscale_ssim(ours, theirs).item() == pytest.approx(product.item(), abs=5e-3)


def test_multiscale_ssim_of_small_pictures_is_refused():
    ours, theirs, _ = pictures(side=160)
    with pytest.raises(ValueError, match="at least 161 px"):
        multiscale_ssim(ours, theirs)


def test_visual_information_is_the_ratio_over_four_scales():
    """After the definition: gain and noise in each window, against noise of variance 2."""
    ours, theirs, _ = pictures(side=96, count=1)

    def of_channel(a: np.ndarray, b: np.ndarray) -> float:
        kept = whole = 0.0
        for scale in range(4):
            size = 2 ** (4 - scale) + 1
            distance = np.arange(size) - size // 2
            row = np.exp(-(distance**2) / (2 * (size / 5) ** 2))
            window = np.outer(row, row) / row.sum() ** 2
            blur = partial(convolve2d, in2=window, mode="valid")
            if scale:
                a, b = blur(a)[::2, ::2], blur(b)[::2, ::2]
            mean_a, mean_b = blur(a), blur(b)
            variance_a = np.maximum(blur(a * a) - mean_a**2, 0)
            variance_b = np.maximum(blur(b * b) - mean_b**2, 0)
            covariance = blur(a * b) - mean_a * mean_b
            gain = covariance / (variance_b + 1e-10)
            noise = np.where(gain < 0, variance_a, variance_a - gain * covariance)
            gain = np.maximum(gain, 0)
            kept += np.log10(1 + gain**2 * variance_b / (np.maximum(noise, 1e-10) + 2)).sum()
            whole += np.log10(1 + variance_b / 2).sum()
        return kept / whole

    a, b = ours[0].double().numpy(), theirs[0].double().numpy()
    expected = np.mean([of_channel(a[..., c], b[..., c]) for c in range(3)])
    found = visual_information(ours, theirs).item()
    assert 0.2 < found < 0.95
    assert found == pytest.approx(expected, abs=2e-3)


MISTAKES = {
    "mean of all": (lambda error: error.mean(), "not a tensor of shape []"),
    "number": (lambda error: 0.5, "not 0.5"),
    "array": (lambda error: error.mean((1, 2, 3)).numpy(), "not a tensor of shape [2]"),
    "rows": (lambda error: error.mean((2, 3)), "not a tensor of shape [2, 64]"),
}
"""What a metric's function may return by mistake."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_metric_without_a_number_for_each_image_is_refused(mistake):
    change, found = MISTAKES[mistake]
    metric = Metric(
        name="error",
        title="Error",
        better="lower",
        decimals=3,
        measure=lambda ours, theirs, _: change(ours.double() - theirs.double()),
    )
    with pytest.raises(UserError) as refusal:
        measure(*pictures(), [metric])
    assert str(refusal.value) == (
        f"the metric 'error' must return a tensor of 2 numbers, one for each image, {found}"
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_metric_that_is_not_finite_is_refused(value):
    metric = Metric(
        name="error",
        title="Error",
        better="lower",
        decimals=3,
        measure=lambda ours, *_: torch.tensor([0.0, float(value)]),
    )
    with pytest.raises(
        UserError, match=f"^the metric 'error' is {value} for an image; it must be finite$"
    ):
        measure(*pictures(), [metric])


def test_a_metric_of_the_form_that_is_asked_for_is_taken():
    metric = Metric(
        name="count",
        title="Count",
        better="lower",
        decimals=0,
        measure=lambda ours, *_: torch.arange(len(ours)),
    )
    found = measure(*pictures(), [metric])["count"]
    assert found.dtype == torch.float64
    assert found.tolist() == [0, 1]


@pytest.mark.parametrize("metric", [*METRICS, *FURTHER.values()], ids=lambda metric: metric.name)
def test_the_better_direction_is_that_of_the_original_itself(metric):
    ours, theirs, masks = pictures(176)
    noisy, equal = (metric.of_each(one, theirs, masks) for one in (ours, theirs))
    assert (equal > noisy).all() == (metric.better == "higher")
    assert (equal < noisy).all() == (metric.better == "lower")


def test_a_metric_that_is_declared_twice_is_refused():
    """Of two the second would be shown with the first one's figures."""
    source = Path(metric_registry.__file__).read_text()
    declared = "DECLARED: tuple[Metric, ...] = (\n"
    twice = '    Metric(name="vif", title="Ours", better="lower", decimals=1),\n'
    assert declared in source
    program = source.replace(declared, declared + twice)
    with pytest.raises(AssertionError, match="^metrics are declared twice: vif$"):
        exec(compile(program, "registry", "exec"), {"__name__": "registry"})


def test_further_metrics_come_after_the_usual_ones_and_only_if_asked():
    assert chosen_metrics([]) == METRICS
    chosen = chosen_metrics(["ms_ssim", "psnr", "grey_l1", "ms_ssim"])
    assert chosen[: len(METRICS)] == METRICS
    assert [metric.name for metric in chosen[len(METRICS) :]] == ["ms_ssim", "grey_l1"]


def test_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="unknown metric 'vmaf'; there are: hole_psnr, .*grey_l1"):
        chosen_metrics(["vmaf"])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_s_own_function_agrees_with_what_evaluations_compute_at_once(metric):
    ours, theirs, masks = pictures()
    at_once = measure(ours, theirs, masks, METRICS)[metric.name]
    assert torch.allclose(metric.measure(ours, theirs, masks).double(), at_once, rtol=1e-4)


@pytest.mark.parametrize("name", FURTHER)
def test_equal_pictures_score_perfectly(name):
    _, images, masks = pictures(side=192, count=1)
    metric = FURTHER[name]
    measurement = metric.measure
    value = measurement(images, images, masks).item()
    if name == "total_variation":
        assert value > 0
    elif metric.unit == "dB":
        assert value == image_metrics.MAX_PSNR_DB
    else:
        assert value == pytest.approx(1 if metric.better == "higher" else 0, abs=1e-5)
