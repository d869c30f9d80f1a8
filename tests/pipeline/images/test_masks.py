"""One rule separates hole and known pixels in every mask file, wherever it comes from."""

import io
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import ImageError, RejectedError, UserError
from infill.pipeline.images import (
    MaskRule,
    decode,
    encode_mask,
    read_header,
    read_mask,
    read_mask_form,
    read_opacity,
)
from infill.pipeline.images.mask_layers import layer_hole
from infill.pipeline.images.masks import decode_levels

VALUES = np.array([[0, 127, 128, 255]], np.uint8)
BRIGHT = [[False, False, True, True]]


def saved(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def test_mask_is_hole_where_brighter_than_127_and_polarity_turns_it():
    coloured = np.stack([VALUES] * 3, axis=-1)
    clear = np.concatenate([coloured, np.zeros((1, 4, 1), np.uint8)], axis=-1)  # ignored
    for pixels in (VALUES, coloured, clear):
        file = saved(Image.fromarray(pixels))
        assert read_mask(file).tolist() == BRIGHT
        black = MaskRule(polarity="black")
        assert read_mask(file, black).tolist() == [[True, True, False, False]]


def test_brightness_weighs_colours_as_bt_601_does():
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 0]]], np.uint8)
    expected = [[False, True, False, True]]  # 76, 150, 29 and 130
    assert read_mask(saved(Image.fromarray(pixels))).tolist() == expected


def test_both_decoders_give_the_same_levels_for_every_file_that_both_read():
    noise = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    coloured = Image.fromarray(cv2.GaussianBlur(noise, (9, 9), 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [saved(coloured.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    files += [
        saved(coloured, "jpeg"),
        saved(coloured.convert("L"), "jpeg"),
        saved(coloured, "webp"),
    ]
    files += [saved(coloured, exif=exif), saved(coloured, "jpeg", exif=exif)]
    for file in files:
        levels = decode_levels(file, read_header(file))
        np.testing.assert_array_equal(decode(file, 10_000, "mask").pixels, levels)


def test_sixteen_bits_keep_their_high_byte():
    deep = VALUES.astype(np.uint16) * 256 + 255
    for pixels in (deep, np.stack([deep] * 3, axis=-1)):
        file = cv2.imencode(".png", pixels)[1].tobytes()
        assert read_mask(file).tolist() == BRIGHT


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0, 7, 255], [0, 7, 255]),
        ([0, 255, 256], [0, 0, 1]),
        ([-3, 0, 255], [0, 0, 255]),
        ([-3, 255, 2**17], [0, 0, 255]),
    ],
)
def test_deep_levels_are_the_low_byte_or_the_high_one_and_never_wrap(values, levels):
    file = saved(Image.fromarray(np.array([values], np.int32)), "tiff")
    read = decode_levels(file, read_header(file))
    assert (read.dtype, read.shape) == (np.uint8, (1, 3, 1))
    assert read.ravel().tolist() == levels


def test_levels_of_other_formats_are_not_read():
    icon = saved(Image.fromarray(VALUES), "ico")
    with pytest.raises(RejectedError, match="cannot be decoded"):
        decode_levels(icon, read_header(saved(Image.fromarray(VALUES))))


def test_larger_and_damaged_masks_are_refused():
    file = saved(Image.fromarray(VALUES))
    with pytest.raises(ImageError, match="pixels"):
        read_mask(file, max_pixels=3)
    for data in (b"", b"no picture", file[:-20]):
        with pytest.raises(ImageError, match="the mask"):
            read_mask(data, max_pixels=3)


def test_written_mask_reads_back():
    hole = np.random.default_rng(1).random((9, 14)) < 0.3
    for array in (hole, hole.astype(np.uint8)):
        np.testing.assert_array_equal(read_mask(encode_mask(array)), hole)


MARK = np.zeros((8, 10), bool)
MARK[2:5, 3:7] = True


