"""Images of every kind and size are inpainted in one call, and come back as the same kind."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import MaskRule, composite
from infill.pipeline.inference import Inpainter, Predictor, TilingConfig, load
from infill.pipeline.inference.tiling_plan import plan_tiles
from infill.pipeline.serving.replica.replica import Replica, ReplicaConfig

HEIGHT, WIDTH = 50, 70
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[10:30, 20:45] = True


@pytest.fixture(scope="module")
def inpaint(spn) -> Inpainter:
    return load(spn.location)


@pytest.fixture(scope="module")
def probabilistic(tmp_path_factory, write_spn) -> Inpainter:
    folder = tmp_path_factory.mktemp("probabilistic")
    return load(write_spn(folder, 3, variant="probabilistic").location)


@pytest.fixture
def image(make) -> np.ndarray:
    return make.photograph(HEIGHT, WIDTH)


@pytest.fixture
def expected(inpaint, image) -> np.ndarray:
    """The composite in 8-bit RGB, put together from the parts."""
    layout = plan_tiles(HOLE, TilingConfig())
    [(tile, missing)] = layout.split_tiles(image, HOLE)
    prediction = inpaint.predictor.predict(tile[None], missing[None])[0]
    return composite(layout.merge_tiles([prediction], HOLE), image, HOLE)


def test_array_comes_back_with_its_hole_filled_and_all_else_as_it_was(inpaint, image, expected):
    before = image.copy()
    result = inpaint(image, HOLE)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(result[~HOLE], image[~HOLE])
    assert (result[HOLE] != image[HOLE]).any()
    np.testing.assert_array_equal(image, before)


def test_rule_of_masks_is_the_caller_s(spn, image, expected, tmp_path):
    layer = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    layer[..., 3] = 255 * HOLE
    Image.fromarray(layer).save(tmp_path / "layer.png")
    inpaint = load(spn.location)
    for mask in (layer, Image.fromarray(layer), str(tmp_path / "layer.png")):
        inpaint.mask_rule = MaskRule(channel="brightness")
        with pytest.raises(ImageError, match=r"masks\.channel=alpha"):
            inpaint(image, mask)
        for channel in ("alpha", "auto"):
            inpaint.mask_rule = MaskRule(channel=channel)
            np.testing.assert_array_equal(inpaint(image, mask), expected)


def test_mask_of_every_kind_marks_the_same_hole(inpaint, image, expected, tmp_path):
    white = HOLE.astype(np.uint8) * 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    masks = [white, white[..., None], HOLE.astype(np.float32), Image.fromarray(white)]
    masks += [torch.from_numpy(HOLE), torch.from_numpy(HOLE)[None], torch.from_numpy(white)[None]]
    deep = HOLE.astype(np.uint16) * 65535
    masks += [deep, deep // 257, Image.fromarray(deep), torch.from_numpy(deep)]
    masks += [Image.fromarray(HOLE), str(tmp_path / "mask.png"), tmp_path / "mask.png"]
    for mask in masks:
        np.testing.assert_array_equal(inpaint(image, mask), expected)


def test_pillow_image_and_path_give_a_pillow_image(inpaint, image, expected, tmp_path):
    held = Image.fromarray(image)
    held.info["icc_profile"] = b"a profile"
    held.save(tmp_path / "photo.png", icc_profile=b"a profile")
    for given in (held, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        result = inpaint(given, HOLE)
        assert isinstance(result, Image.Image)
        assert (result.mode, result.size) == ("RGB", (WIDTH, HEIGHT))
        assert result.info["icc_profile"] == b"a profile"
        np.testing.assert_array_equal(np.asarray(result), expected)


def test_photograph_in_a_file_is_turned_upright(inpaint, image, expected, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(inpaint(tmp_path / "p.png", HOLE)), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_channels_of_an_image_stay(inpaint, image, mode):
    held = Image.fromarray(image).convert(mode)
    if mode.endswith("A"):
        held.putalpha(90)
    pixels, result = np.asarray(held), inpaint(held, HOLE)
    assert result.mode == mode
    np.testing.assert_array_equal(np.asarray(result)[~HOLE], pixels[~HOLE])
    np.testing.assert_array_equal(inpaint(pixels, HOLE), np.asarray(result))
    if mode.endswith("A"):
        assert (np.asarray(result)[HOLE][:, -1] == 255).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 4)])
def test_floating_array_keeps_its_type_and_its_known_values_bit_for_bit(inpaint, dtype, shape):
    values = np.random.default_rng(1).random(shape).astype(dtype)  # between the 256 levels
    result = inpaint(values, HOLE)
    assert (result.dtype, result.shape) == (values.dtype, shape)
    np.testing.assert_array_equal(result[~HOLE], values[~HOLE])
    assert (result[HOLE] != values[HOLE]).any()
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 4)])
def test_known_values_of_16_bits_stay_bit_for_bit(inpaint, shape):
    values = np.random.default_rng(2).integers(0, 65536, shape, dtype=np.uint16)
    result = inpaint(values, HOLE)
    assert (result.dtype, result.shape) == (np.uint16, shape)
    np.testing.assert_array_equal(result[~HOLE], values[~HOLE])
    assert (result[HOLE] != values[HOLE]).any()
    if len(shape) == 3:
        tensor = torch.from_numpy(values).permute(2, 0, 1)
        found = inpaint(tensor, HOLE)
        assert found.dtype == torch.uint16
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), result)
    else:
        for order in ("<u2", ">u2"):
            held = Image.fromarray(values.astype(order))
            held.info["dpi"] = (300, 300)
            found = inpaint(held, HOLE)
            assert (found.mode, found.info["dpi"]) == (held.mode, (300, 300))
            np.testing.assert_array_equal(np.asarray(found), result)


def test_levels_of_16_bits_give_what_bytes_give(inpaint, image, expected):
    np.testing.assert_array_equal(inpaint(image.astype(np.uint16) * 257, HOLE), expected * 257.0)


def test_floating_levels_give_what_bytes_give(inpaint, image, expected):
    result = inpaint(image / 255, HOLE)
    np.testing.assert_array_equal(np.rint(result * 255), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_tensor_comes_back_with_channels_first_and_of_its_type(inpaint, image, expected, dtype):
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    given = tensor if dtype == torch.uint8 else (tensor / 255).to(dtype)
    result = inpaint(given, torch.from_numpy(HOLE))
    assert (result.dtype, result.shape) == (dtype, given.shape)
    known = torch.from_numpy(~HOLE)
    assert torch.equal(result[:, known], given[:, known])
    if dtype in (torch.uint8, torch.float32):
        levels = result if dtype == torch.uint8 else (result * 255).round().to(torch.uint8)
        np.testing.assert_array_equal(levels.permute(1, 2, 0).numpy(), expected)


def test_lists_give_a_list_of_what_each_gives(inpaint, image, make, tmp_path):
    other, hole = make.photograph(33, 140, seed=5), make.hole(33, 140, slice(4, 9), slice(70, 99))
    Image.fromarray(other).save(tmp_path / "other.png")
    several = [image, torch.from_numpy(image).permute(2, 0, 1), tmp_path / "other.png"]
    first, second, third = inpaint(several, [HOLE, HOLE, hole])
    np.testing.assert_array_equal(first, inpaint(image, HOLE))
    np.testing.assert_array_equal(second.permute(1, 2, 0).numpy(), first)
    np.testing.assert_array_equal(np.asarray(third), inpaint(other, hole))
    assert inpaint([], []) == []


def test_batches_of_arrays_and_tensors_are_stacked_again(inpaint, image, make):
    images = np.stack([image, make.photograph(HEIGHT, WIDTH, seed=9)])
    holes = np.stack([HOLE, HOLE[::-1]])
    each = np.stack([inpaint(*pair) for pair in zip(images, holes, strict=True)])
    result = inpaint(images, holes)
    np.testing.assert_array_equal(result, each)
    tensors, masks = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(holes)[:, None]
    np.testing.assert_array_equal(inpaint(tensors, masks).permute(0, 2, 3, 1).numpy(), each)


@pytest.mark.parametrize("mode", ["auto", "crop", "resize", "refine", "tile", "subsample"])
def test_large_image_gives_the_service_s_pixels(spn, inpaint, make, mode):
    pixels = make.photograph(520, 610)
    hole = make.hole(520, 610, slice(100, 400), slice(30, 580))
    replica = Replica(ReplicaConfig())
    replica.reconfigure({"models": [vars(spn)]})
    layout = plan_tiles(hole, TilingConfig(), mode)

    async def fill():
        tiles = layout.split_tiles(pixels, hole)
        return await asyncio.gather(*(replica.fill("", *tile) for tile in tiles))

    predictions = [filled.predictions[0] for filled in asyncio.run(fill())]
    expected = composite(layout.merge_tiles(predictions, hole), pixels, hole)
    result = inpaint(pixels, hole, mode=mode)
    np.testing.assert_array_equal(result[~hole], pixels[~hole])
    assert np.abs(result.astype(int) - expected).max() <= 1  # sums over other batches may differ


def test_samples_are_the_service_s_and_a_function_of_the_seed(
    probabilistic, tmp_path, write_spn, make
):
    image, hole = make.photograph(64, 64), make.hole(64, 64, slice(10, 40), slice(8, 50))
    model = write_spn(tmp_path, 3, variant="probabilistic")
    replica = Replica(ReplicaConfig())
    replica.reconfigure({"models": [vars(model)]})
    layout = plan_tiles(hole, TilingConfig())
    [tile] = layout.split_tiles(image, hole)
    filled = asyncio.run(replica.fill("", *tile, samples=3, seed=11)).predictions
    results = probabilistic(image, hole, samples=3, seed=11)
    assert len(results) == 3
    for prediction, result in zip(filled, results, strict=True):
        merged = layout.merge_tiles([prediction], hole)
        np.testing.assert_array_equal(result, composite(merged, image, hole))
    assert (results[0] != results[1]).any()
    again = probabilistic(image, hole, samples=3, seed=11)
    np.testing.assert_array_equal(np.stack(results), np.stack(again))
    unseeded = probabilistic(image, hole, samples=3)
    np.testing.assert_array_equal(unseeded, probabilistic(image, hole, samples=3, seed=0))
    likely = probabilistic(image, hole)
    np.testing.assert_array_equal(likely, probabilistic(image, hole))
    assert (likely != probabilistic(image, hole, seed=11)).any()


def test_samples_of_a_batch_are_batches_and_those_of_a_list_are_lists(probabilistic, make):
    images = np.stack([make.photograph(64, 64, seed=seed) for seed in range(2)])
    hole = make.hole(64, 64, slice(10, 40), slice(8, 50))
    together = probabilistic(images, np.stack([hole, hole]), samples=3, seed=4)
    assert [one.shape for one in together] == [images.shape] * 3
    listed = probabilistic(list(images), [hole, hole], samples=3, seed=4)
    assert [len(samples) for samples in listed] == [3, 3]
    for at in range(3):
        np.testing.assert_array_equal(together[at], np.stack([one[at] for one in listed]))


def test_deterministic_model_refuses_several_samples(inpaint, image):
    with pytest.raises(UserError, match="spn@.* generates one result"):
        inpaint(image, HOLE, samples=2)
    with pytest.raises(UserError, match="at least 1"):
        inpaint(image, HOLE, samples=0)


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (lambda i, h: (i[:-1], h), ImageError, "the image is 70 × 49, the mask 70 × 50"),
        (lambda i, h: (i, h.T), ImageError, "70 × 50, the mask 50 × 70: .* turn the mask as well"),
        (lambda i, h: (i, h & False), ImageError, "nothing is marked as hole"),
        (lambda i, h: (i, h | True), ImageError, "the whole image is marked"),
        (lambda i, h: (i, h.astype(np.uint8)), ImageError, "values are 0 and 1"),
        (lambda i, h: (i, h.astype(np.int64)), ImageError, "the mask is int64"),
        (lambda i, h: (i.astype(np.int32), h), ImageError, "the image is int32"),
        (lambda i, h: (i / 127.5 - 1, h), ImageError, r"values are -1 to 1.*\(image \+ 1\) / 2"),
        (lambda i, h: (i / 1.0 * np.nan, h), ImageError, "floating images are in 0 to 1"),
        (lambda i, h: (i[:, :, :0], h), ImageError, "an array is"),
        (lambda i, h: (torch.from_numpy(i), h), ImageError, "a tensor is .C, H, W."),
        (lambda i, h: ([i, i], [h]), ImageError, "there are 2 images and 1 masks"),
        (lambda i, h: ([i], "mask.png"), ImageError, "need a list of 1 masks"),
        (lambda i, h: ("nothing.png", h), UserError, "there is no image nothing.png"),
        (lambda i, h: (i, "nothing.png"), UserError, "there is no mask nothing.png"),
        (lambda i, h: ("/", h), UserError, "/ is a folder; give one image, or .*batch_inpaint"),
        (lambda i, h: (None, h), TypeError, "not NoneType"),
        (lambda i, h: (i, 3), TypeError, "a mask is .* not int"),
        (lambda i, h: (Image.new("I", (70, 50)), h), ImageError, "the image has mode I:"),
        (lambda i, h: ("", h), UserError, "the path of the image is empty"),
        (lambda i, h: (i, ""), UserError, "the path of the mask is empty"),
        (lambda i, h: (i, h * 255.0), ImageError, "values are 0 to 255: floating masks are in 0"),
    ],
)
def test_what_cannot_be_inpainted_is_refused_with_a_sentence(
    inpaint, image, change, kind, sentence
):
    with pytest.raises(kind, match=sentence):
        inpaint(*change(image, HOLE))


MASK_OF_I = Image.fromarray(HOLE.astype(np.int32) * 255)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda i, h: (i, MASK_OF_I), "the mask has mode I:"),
        (
            lambda i, h: (i, torch.zeros(1, 1, 50, 70)),
            r"a mask's tensor is .* not \[1, 1, 50, 70\]",
        ),
        (lambda i, h: (i[None], h), r"1 images need .* batch of 1 masks, not one of \[50, 70\]"),
        (lambda i, h: ([i, i], h), r"2 images need .* 2 masks, not one of \[50, 70\]"),
        (lambda i, h: ([i, i], [h, h[:-1]]), "pair 1: the image is 70 × 50, the mask 70 × 49"),
        (lambda i, h: ([i, i / 1.0], [h, h]), "pair 1: the image's values are"),
    ],
)
def test_refusal_names_the_argument_and_its_pair(inpaint, image, change, sentence):
    with pytest.raises(ImageError, match=sentence):
        inpaint(*change(image, HOLE))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "crops"}, "mode must be one of auto, .* not 'crops'"),
        ({"samples": "2"}, "samples must be an integer of at least 1, not '2'"),
        ({"samples": 1.5}, "samples must be .* not 1.5"),
        ({"samples": True}, "samples must be .* not True"),
        ({"seed": -1}, "seed must be None or an integer of at least 0, not -1"),
        ({"seed": "x"}, "seed must be .* not 'x'"),
    ],
)
def test_impossible_option_is_named(inpaint, image, options, sentence):
    with pytest.raises(UserError, match=sentence):
        inpaint(image, HOLE, **options)


def test_empty_batches_give_empty_batches_of_their_kind(inpaint, probabilistic, image):
    assert inpaint([], []) == []
    arrays = inpaint(image[None][:0], HOLE[None][:0])
    assert (arrays.shape, arrays.dtype) == ((0, HEIGHT, WIDTH, 3), np.uint8)
    tensor = torch.zeros(0, 3, HEIGHT, WIDTH)
    assert inpaint(tensor, torch.zeros(0, HEIGHT, WIDTH)).shape == tensor.shape
    several = probabilistic(tensor, torch.zeros(0, HEIGHT, WIDTH), samples=2)
    assert [each.shape for each in several] == [tensor.shape] * 2


def test_masked_array_gives_what_its_plain_array_gives(inpaint, image):
    result = inpaint(np.ma.masked_array(image), np.ma.masked_array(HOLE))
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, inpaint(image, HOLE))


@pytest.mark.parametrize(("mode", "plain"), [("RGBa", "RGBA"), ("La", "LA")])
def test_premultiplied_opacity_stays(inpaint, image, mode, plain):
    opaque = Image.fromarray(image).convert(plain)
    assert inpaint(opaque.convert(mode), HOLE).mode == plain


def test_damaged_file_is_refused(inpaint, image, tmp_path):
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "png")
    Path(tmp_path, "cut.png").write_bytes(sink.getvalue()[:-100])
    with pytest.raises(ImageError, match=r"cut\.png: the image is damaged"):
        inpaint(tmp_path / "cut.png", HOLE)


def test_bfloat16_is_close_to_float32_and_not_equal(spn, inpaint, make):
    image, hole = make.photograph(64, 64), make.hole(64, 64, slice(10, 40), slice(8, 50))
    half = load(spn.location, precision="bfloat16")
    predictions = [
        one.predictor.predict(image[None], hole[None].astype(np.uint8)).astype(int)
        for one in (half, inpaint)
    ]
    assert 0 < np.abs(predictions[0] - predictions[1]).mean() < 4
    assert half(image, hole).dtype == np.uint8


def test_generator_that_continues_training_predicts_outside_inference_mode(inpaint, make):
    """Its caches must not hold inference tensors, which autograd refuses."""
    generator, seen = inpaint.predictor.generator, []
    predictor = Predictor(generator=generator, size_multiple=4, trains_on=True)
    pair = make.photograph(64, 64)[None], np.ones((1, 64, 64), np.uint8)
    hook = generator.register_forward_hook(
        lambda *_: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
    )
    predictions = [one.predict(*pair) for one in (predictor, inpaint.predictor)]
    hook.remove()
    assert seen == [(False, False), (True, False)]
    np.testing.assert_array_equal(*predictions)