def layered(colour: tuple[int, int, int], opaque: np.ndarray, under: int = 0) -> bytes:
    """Return a PNG with one colour where it is opaque, and ``under`` below transparency."""
    pixels = np.full((*opaque.shape, 4), under, np.uint8)
    pixels[..., 3] = 255 * opaque
    pixels[opaque, :3] = colour
    return saved(Image.fromarray(pixels))


def test_labels_are_refused_with_the_threshold_that_reads_them():
    palette = Image.fromarray(MARK.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    for labels, levels in (
        (Image.fromarray(MARK.astype(np.uint8)), "0 to 1"),
        (palette, "0 to 38"),
    ):
        with pytest.raises(ImageError, match=f"levels are {levels}.*mask_threshold") as caught:
            read_mask(saved(labels))
        assert caught.value.code == "empty_mask"
        np.testing.assert_array_equal(read_mask(saved(labels), MaskRule(threshold=0)), MARK)


def test_sixteen_bit_labels_are_not_rounded_away():
    labels = cv2.imencode(".png", MARK.astype(np.uint16) * 3)[1].tobytes()
    np.testing.assert_array_equal(read_mask(labels, MaskRule(threshold=0)), MARK)


def erased_photograph(erased: np.ndarray) -> bytes:
    """Return a picture of many colours that is transparent where it is erased."""
    pixels = np.random.default_rng(0).integers(0, 256, (*erased.shape, 4), np.uint8)
    pixels[..., 3] = 255 * ~erased
    return saved(Image.fromarray(pixels))


WIDE = np.zeros((8, 10), bool)
WIDE[:, :5] = True
"""Half of the image: of one colour, neither side is the hole by rule."""


@pytest.mark.parametrize(
    ("file", "form"),
    [
        (layered((0, 0, 0), MARK), "opaque"),
        (layered((255, 0, 0), MARK), "opaque"),
        (layered((255, 0, 0), MARK, under=255), "opaque"),
        (layered((255, 255, 255), MARK), "opaque"),
        (layered((255, 255, 255), MARK, under=255), "opaque"),
        (layered((0, 0, 0), MARK, under=255), "opaque"),
        (saved(Image.fromarray(np.dstack([0 * MARK, 255 * MARK]).astype(np.uint8))), "opaque"),
        (layered((255, 255, 255), ~MARK, under=255), "transparent"),
        (layered((0, 0, 0), ~MARK), "transparent"),
        (layered((30, 90, 40), ~MARK), "transparent"),
        (erased_photograph(MARK), "transparent"),
    ],
)
def test_paint_on_transparency_and_what_is_erased_are_the_hole(file, form):
    hole, found = read_mask_form(file)
    np.testing.assert_array_equal(hole, MARK)
    assert found == form


@pytest.mark.parametrize(
    ("rule", "form"),
    [
        (MaskRule(), "brightness"),
        (MaskRule(polarity="black"), "brightness"),
        (MaskRule(channel="brightness"), "brightness"),
        (MaskRule(channel="alpha"), "opaque"),
        (MaskRule(channel="alpha", polarity="black"), "transparent"),
        (MaskRule(channel="red"), "red"),
        (MaskRule(channel="blue", polarity="black"), "blue"),
    ],
    ids=str,
)
def test_what_marks_the_hole_is_the_channel_that_the_rule_names(rule, form):
    pixels = np.full((8, 10, 4), 255, np.uint8)
    pixels[~MARK] = 0
    whole = pixels if rule.channel == "alpha" else pixels[..., :3]
    hole, found = read_mask_form(saved(Image.fromarray(whole)), rule)
    np.testing.assert_array_equal(hole, MARK if rule.polarity == "white" else ~MARK)
    assert found == form


def test_see_through_strokes_of_about_one_colour_are_the_hole():
    pixels = np.zeros((8, 10, 4), np.uint8)
    pixels[MARK] = (200, 30, 40, 100)
    pixels[2, 3] = (210, 20, 40, 90)
    pixels[5, 3] = (190, 30, 40, 30)  # a soft edge
    np.testing.assert_array_equal(read_mask(saved(Image.fromarray(pixels))), MARK)


@pytest.mark.parametrize(
    ("opaque_rows", "form"), [(2, "opaque"), (3, None), (4, "transparent")], ids=str
)
def test_of_one_colour_a_third_is_the_hole_and_half_is_not(opaque_rows, form):
    pixels = np.full((6, 5, 4), 90, np.uint8)
    pixels[..., 3] = 255 * (np.arange(6) < opaque_rows)[:, None]
    found = layer_hole(pixels, MaskRule())
    assert (found and found[1]) == form
    if found:
        np.testing.assert_array_equal(found[0], (pixels[..., 3] > 0) == (form == "opaque"))


def strokes(low: int, high: int, others: dict[int, int], level: int = 0) -> np.ndarray:
    """Return a layer of white strokes, grey and alpha, uint8 [2, 8, 2].

    Args:
        low: opacity of the row above.
        high: opacity of the row below, which is white.
        others: levels of that row's first pixels, by their opacity.
        level: level of the row above.
    """
    pixels = np.full((2, 8, 2), (level, low), np.uint8)
    pixels[1] = (255, high)
    for at, (opacity, grey) in enumerate(others.items()):
        pixels[1, at] = (grey, opacity)
    return pixels


@pytest.mark.parametrize(
    ("pixels", "known"),
    [
        (strokes(0, 250, {}), True),
        (strokes(0, 250, {225: 0}), False),  # the highest tenth, and its colour is another
        (strokes(0, 250, {224: 0}), True),
        (strokes(0, 220, {198: 0}), False),
        (strokes(50, 250, {230: 0}), False),
        (strokes(50, 250, {229: 0}), True),
        (strokes(1, 250, {}, level=128), False),
        (strokes(1, 250, {}, level=127), True),
        (strokes(1, 250, {200: 127, 249: 128}), True),
        (strokes(1, 250, {249: 127}), False),
    ],
)
def test_strokes_have_their_colour_in_the_highest_tenth_of_opacity(pixels, known):
    found = layer_hole(pixels, MaskRule())
    assert (found is not None) == known
    if found:
        level, alpha = pixels[..., 0], pixels[..., 1]
        opaque = alpha > (int(alpha.min()) + int(alpha.max())) / 2
        np.testing.assert_array_equal(found[0], opaque & (level > 127))
        assert found[1] == "opaque"


@pytest.mark.parametrize(
    ("low", "polarity", "known"), [(0, "white", True), (1, "white", False), (0, "black", False)]
)
def test_a_layer_of_one_colour_needs_clear_pixels_and_white(low, polarity, known):
    pixels = np.full((8, 10, 4), 200, np.uint8)
    pixels[..., 3] = np.where(MARK, 255, low)
    found = layer_hole(pixels, MaskRule(polarity=polarity))
    assert (found is not None) == known


@pytest.mark.parametrize("colours", [1, 3])
def test_levels_of_one_colour_differ_by_24_at_most(colours):
    for channel in range(colours):
        for difference, known in ((24, True), (25, False)):
            pixels = np.full((8, 10, colours + 1), 90, np.uint8)
            pixels[2, 3, channel] += difference
            pixels[..., -1] = 255 * MARK
            assert (layer_hole(pixels, MaskRule()) is not None) == known


def test_a_photograph_may_be_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 2), np.uint8)
    pixels[..., 1] = 255 * ~MARK
    hole, form = read_mask_form(saved(Image.fromarray(pixels)))
    np.testing.assert_array_equal(hole, MARK)
    assert form == "transparent"


def test_a_photograph_may_lose_more_than_half():
    erased = np.ones((40, 40), bool)
    erased[10:20, 5:25] = False
    np.testing.assert_array_equal(read_mask(erased_photograph(erased)), erased)


def coloured(counts: list[int], side: int = 20) -> np.ndarray:
    """Return a layer whose upper part has pixels of many colours, the rest being transparent.

    The colours differ in single channels and have sums in common.
    """
    colours = [(number % 7 * 30, number // 7 * 30, 200 - number % 7 * 30) for number in range(49)]
    pixels = np.zeros((side * side, 4), np.uint8)
    shown = np.repeat(np.array(colours, np.uint8)[: len(counts)], counts, axis=0)
    pixels[: len(shown), :3], pixels[: len(shown), 3] = shown, 255
    return pixels.reshape(side, side, 4)


def test_a_photograph_has_32_colours_no_two_of_which_cover_half():
    for counts, known in (
        ([5] * 32, True),
        ([5] * 31, False),
        ([5] * 48, True),
        ([30, 30] + [2] * 30, True),
        ([31, 30] + [2] * 30, False),
        ([61] + [1] * 31, False),
    ):
        pixels = coloured(counts)
        found = layer_hole(pixels, MaskRule())
        if known:
            assert found is not None
            np.testing.assert_array_equal(found[0], pixels[..., 3] == 0)
            assert found[1] == "transparent"
        else:
            assert found is None


def test_colours_of_a_large_photograph_are_counted_at_some_of_its_pixels():
    shape = (300, 1100)  # Every second row and every fifth column are looked at.
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[50:90, 200:700, 3] = 0
    found = layer_hole(pixels, MaskRule())
    assert found is not None
    np.testing.assert_array_equal(found[0], pixels[..., 3] == 0)
    few = pixels.copy()
    few[::2, ::5, :3] = np.where(np.arange(220) % 2, 200, 90)[None, :, None]
    assert layer_hole(few, MaskRule()) is None
    unseen = pixels.copy()
    unseen[::2, :, 3] = 0
    unseen[:, ::5, 3] = 0
    assert layer_hole(unseen, MaskRule()) is None


def test_opacity_is_read_as_it_is_and_nothing_where_there_is_none():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 4), np.uint8)
    for file in (saved(Image.fromarray(pixels)), saved(Image.fromarray(pixels), "tiff")):
        np.testing.assert_array_equal(read_opacity(file), pixels[..., 3])
    assert read_opacity(saved(Image.fromarray(pixels[..., :3]))) is None
    assert read_opacity(saved(Image.fromarray(pixels[..., :3]), "tiff")) is None
    for kind in ("png", "tiff"):
        assert read_opacity(saved(Image.fromarray(pixels), kind), max_pixels=80) is not None
        with pytest.raises(ImageError, match="the image") as refused:
            read_opacity(saved(Image.fromarray(pixels), kind), max_pixels=79)
        assert refused.value.code == "too_many_pixels"


def dimmed(low: int) -> bytes:
    """Return one dark colour with two opacities, neither of which is 0."""
    pixels = np.full((8, 10, 4), 30, np.uint8)
    pixels[..., 3] = np.where(MARK, low, low + 60)
    return saved(Image.fromarray(pixels))


def two_colours() -> bytes:
    """Return a mask of black and white, of which a corner is transparent."""
    pixels = np.where(MARK[..., None], 255, 0).astype(np.uint8).repeat(4, axis=2)
    pixels[..., 3] = 255
    pixels[:2, :2, 3] = 0
    return saved(Image.fromarray(pixels))


@pytest.mark.parametrize(
    "file",
    [layered((255, 0, 0), WIDE), layered((9, 9, 9), ~WIDE), dimmed(0), dimmed(40), two_colours()],
    ids=["half red", "half dark", "strokes at 0 and 60", "no opacity of 0", "black and white"],
)
@pytest.mark.parametrize("polarity", ["white", "black"])
@pytest.mark.parametrize("threshold", [0, 127, 254])
def test_every_advice_of_a_refusal_succeeds(file, polarity, threshold):
    rule = MaskRule(polarity=polarity, threshold=threshold)
    if sentence := refusal(file, rule):
        followed = advised(sentence, rule)
        assert followed, sentence
        for better in followed:
            read_mask(file, better)


@pytest.mark.parametrize("channel", ["auto", "brightness", "alpha", "red"])
@pytest.mark.parametrize("polarity", ["white", "black"])
@pytest.mark.parametrize("opacity", [None, 0, 90, 255, "varies"])
@pytest.mark.parametrize("levels", [[0, 0], [255, 255], [0, 1], [200, 255]])
def test_advice_on_masks_that_mark_nothing_or_everything_succeeds(
    channel, polarity, opacity, levels
):
    pixels = np.array([levels], np.uint8)[..., None].repeat(4, axis=2)
    pixels[..., 3] = [[10, 20]] if opacity == "varies" else opacity or 0
    file = saved(Image.fromarray(pixels if opacity is not None else pixels[..., :3]))
    rule = MaskRule(channel=channel, polarity=polarity)
    if sentence := refusal(file, rule):
        usable = levels[0] != levels[1] or opacity == "varies"
        followed = advised(sentence, rule)
        assert bool(followed) == usable, sentence
        for better in followed:
            read_mask(file, better)


def two(*levels: tuple[int, ...]) -> np.ndarray:
    """Return a mask of two pixels, uint8 [1, 2, C]."""
    return np.array([levels], np.uint8)


NOTHING, ALL = "nothing is marked as hole: ", "the whole image is marked as hole: "
BOTH = "a mask has pixels of both kinds, "


@pytest.mark.parametrize(
    ("mask", "rule", "sentence"),
    [
        (
            two((3,), (3,)),
            {},
            f"no pixel is brighter than 127 (all are 3); {BOTH}white in the hole",
        ),
        (
            two((3,), (4,)),
            {"channel": "brightness"},
            "no pixel is brighter than 127 (its levels are 3 to 4); "
            "to separate them give mask_threshold=3",
        ),
        (
            two((3,), (5,)),
            {"channel": "red"},
            "no pixel is more red than 127 (its levels are 3 to 5); "
            "to separate them give mask_threshold from 3 to 4",
        ),
        (
            two((3, 9), (3, 9)),
            {"channel": "alpha"},
            f"no pixel is more opaque than 127 (all are 9); {BOTH}opaque in the hole",
        ),
        (
            two((3, 200), (3, 200)),
            {"channel": "alpha", "polarity": "black"},
            f"every pixel is more opaque than 127 (all are 200); {BOTH}transparent in the hole",
        ),
        (
            two((3, 9), (5, 9)),
            {"channel": "alpha"},
            "no pixel is more opaque than 127 (all are 9); "
            "give mask_channel=brightness and mask_threshold=4",
        ),
        *(
            (
                two((3, low), (3, high)),
                {"channel": "brightness"},
                f"no pixel is brighter than 127 (all are 3); give mask_channel=alpha{at}",
            )
            for low, high, at in (
                (127, 200, ""),
                (100, 128, ""),
                (100, 127, " and mask_threshold=113"),
                (128, 201, " and mask_threshold=164"),
            )
        ),
    ],
)
def test_levels_on_one_side_are_named_with_what_separates_them(mask, rule, sentence):
    assert refusal(mask, MaskRule(**rule)) == NOTHING + sentence
    opposite = "white" if rule.get("polarity") == "black" else "black"
    words = {"white": "black", "black": "white", "opaque": "transparent", "transparent": "opaque"}
    turned = re.sub(r"\w+(?= in the hole)", lambda found: words[found[0]], sentence)
    assert refusal(mask, MaskRule(**{**rule, "polarity": opposite})) == ALL + turned


@pytest.mark.parametrize(
    ("alpha", "at"), [((0, 255), ""), ((0, 61), " and mask_threshold=30")], ids=["whole", "dim"]
)
@pytest.mark.parametrize("under", [0, 255])
def test_unclear_transparency_is_named_with_every_cure(alpha, at, under):
    cures = [
        f"mask_channel=alpha and mask_polarity=white{at} if opaque pixels are the hole",
        f"mask_channel=alpha and mask_polarity=black{at} if transparent ones are",
    ]
    if under > 127:
        cures.append("mask_channel=brightness to ignore transparency")
    unclear = (
        "the mask has transparent pixels, and its colours and its transparency do not show which "
        "pixels are the hole"
    )
    mask = two((under, alpha[0]), (90, alpha[1]))
    assert refusal(mask, MaskRule()) == f"{unclear}: give " + ", ".join(
        [*cures[:-1], f"or {cures[-1]}"]
    )
    with pytest.raises(ImageError) as caught:
        read_mask(mask, fields=None)
    assert str(caught.value) == f"{unclear}: send a mask without transparency, white in the hole"


def refusal(mask: bytes | np.ndarray, rule: MaskRule) -> str:
    """Return the sentence that refuses a mask; empty if it is read."""
    try:
        read_mask_form(mask, rule)
    except ImageError as error:
        return str(error)
    return ""


def advised(sentence: str, rule: MaskRule) -> list[MaskRule]:
    """Return the rules that a refusal advises, with what they leave as it was."""
    rules = []
    for part in re.split(r", (?:or )?|; ", sentence):
        fields = dict(re.findall(r"mask_(\w+)(?:=| from )(\w+)", part))
        if fields:
            given = {k: int(v) if k == "threshold" else v for k, v in fields.items()}
            rules.append(replace(rule, **given))
    return rules


def test_unclear_transparency_is_named_with_the_fields_that_decide():
    file = layered((255, 0, 0), WIDE)
    with pytest.raises(ImageError, match="transparen.*masks.channel=alpha.*masks.polarity=black"):
        read_mask(file, fields="masks.")
    with pytest.raises(ImageError, match="transparent pixels") as caught:
        read_mask(file, fields=None)
    assert "channel" not in str(caught.value)
    for polarity, hole in (("white", WIDE), ("black", ~WIDE)):
        rule = MaskRule(channel="alpha", polarity=polarity)
        np.testing.assert_array_equal(read_mask(file, rule), hole)


def test_white_paint_on_a_clear_layer_is_the_hole_up_to_its_soft_edge():
    pixels = np.zeros((1, 6, 4), np.uint8)
    pixels[0, :4] = 255
    pixels[0, :, 3] = (255, 255, 128, 127, 0, 0)
    expected = [[True, True, True, False, False, False]]
    assert read_mask(saved(Image.fromarray(pixels))).tolist() == expected
    pixels[..., :3] = 255 - pixels[..., :3]
    assert (
        read_mask(saved(Image.fromarray(pixels)), MaskRule(polarity="black")).tolist() == expected
    )


def test_transparency_that_says_nothing_is_ignored():
    for opacity in (0, 90, 255):
        pixels = np.repeat((255 * MARK.astype(np.uint8))[..., None], 4, axis=2)
        pixels[..., 3] = opacity
        np.testing.assert_array_equal(read_mask(saved(Image.fromarray(pixels))), MARK)


def test_one_colour_may_hold_the_mask():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    for at, colour in enumerate(("red", "green", "blue")):
        one = pixels.copy()
        one[..., at] = 140 * MARK  # which is dark by itself
        for image in (one, one[..., at]):
            file = saved(Image.fromarray(image))
            np.testing.assert_array_equal(read_mask(file, MaskRule(channel=colour)), MARK)
    with pytest.raises(ImageError, match="no transparency to read.*mask_channel"):
        read_mask(saved(Image.fromarray(pixels)), MaskRule(channel="alpha"))


@pytest.mark.parametrize(
    ("level", "rule", "code", "sentence"),
    [
        (0, MaskRule(), "empty_mask", "no pixel is brighter than 127 .all are 0"),
        (255, MaskRule(), "full_mask", "every pixel is brighter.*white in the hole"),
        (0, MaskRule(polarity="black"), "full_mask", "no pixel is brighter.*black in the hole"),
        (255, MaskRule(polarity="black"), "empty_mask", "every pixel is brighter than 127"),
    ],
)
def test_mask_that_marks_nothing_or_everything_is_refused(level, rule, code, sentence):
    for mask in (np.full((3, 4), level, np.uint8), saved(Image.new("L", (4, 3), level))):
        with pytest.raises(ImageError, match=sentence) as caught:
            read_mask(mask, rule)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "fields", [{"threshold": 255}, {"threshold": -1}, {"polarity": "grey"}, {"channel": "luma"}]
)
def test_impossible_rules_are_refused(fields):
    with pytest.raises(UserError, match=f"masks: {next(iter(fields))}"):
        MaskRule(**fields)
